"""Images with a class each: reading and checking them."""
