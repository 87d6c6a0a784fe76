"""Images with captions: reading and checking them."""
