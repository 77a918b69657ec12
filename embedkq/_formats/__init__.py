"""The formats of everything that embedkq writes to Kafka and reads from it. No input or output; any
process, any thread."""
