"""Attention maps of texts over images, by every model on this machine. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from cosmos_eval.report.gallery.pictures import Candidate, Canvas
from cosmos_eval.report.gallery.records import AttentionExample, Word
from cosmos_eval.report.gallery.source import PAIRS, Group, Outputs, Pair, Request, Source, label_of
from cosmos_eval.types import OnProgress

if TYPE_CHECKING:
    from cosmos_eval.models.encoder import Encoder
    from cosmos_eval.report.attention.compute import Look

_KIND = "attention maps"


class AttentionSource(Source):
    """Attention maps of every measured model for pairs of image and text."""

    def __init__(self, groups: Sequence[Group], pairs: Sequence[Pair]) -> None:
        super().__init__()
        self._rows = {label_of(r): r.row for group in groups for r in group.results}
        self._by_set: dict[str, list[Pair]] = {}
        for pair in pairs:
            own = self._by_set.setdefault(pair.dataset, [])
            # Protocols of one data set may have the same images.
            if len(own) < PAIRS and pair.name not in {other.name for other in own}:
                own.append(pair)

    def requests(self) -> Iterator[Request]:
        """Return the maps of every model on every data set."""
        for model in sorted(self._rows):
            for dataset, pairs in self._by_set.items():
                run = partial(_attend, pairs)
                yield Request(self._rows[model], model, _KIND, dataset, run)

    def candidates(self, outputs: Outputs) -> Iterator[Candidate]:
        """Return the pairs for which any model has a map."""
        for dataset, pairs in self._by_set.items():
            found = {model: outputs.get((_KIND, dataset, model)) for model in sorted(self._rows)}
            for turn, pair in enumerate(pairs):
                maps = {model: maps[turn] for model, maps in found.items() if maps}
                if maps:
                    yield Candidate(turn, partial(_draw, pair, maps))


def _attend(pairs: Sequence[Pair], encoder: Encoder, progress: OnProgress) -> list[Look]:
    """Raises UsageError for a model without patches and an image that cannot be used."""
    from cosmos_eval.models.maps import usual_kind
    from cosmos_eval.report.attention.compute import AttendOptions, looks_at_image

    kind = usual_kind(encoder)
    return [
        look
        for pair in pairs
        for look in looks_at_image(encoder, pair.image(), [pair.text], kind, AttendOptions())
    ]


def _draw(pair: Pair, looks: Mapping[str, Look], canvas: Canvas) -> AttentionExample:
    image = pair.image()
    size = canvas.size_of(image.size)
    views = {model: look.views[0] for model, look in looks.items()}
    return AttentionExample(
        dataset=pair.dataset,
        name=pair.name,
        caption=pair.text,
        image=canvas.large(image),
        maps={model: canvas.heat_map(view.map, size) for model, view in views.items()},
        kinds={model: look.kind for model, look in looks.items()},
        words={
            model: [Word(word.text, word.scaled or 0.0, word.spaced) for word in view.caption.words]
            for model, view in views.items()
            if view.caption
        },
    )
