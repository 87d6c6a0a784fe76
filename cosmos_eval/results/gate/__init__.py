"""The gate: are new results worse than a baseline by more than chance?"""
