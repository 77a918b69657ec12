"""The only home of kafka-python: its clients, its errors, its private names, and what the broker
answers. Any thread, if a file says no more."""
