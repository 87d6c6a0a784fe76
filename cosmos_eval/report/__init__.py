"""All results as one web page that needs no other file. Importing this package imports no torch.

`content_of` compares everything that can be compared, `to_page` writes it with pictures.
"""

from __future__ import annotations

from cosmos_eval.report.content import Content, content_of
from cosmos_eval.report.page import (
    LIMIT,
    Page,
    require_page_name,
    room_for_pictures,
    to_page,
    write_page,
)

__all__ = [
    "LIMIT",
    "Content",
    "Page",
    "content_of",
    "require_page_name",
    "room_for_pictures",
    "to_page",
    "write_page",
]
