"""The records of a gallery. Pictures are encoded, so that a page can embed them as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

from cosmos_eval.types import MapKind


class Picture(NamedTuple):
    """An encoded image file: its bytes, media type (`image/webp`...) and size in pixels."""

    content: bytes
    media_type: str
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class RetrievalExample:
    """A query of a result with the rank of its first right item, from 1, and a right item.

    `found` are the first items of the model and `right` tells which of them belong to the query;
    both are empty without embeddings. Items are pictures or captions, by the `direction`.
    """

    kind: ClassVar = "retrieval"
    model: str
    dataset: str
    protocol: str
    direction: Literal["image_to_text", "text_to_image"]
    rank: int
    query: Picture | str
    expected: Picture | str
    found: Sequence[Picture | str]
    right: Sequence[bool]


@dataclass(frozen=True, kw_only=True)
class ClassificationExample:
    """An image, its class, and the classes that a model predicted, best first."""

    kind: ClassVar = "classification"
    model: str
    dataset: str
    protocol: str
    image: Picture
    label: str
    predicted: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class SegmentationExample:
    """An image, its true label map, and the predictions by model, pictures of one size.

    Maps have the colours of `legend`, by class, and are transparent where there is no class.
    """

    kind: ClassVar = "segmentation"
    dataset: str
    protocol: str
    name: str
    image: Picture
    truth: Picture
    predictions: Mapping[str, Picture]
    legend: Mapping[str, str]


class Word(NamedTuple):
    """A word of a caption, its share of the attention (0 to 1 over the caption), space before."""

    text: str
    weight: float
    spaced: bool = True


@dataclass(frozen=True, kw_only=True)
class AttentionExample:
    """Attention maps for a caption over an image, their kinds and the weighed words, by model.

    Maps have the size of the image and are fainter where there is little attention.
    """

    kind: ClassVar = "attention"
    dataset: str
    name: str
    caption: str
    image: Picture
    maps: Mapping[str, Picture]
    kinds: Mapping[str, MapKind]
    words: Mapping[str, Sequence[Word]]


Example: TypeAlias = (
    RetrievalExample | ClassificationExample | SegmentationExample | AttentionExample
)

KINDS: Mapping[str, str] = {
    "segmentation": "segmentation",
    "attention": "what a text lights up",
    "retrieval": "retrieval",
    "classification": "classification",
}
"""The kinds of examples in the order of a page, with their names in notes."""


class Section(NamedTuple):
    """The examples of one protocol, data set and, unless they show all models, model."""

    protocol: str
    dataset: str
    model: str
    examples: Sequence[Any]


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """All examples, and one line for each thing that cannot be shown, with the reason."""

    retrieval: Sequence[RetrievalExample] = ()
    classification: Sequence[ClassificationExample] = ()
    segmentation: Sequence[SegmentationExample] = ()
    attention: Sequence[AttentionExample] = ()
    notes: Sequence[str] = ()

    def sections(self, kind: str) -> list[Section]:
        """Group the examples of a kind, in alphabetical order."""
        groups: dict[tuple[str, str, str], list[Any]] = {}
        for example in getattr(self, kind):
            protocol, dataset, model = (getattr(example, n, "") for n in Section._fields[:3])
            groups.setdefault((protocol, dataset, model), []).append(example)
        return [Section(*key, groups[key]) for key in sorted(groups)]

    @property
    def rounds(self) -> int:
        """The number of examples in the longest section."""
        return max((len(s.examples) for kind in KINDS for s in self.sections(kind)), default=0)

    def limited(self, rounds: int) -> Gallery:
        """Keep the first examples of every section; notes state how many are left out."""
        kept: dict[str, Any] = {
            kind: [one for section in self.sections(kind) for one in section.examples[:rounds]]
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
