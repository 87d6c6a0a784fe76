"""Training data: shards, captions and the embedded scenes."""
