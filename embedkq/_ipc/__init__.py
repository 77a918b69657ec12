"""What the host and its child processes both use to talk to each other."""
