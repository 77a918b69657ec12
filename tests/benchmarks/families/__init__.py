"""One family of figures a module."""
