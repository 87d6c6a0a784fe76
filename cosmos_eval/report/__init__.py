"""All results as one web page that needs no other file; attention maps and label maps of an image.

`content.content_of` compares everything that can be compared, `gallery.collect` draws examples, and
`page.to_page` writes both. These import torch only where a model has to be loaded.
"""
