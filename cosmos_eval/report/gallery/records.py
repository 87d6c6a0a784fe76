"""What a gallery is made of. Pictures are encoded, so that a page can take them as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from cosmos_eval.types import MapKind


class Picture(NamedTuple):
    """An encoded image file: its bytes, media type (`image/webp`...) and size in pixels."""

    content: bytes
    media_type: str
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class RetrievalExample:
    """A query and what a model put first, for a result's `model` label, data set and protocol.

    `direction` is `image_to_text` or `text_to_image`; the query and what was found are pictures or
    captions accordingly. `rank` is that of the first right one, from 1, and `expected` is a right
    one: the best, where embeddings are at hand. `found` are the first ones, the best first, and
    `right` says which of them belong to the query; both are empty where no embeddings are at hand.
    """

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
    """An image, its class, and the classes that a model put first, the best first."""

    model: str
    dataset: str
    protocol: str
    image: Picture
    label: str
    predicted: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class SegmentationExample:
    """An image of a data set, its true label map, and the map of every model that has one.

    All pictures are of one size; `predictions` are by model, and a model whose map is not at hand
    has none. Maps are drawn opaque in the colours of `legend`, which names the
    classes that occur in them, with pixels without a class transparent.
    """

    dataset: str
    protocol: str
    name: str
    image: Picture
    truth: Picture
    predictions: Mapping[str, Picture]
    legend: Mapping[str, str]


class Word(NamedTuple):
    """A word of a caption and its share of the attention, scaled to [0, 1] over the caption.

    `spaced` says whether white space precedes it.
    """

    text: str
    weight: float
    spaced: bool = True


@dataclass(frozen=True, kw_only=True)
class AttentionExample:
    """What one caption lights up in one image, by each model.

    `maps` are heat maps by model, to be laid over the image, whose size they have: coloured where
    the caption looks, transparent elsewhere. `kinds` says what they show; `words` are the
    caption's words as the image weighs them, of models that can tell.
    """

    dataset: str
    name: str
    caption: str
    image: Picture
    maps: Mapping[str, Picture]
    kinds: Mapping[str, MapKind]
    words: Mapping[str, Sequence[Word]]


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Everything that can be shown, and one line for each thing that cannot, with the reason."""

    retrieval: Sequence[RetrievalExample] = ()
    classification: Sequence[ClassificationExample] = ()
    segmentation: Sequence[SegmentationExample] = ()
    attention: Sequence[AttentionExample] = ()
    notes: Sequence[str] = ()
