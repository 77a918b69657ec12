"""Workers and a broker under a seeded random mix of faults: `make chaos SEED=1 DURATION=180`."""
