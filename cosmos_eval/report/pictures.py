"""A gallery as a page shows it: in sections, each picture once, and as much as fits."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from cosmos_eval.report.gallery import (
    AttentionExample,
    ClassificationExample,
    Gallery,
    Picture,
    RetrievalExample,
    SegmentationExample,
)

# Bytes of markup that an example takes, and each of its parts, beside pictures and texts.
_MARKUP, _PART = 900, 350
# A text may have to be escaped, and stand in two places.
_ESCAPED = 8

_KINDS: Mapping[str, str] = {
    "segmentation": "segmentation",
    "attention": "what a text lights up",
    "retrieval": "retrieval",
    "classification": "classification",
}


class Section(NamedTuple):
    """Examples of one protocol, data set and, where they are a model's own, model."""

    protocol: str
    dataset: str
    model: str
    examples: Sequence[Any]


class GalleryView(NamedTuple):
    """A gallery in sections, in alphabetical order."""

    segmentation: tuple[Section, ...]
    attention: tuple[Section, ...]
    retrieval: tuple[Section, ...]
    classification: tuple[Section, ...]
    notes: tuple[str, ...]


class Placed(NamedTuple):
    """A picture's name on a page, and its address where this is the first place that shows it."""

    name: str
    address: str


class Album:
    """Pictures of a page, of which each is carried once."""

    def __init__(self) -> None:
        self._names: dict[Picture, str] = {}

    def __call__(self, picture: Picture) -> Placed:
        """How to show a picture here."""
        if picture in self._names:
            return Placed(self._names[picture], "")
        name = self._names[picture] = f"picture-{len(self._names) + 1}"
        content = base64.b64encode(picture.content).decode()
        return Placed(name, f"data:{picture.media_type};base64,{content}")


def gallery_view(gallery: Gallery) -> GalleryView:
    """Examples by protocol, data set and model."""
    return GalleryView(
        segmentation=_sections(gallery.segmentation),
        attention=_sections(gallery.attention),
        retrieval=_sections(gallery.retrieval),
        classification=_sections(gallery.classification),
        notes=tuple(gallery.notes),
    )


def has_examples(gallery: Gallery) -> bool:
    """Whether there is something to look at."""
    return any(getattr(gallery, kind) for kind in _KINDS)


def size_of(gallery: Gallery) -> int:
    """About how many bytes of a page all examples take."""
    carried: set[Picture] = set()
    size = 0
    for _, example in _in_turn(gallery):
        size += _size(example, carried)
        carried.update(_pictures(example))
    return size


def fitting(gallery: Gallery, room: int) -> Gallery:
    """As many examples as take `evaluator` bytes of a page, of every section in turn.

    What is left out is told in the notes.
    """
    kept: dict[str, set[int]] = {kind: set() for kind in _KINDS}
    carried: set[Picture] = set()
    for kind, example in _in_turn(gallery):
        size = _size(example, carried)
        if size <= room:
            room -= size
            kept[kind].add(id(example))
            carried.update(_pictures(example))
    chosen = {
        kind: tuple(example for example in getattr(gallery, kind) if id(example) in kept[kind])
        for kind in _KINDS
    }
    left_out = [_left_out(kind, chosen[kind], getattr(gallery, kind)) for kind in _KINDS]
    return replace(gallery, **chosen, notes=(*gallery.notes, *filter(None, left_out)))


def _left_out(kind: str, chosen: Sequence[Any], given: Sequence[Any]) -> str:
    missing = len(given) - len(chosen)
    if not missing:
        return ""
    return (
        f"{missing} of {len(given)} examples of {_KINDS[kind]} are left out: the page would be too "
        "large with them"
    )


def _sections(examples: Sequence[Any]) -> tuple[Section, ...]:
    groups: dict[tuple[str, str, str], list[Any]] = {}
    for example in examples:
        protocol, dataset, model = (getattr(example, name, "") for name in Section._fields[:3])
        groups.setdefault((protocol, dataset, model), []).append(example)
    return tuple(Section(*key, groups[key]) for key in sorted(groups))


def _in_turn(gallery: Gallery) -> Iterator[tuple[str, Any]]:
    """The first example of every section of every kind, then the second ones..."""
    sections = [
        (kind, section.examples) for kind in _KINDS for section in _sections(getattr(gallery, kind))
    ]
    for turn in range(max((len(examples) for _, examples in sections), default=0)):
        yield from ((kind, some[turn]) for kind, some in sections if turn < len(some))


def _size(example: Any, carried: set[Picture]) -> int:
    """About how many bytes of a page an example takes, some pictures of which may be there."""
    parts = _parts(example)
    new = _pictures(example) - carried
    encoded = sum(len(picture.content) * 4 // 3 + 4 for picture in new)
    texts = sum(len(part.encode()) for part in parts if isinstance(part, str))
    return _MARKUP + _PART * len(parts) + encoded + _ESCAPED * texts


def _pictures(example: Any) -> set[Picture]:
    return {part for part in _parts(example) if isinstance(part, Picture)}


def _parts(example: Any) -> list[Picture | str]:
    match example:
        case RetrievalExample():
            return [example.query, example.expected, *example.found]
        case ClassificationExample():
            return [example.image, example.label, *example.predicted]
        case SegmentationExample():
            maps = example.predictions.values()
            return [example.image, example.truth, *maps, example.name, *example.legend]
        case AttentionExample():
            words = (word.text for some in example.words.values() for word in some)
            return [example.image, example.name, example.caption, *example.maps.values(), *words]
    raise TypeError(f"no example of a gallery: {type(example).__name__}")
