"""What runs in a child process, and nothing else: no Kafka client, no pool, nothing of the host."""
