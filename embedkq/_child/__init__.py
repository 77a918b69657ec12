"""Code that runs only in child processes: no Kafka client, no pool, nothing from the host."""
