"""Audit of benchmarks by stored samples: groups of doubtful items, and rankings without them."""
