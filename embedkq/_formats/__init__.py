"""What embedkq writes into Kafka and reads from there, as bytes and their meaning. No input or
output; any process, any thread."""
