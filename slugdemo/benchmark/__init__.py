"""Measurements against bars: speed.py in ratios of one run, quality.py on held-out pictures."""
