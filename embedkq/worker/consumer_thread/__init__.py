"""Polls, validates, commits and follows rebalances. The consumer thread, and the I/O thread of
kafka-python where a file says so."""
