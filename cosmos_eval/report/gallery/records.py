"""The records of a gallery. Pictures are encoded, so that a page can embed them as they are."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from cosmos_eval.types import MapKind

if TYPE_CHECKING:
    from cosmos_eval.report.attention.compute import WordShare


class Picture(NamedTuple):
    """An encoded image file: its bytes, media type (`image/webp`...) and size in pixels."""

    content: bytes
    media_type: str
    width: int
    height: int

    @property
    def address(self) -> str:
        """The picture as the address of an image on a page."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.content).decode()}"


@dataclass(frozen=True, kw_only=True)
class Example:
    """What is shown of a data set; `model` and `protocol` are empty where it is of several."""

    kind: ClassVar = ""
    in_a_round: ClassVar = 1
    dataset: str
    protocol: str = ""
    model: str = ""


@dataclass(frozen=True, kw_only=True)
class RetrievalExample(Example):
    """A query of a result with the rank of its first right item, from 1, and a right item. `found`
    are the first items of the model and `right` tells which of them belong to the query; both are
    empty without embeddings. Items are pictures or captions, by the `direction`."""

    kind: ClassVar = "retrieval"
    direction: Literal["image_to_text", "text_to_image"]
    rank: int
    query: Picture | str
    expected: Picture | str
    found: Sequence[Picture | str]
    right: Sequence[bool]


class Outcome(NamedTuple):
    """What a model answered, and whether that is right."""

    answer: str
    right: bool


@dataclass(frozen=True, kw_only=True)
class SampleExample(Example):
    """A small image, its caption or class, and the outcomes by model. `group` is the class, `words`
    counts those of the caption, `size` is the share of the image's pixels."""

    kind: ClassVar = "samples"
    in_a_round: ClassVar = 6  # they are small
    image: Picture
    text: str
    outcomes: Mapping[str, Outcome]
    group: str = ""
    words: int | None = None
    size: float | None = None


@dataclass(frozen=True, kw_only=True)
class SegmentationExample(Example):
    """An image, its true label map, and the predictions by model, pictures of one size. Maps have
    the colours of `legend`, by class, and are transparent where there is no class."""

    kind: ClassVar = "segmentation"
    name: str
    image: Picture
    truth: Picture
    predictions: Mapping[str, Picture]
    legend: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class AttentionExample(Example):
    """Attention maps for a caption over an image, their kinds and the weighed words, by model. Maps
    have the size of the image and are fainter where there is little attention."""

    kind: ClassVar = "attention"
    name: str
    caption: str
    image: Picture
    maps: Mapping[str, Picture]
    kinds: Mapping[str, MapKind]
    words: Mapping[str, Sequence[WordShare]]


KINDS: Mapping[str, str] = {
    "samples": "samples",
    "segmentation": "segmentation",
    "attention": "what a text lights up",
    "retrieval": "retrieval",
}
"""The kinds of examples in the order of a page, with their names in notes."""


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """All examples, and one line for each thing that cannot be shown, with the reason."""

    retrieval: Sequence[RetrievalExample] = ()
    samples: Sequence[SampleExample] = ()
    segmentation: Sequence[SegmentationExample] = ()
    attention: Sequence[AttentionExample] = ()
    notes: Sequence[str] = ()

    def sections(self, kind: str) -> list[list[Any]]:
        """Group the examples of a kind by protocol, data set and model, in alphabetical order."""
        where = attrgetter("protocol", "dataset", "model")
        groups = groupby(sorted(getattr(self, kind), key=where), where)
        return [list(group) for _, group in groups]

    @property
    def rounds(self) -> int:
        """The number of rounds of examples in the longest section."""
        sections = (some for kind in KINDS for some in self.sections(kind))
        return max((-(-len(some) // some[0].in_a_round) for some in sections), default=0)

    def limited(self, rounds: int) -> Gallery:
        """Keep the first rounds of every section; notes state how many examples are left out."""
        kept: dict[str, Any] = {
            kind: [
                one
                for section in self.sections(kind)
                for one in section[: rounds * section[0].in_a_round]
            ]
            for kind in KINDS
        }
        left_out = [
            f"{len(given) - len(kept[kind])} of {len(given)} examples of {name} are left out: the "
            "page would be too large with them"
            for kind, name in KINDS.items()
            if len(given := getattr(self, kind)) > len(kept[kind])
        ]
        return replace(self, **kept, notes=(*self.notes, *left_out))


def pictures_of(example: Example) -> Iterator[Picture]:
    """Yield the pictures of an example; one may come twice."""
    for value in vars(example).values():
        if isinstance(value, Picture):
            yield value
        elif isinstance(value, Mapping):
            yield from (item for item in value.values() if isinstance(item, Picture))
        elif isinstance(value, Sequence):
            yield from (item for item in value if isinstance(item, Picture))
