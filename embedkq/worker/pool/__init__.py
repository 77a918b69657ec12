"""The child processes and what they are given. The control thread; pebble has threads of its
own."""
