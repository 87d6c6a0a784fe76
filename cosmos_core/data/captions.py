"""The caption sentences of a sample, in DreamLIP's and PixelProse's formats."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cosmos_core.data.problems import BadSampleError

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
# github.com/zyf0619sjtu/DreamLIP training/data.py at 84e073a, CsvDataset.split_caption.
_SENTENCE_END = re.compile(r"\n|</s>|[.]")


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, stripped, without their full stops; blank ones left out."""
    return [stripped for part in _SENTENCE_END.split(text) if (stripped := part.strip())]


def caption_sentences(record: Mapping[str, Any]) -> list[str]:
    """All sentences of a sample's JSON record, stripped, at least one.

    DreamLIP's captions are lists of sentences, or texts that are split into them; PixelProse's are
    an original caption, kept whole, and a text. Raises BadSampleError where there is none, or one
    that is no text.
    """
    if any(key in record for key in DREAMLIP_KEYS):
        found = [_sentences(key, record[key]) for key in DREAMLIP_KEYS if key in record]
    elif any(key in record for key in PIXELPROSE_KEYS):
        found = [[_text("original_caption", record.get("original_caption", ""))]]
        found.append(split_sentences(_text("caption", record.get("caption", ""))))
    else:
        keys = ", ".join(sorted(record)) or "none"
        raise BadSampleError("captions_missing", f"no caption key among: {keys}")
    sentences = [stripped for group in found for part in group if (stripped := part.strip())]
    if not sentences:
        raise BadSampleError("captions_missing", "every caption is empty")
    return sentences


def _sentences(key: str, value: Any) -> list[str]:
    """A list of sentences as it is, a text split into sentences (as FLAIR's presplit_captions.py,
    github.com/ExplainableML/flair, prepares the same data)."""
    if isinstance(value, list):
        return [_text(key, sentence) for sentence in value]
    return split_sentences(_text(key, value))


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise BadSampleError("captions_wrong", f"{key} holds a {type(value).__name__}, not text")
    try:
        value.encode()  # JSON can spell half a surrogate pair, which no tokenizer takes
    except UnicodeEncodeError as error:
        raise BadSampleError("captions_wrong", f"{key} is no valid Unicode") from error
    return value
