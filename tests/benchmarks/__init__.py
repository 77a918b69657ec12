"""Benchmarks: each figure beside its floor, measured in turns within one run. `python -m benchmarks --help`, with `tests` on the path.

    families/      throughput, sending, latency, limits, growth, guest, lasting: one family of figures each
    peers.py       the same work through other job queues, `make bench-peers`
    figures.py     what a benchmark is: trials, figures, goals; medians and ratios
    bed.py         the broker, topics and jobs that trials find there
    alone.py       a function in a fresh Python process
    raw.py         the floors: kafka-python alone, bare processes
    hosting.py     the embedkq side: hosts of a worker, each in a process of its own
    work.py        the jobs
    processes.py  what processes use
    idling.py     an app and its idle worker; imports nothing that an app without one would not have
    webapp.py     the Flask app that hosts a worker      requesting.py  who asks it
    report.py      the table and the JSON

A trial runs in a process of its own, embedkq's as much as its floor's. No figure is asserted anywhere.
"""
