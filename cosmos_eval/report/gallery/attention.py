"""Attention maps of texts over images, by every model on this machine. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from cosmos_eval.report.gallery.pictures import Candidate, Canvas
from cosmos_eval.report.gallery.records import AttentionExample
from cosmos_eval.report.gallery.source import PAIRS, Group, Pair, Request, Source, label_of
from cosmos_eval.types import OnProgress

if TYPE_CHECKING:
    from cosmos_eval.models.encoder import Encoder
    from cosmos_eval.report.attention.compute import Look


class AttentionSource(Source):
    """Attention maps of every measured model for pairs of image and text."""

    def __init__(self, groups: Sequence[Group], pairs: Sequence[Pair]) -> None:
        super().__init__()
        self._looks: dict[tuple[str, str], list[Look]] = {}  # by model and data set
        self._by_set: dict[str, list[Pair]] = {}
        for pair in pairs:
            own = self._by_set.setdefault(pair.dataset, [])
            # Protocols of one data set may have the same images.
            if len(own) < PAIRS and pair.name not in {other.name for other in own}:
                own.append(pair)
        rows = {label_of(r): r.row for group in groups for r in group.results}
        for model in sorted(rows):
            for dataset in self._by_set:
                run = partial(self._attend, model, dataset)
                self.requests.append(Request(rows[model], model, "attention maps", dataset, run))

    def _attend(self, model: str, dataset: str, encoder: Encoder, _: OnProgress) -> None:
        """Raises UsageError for a model without patches and an image that cannot be used."""
        from cosmos_eval.models.maps import usual_kind
        from cosmos_eval.report.attention.compute import AttendOptions, looks_at_image

        kind, options = usual_kind(encoder), AttendOptions()
        self._looks[model, dataset] = [
            look
            for pair in self._by_set[dataset]
            for look in looks_at_image(encoder, pair.image(), [pair.text], kind, options)
        ]

    def candidates(self) -> Iterator[Candidate]:
        """Return the pairs for which any model has a map."""
        for dataset, pairs in self._by_set.items():
            models = sorted(model for model, of in self._looks if of == dataset)
            for turn, pair in enumerate(pairs if models else ()):
                looks = {model: self._looks[model, dataset][turn] for model in models}
                yield Candidate(turn, partial(_draw, pair, looks))


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
        words={model: view.caption.words for model, view in views.items() if view.caption},
    )
