"""Training data: shards, samples, loaders and the embedded scenes."""
