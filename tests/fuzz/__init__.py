"""`make fuzz`: what anybody could send, changed at random from a seed, against all that reads it.
`fuzz -h` tells its options."""
