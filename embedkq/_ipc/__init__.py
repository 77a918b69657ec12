"""Communication between the host and its child processes, used by both."""
