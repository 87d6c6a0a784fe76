"""Metrics, intervals and paired tests: pure functions of arrays."""
