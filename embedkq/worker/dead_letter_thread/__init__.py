"""Writes dead letters. Starts with the first one."""
