"""Wordings: other texts for the same images and classes.

A protocol can be measured with other wordings to see how much its numbers depend on the texts.
"""

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

    All declared changes are made. A caption is paraphrased, shortened and put into another order
    first. Synonyms, the template and the case follow.
    """

    # The name. It becomes a part of the names of the protocol and of the result file.
    name: str
    # The number of a paraphrase by the grammar of scenes, from 1; None: no paraphrase.
    paraphrase: int | None = None
    # Words or names of classes, each with the text that replaces it.
    synonyms: Mapping[str, str] = field(default_factory=dict, hash=False)
    # True to leave out the first sentence of each caption that has several.
    drop_first_sentence: bool = False
    # The order of the sentences of a caption: `reversed`, or `shuffled-1` and so on; None: the
    # order stays.
    sentence_order: str | None = None
    # Prompt templates, or the name of a known set of them. Captions take exactly one template.
    templates: tuple[str, ...] | str | None = None
    # The case of all letters; None: the case stays.
    case: LetterCase | None = None

    @property
    def record(self) -> dict[str, Any]:
        """The name and the changes, as results record them, without the other fields."""
        record: dict[str, Any] = {"name": self.name}
        for change in dataclasses.fields(self):
            value = getattr(self, change.name)
            if change.name != "name" and value:
                record[change.name] = list(value) if isinstance(value, tuple) else value
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
