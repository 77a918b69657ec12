"""The only package that imports kafka-python: its clients, errors and private names. Any thread,
unless a file says otherwise."""
