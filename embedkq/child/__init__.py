"""what runs in a child process. Small and quick to import: no Kafka client, no pebble, no dill until a job comes."""
