"""Wordings: other texts for the same images and classes, with which a protocol is measured too."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

LetterCase = Literal["lower", "upper", "title"]

_SEPARATOR = "-wording-"


@dataclass(frozen=True, kw_only=True)
class Wording:
    """How the texts of a protocol are changed.

    All changes that are declared are made, in the order of the fields.
    """

    # The name, which is a part of the names of protocol and result file.
    name: str
    # The number of a paraphrase by the grammar of scenes, from 1; None: no paraphrase.
    paraphrase: int | None = None
    # Words or names of classes, and what takes their place.
    synonyms: Mapping[str, str] = field(default_factory=dict, hash=False)
    # Whether a caption loses its first sentence if it has another one.
    drop_first_sentence: bool = False
    # The order of the sentences of a caption: `reversed`, or `shuffled-1` and so on; None: as is.
    sentence_order: str | None = None
    # Prompt templates, or the name of a known set of them. Captions take exactly one template.
    templates: tuple[str, ...] | str | None = None
    # The case of all letters; None: as they are.
    case: LetterCase | None = None

    @property
    def record(self) -> dict[str, Any]:
        """The name and all changes, as results record them. Fields without a change are missing."""
        record: dict[str, Any] = {"name": self.name}
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            if entry.name != "name" and value:
                record[entry.name] = list(value) if isinstance(value, tuple) else value
        return record


def worded_protocol_name(protocol_name: str, wording: str) -> str:
    """Return the name of a protocol with another wording: `cosmos-wording-lower`."""
    return f"{protocol_name}{_SEPARATOR}{wording}"


def published_protocol_name(protocol_name: str) -> str:
    """Return the name of the protocol with its own wording: `cosmos` for `cosmos-wording-lower`."""
    return protocol_name.partition(_SEPARATOR)[0]


def wording_name(protocol_name: str) -> str:
    """Return the name of the wording: `lower` for `cosmos-wording-lower`; empty for `cosmos`."""
    return protocol_name.partition(_SEPARATOR)[2]
