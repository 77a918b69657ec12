"""What the threads of a worker send each other and share. Each attribute names the thread that
writes it."""
