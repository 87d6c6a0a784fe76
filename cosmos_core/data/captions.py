"""The caption sentences of a sample, in DreamLIP's and PixelProse's formats."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# github.com/zyf0619sjtu/DreamLIP: raw, then short and long captions of three captioners.
DREAMLIP_KEYS = (
    "raw_caption",
    "shortIB_captions",
    "longIB_captions",
    "shortSV_captions",
    "longSV_captions",
    "shortLLA_captions",
    "longLLA_captions",
)
PIXELPROSE_KEYS = ("original_caption", "caption")


def caption_sentences(record: Mapping[str, Any]) -> list[str]:
    """All sentences of a sample's JSON record, stripped, blank ones left out.

    Raises ValueError where the record has none of the known keys.
    """
    if any(key in record for key in DREAMLIP_KEYS):
        values = [record[key] for key in DREAMLIP_KEYS if key in record]
        listed = [[value] if isinstance(value, str) else value for value in values]
        sentences = [sentence for group in listed for sentence in group]
    elif any(key in record for key in PIXELPROSE_KEYS):
        original = [record["original_caption"]] if record.get("original_caption") else []
        sentences = original + re.split(r"\n|</s>|\.", record.get("caption", ""))
    else:
        raise ValueError(f"no caption key among {', '.join(sorted(record)) or 'none'}")
    return [stripped for sentence in sentences if (stripped := sentence.strip())]
