"""Functions and classes that no child can import, as bytes: how `codec` pickles those of
`__main__`. Any thread; host and child."""
