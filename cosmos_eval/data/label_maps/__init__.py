"""Images with a label map each: reading and checking them."""
