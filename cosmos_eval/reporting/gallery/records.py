"""The records of a gallery. Pictures are encoded, so that a page can embed them as they are."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from cosmos_eval.types import MapKind

if TYPE_CHECKING:
    from cosmos_eval.reporting.attention.compute import WordShare


class Picture(NamedTuple):
    """An encoded image file."""

    content: bytes
    # Such as "image/webp".
    media_type: str
    # In pixels.
    width: int
    height: int
    # The name of the file that the picture was drawn from; empty for maps.
    file: str = ""

    @property
    def address(self) -> str:
        """The data URI under which a page embeds the picture: "data:image/webp;base64,..."."""
        base64_text = base64.b64encode(self.content).decode()
        return f"data:{self.media_type};base64,{base64_text}"


@dataclass(frozen=True, kw_only=True)
class Example:
    """An example from a data set; subclasses add the pictures and texts that are shown."""

    kind: ClassVar[str] = ""
    # The examples of a section that are added to a page together.
    per_round: ClassVar[int] = 1
    dataset: str
    # Empty if the example belongs to several protocols.
    protocol: str = ""
    # Empty if the example shows several models.
    model: str = ""
    # The metric that is the fraction of right examples, such as "acc1"; empty if there is none.
    metric: str = ""


@dataclass(frozen=True, kw_only=True)
class RetrievalExample(Example):
    """A query of a retrieval result, and the items that the model found for it.

    If the query is an image, items are captions. If the query is a caption, items are pictures.
    """

    kind: ClassVar[str] = "retrieval"
    direction: Literal["image_to_text", "text_to_image"]
    # The rank of the first item that belongs to the query, from 1.
    rank: int
    query: Picture | str
    # An item that belongs to the query.
    expected: Picture | str
    # The items that the model ranks first; empty without embeddings.
    retrieved: Sequence[Picture | str]
    # Whether each of the retrieved items belongs to the query.
    right: Sequence[bool]


class Outcome(NamedTuple):
    """The answer of a model, and whether it is right."""

    answer: str
    right: bool
    # The class that the model takes the sample for; empty for the true class and for retrieval.
    taken_for: str = ""


@dataclass(frozen=True, kw_only=True)
class SampleExample(Example):
    """A small image with a class or a caption, and the outcomes of all models.

    In retrieval, either the caption or the image is the query.
    """

    kind: ClassVar[str] = "samples"
    per_round: ClassVar[int] = 6  # they are small
    image: Picture
    # The caption or the class.
    text: str
    # By model.
    outcomes: Mapping[str, Outcome]
    # The direction of retrieval, such as "image to text"; empty for a class.
    direction: str = ""
    # The class; empty for a caption.
    group: str = ""
    # The number of words of a caption that is the query; None for others.
    words: int | None = None
    # The share of the image's pixels that belong to the class; None if the image has no label map.
    size: float | None = None


@dataclass(frozen=True, kw_only=True)
class SegmentationExample(Example):
    """An image with its true and its predicted label maps, all pictures of the same size.

    Label maps are transparent at pixels without a class.
    """

    kind: ClassVar[str] = "segmentation"
    name: str
    image: Picture
    truth: Picture
    # By model.
    predictions: Mapping[str, Picture]
    # The colours of the classes in label maps, such as "#0000ff".
    legend: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class AttentionExample(Example):
    """An image with attention maps for a caption.

    Maps have the size of the image. They are fainter at places of little attention.
    """

    kind: ClassVar[str] = "attention"
    name: str
    caption: str
    image: Picture
    # The map of each model, and its kind, such as cross-attention.
    maps: Mapping[str, Picture]
    kinds: Mapping[str, MapKind]
    # The words of the caption with their weights, by model. Models without weights are missing.
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
    """All examples of a page, and one line for each thing that cannot be shown."""

    retrieval: Sequence[RetrievalExample] = ()
    samples: Sequence[SampleExample] = ()
    segmentation: Sequence[SegmentationExample] = ()
    attention: Sequence[AttentionExample] = ()
    notes: Sequence[str] = ()

    def sections(self, kind: str) -> list[list[Any]]:
        """Return the examples of a kind, such as "retrieval", split into sections of a page.

        A section has the examples of one protocol, data set, model and metric, in the order of the
        gallery. Sections are in alphabetical order.
        """
        section_key = attrgetter("protocol", "dataset", "model", "metric")
        examples = sorted(getattr(self, kind), key=section_key)
        # groupby needs equal keys side by side.
        return [list(section) for _, section in groupby(examples, section_key)]

    @property
    def rounds(self) -> int:
        """The number of rounds of examples in the longest section.

        A page adds examples round by round. For example, 13 samples have 3 rounds of up to 6.
        """
        most_rounds = 0
        for kind in KINDS:
            for section in self.sections(kind):
                n_rounds = math.ceil(len(section) / section[0].per_round)
                most_rounds = max(most_rounds, n_rounds)
        return most_rounds

    def limited(self, n_rounds: int) -> Gallery:
        """Return a gallery with the first rounds of examples of every section.

        Its notes count the examples that are left out. For example, a section of 13 samples, six in
        a round, has 12 of them in the first two rounds.
        """
        examples_by_kind: dict[str, Any] = {}
        notes = list(self.notes)
        for kind, kind_name in KINDS.items():
            examples: list[Example] = []
            for section in self.sections(kind):
                n_examples = n_rounds * section[0].per_round
                examples += section[:n_examples]
            examples_by_kind[kind] = examples
            total = len(getattr(self, kind))
            if len(examples) < total:
                notes.append(
                    f"{total - len(examples)} of {total} examples of {kind_name} are left out: the "
                    "page would be too large with them"
                )
        return replace(self, **examples_by_kind, notes=tuple(notes))


def pictures_of(example: Example) -> Iterator[Picture]:
    """Yield the pictures in all fields of an example, also in mappings and sequences.

    A picture that is in two fields is yielded twice.
    """
    for value in vars(example).values():
        items: Iterable[Any]
        if isinstance(value, Picture):  # a tuple, which is a sequence, too
            items = [value]
        elif isinstance(value, Mapping):
            items = value.values()
        elif isinstance(value, Sequence):
            items = value
        else:
            continue
        for item in items:
            if isinstance(item, Picture):
                yield item
