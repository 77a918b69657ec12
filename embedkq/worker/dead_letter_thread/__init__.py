"""The dead-letter thread writes dead letters. It starts with the first one."""
