"""Images with right and wrong captions: reading and checking them."""
