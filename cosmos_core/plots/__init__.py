"""Pictures of a training run, as the bytes of PNG files."""
