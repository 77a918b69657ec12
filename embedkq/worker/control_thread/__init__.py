"""Decides what runs next and what became of it: offsets, keys, retries, crashes. The control
thread."""
