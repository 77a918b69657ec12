"""Pickles functions and classes that a child cannot import, such as those of `__main__`. Used by
`codec`. Any thread; host and child."""
