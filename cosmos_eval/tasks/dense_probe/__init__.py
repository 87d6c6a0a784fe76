"""Linear probes of patch features: segmentation and depth, by ridge regression or by AdamW.

Importing this package imports no torch: figures follow from stored samples without it.
"""
