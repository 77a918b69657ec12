"""How embedkq wrote and read commit metadata at commit 38cc483: its modules `notes` and `donemap`, unchanged but for their imports."""
