"""Runs callbacks on the thread that owns the worker."""
