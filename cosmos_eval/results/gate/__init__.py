"""The gate: are new results worse than a baseline by more than chance?

It fails closed: what cannot be compared is reported as a problem, never as a metric that passes.
"""
