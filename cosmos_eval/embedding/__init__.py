"""Embeddings of images and texts, and the cache that holds them."""
