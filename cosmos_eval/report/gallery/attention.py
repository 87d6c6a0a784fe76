"""Attention maps of texts over images, by every model on this machine. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.report.gallery.models import Model, Outputs, Request
from cosmos_eval.report.gallery.pictures import Canvas
from cosmos_eval.report.gallery.records import AttentionExample, Word
from cosmos_eval.report.gallery.selection import Candidate
from cosmos_eval.report.gallery.source import PAIRS, Group, Pair, Source, plain_name
from cosmos_eval.types import MapKind, OnProgress

if TYPE_CHECKING:
    import torch

    from cosmos_eval.models.encoder import Encoder

_KIND = "attention maps"


class Attention(NamedTuple):
    """A model's map for a pair, values (h, w) in [0, 1] over patches, and weights of the words."""

    values: NDArray[np.float32]
    kind: MapKind
    words: tuple[Word, ...]


class AttentionSource(Source):
    """Attention maps of every measured model for pairs of image and text."""

    def __init__(self, groups: Sequence[Group], pairs: Sequence[Pair]) -> None:
        super().__init__()
        self._rows = {plain_name(r): r.row for group in groups for r in group.results}
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
                yield Request(Model.of(self._rows[model]), model, _KIND, dataset, run)

    def candidates(self, outputs: Outputs) -> Iterator[Candidate]:
        """Return the pairs for which any model has a map."""
        for dataset, pairs in self._by_set.items():
            found = {model: outputs.get((_KIND, dataset, model)) for model in sorted(self._rows)}
            for turn, pair in enumerate(pairs):
                maps = {model: maps[turn] for model, maps in found.items() if maps}
                if maps:
                    yield Candidate(turn, partial(_draw, pair, maps))


def _attend(pairs: Sequence[Pair], encoder: Encoder, progress: OnProgress) -> list[Attention]:
    """Raises UsageError for a model without patches and an image that cannot be used."""
    from cosmos_eval.models.encoder import DenseEncoder
    from cosmos_eval.models.maps import heatmaps, scaled, usual_kind, whole_image

    kind = usual_kind(encoder)
    assert isinstance(encoder, DenseEncoder)  # or it would have no kind of maps
    found = []
    for pair in pairs:
        image = whole_image(encoder, pair.image())[None]
        maps = heatmaps(encoder, image, [pair.text], kind=kind)[0, 0].mean(0)
        words = _words(encoder, image, pair.text) if kind == "cross-attention" else ()
        found.append(Attention(scaled(maps).numpy(), kind, words))
    return found


def _words(encoder: Encoder, image: torch.Tensor, text: str) -> tuple[Word, ...]:
    """Weigh the words of a text by the attention of an image (1, 3, H, W)."""
    from cosmos_eval.models.encoder import CrossAttentionEncoder
    from cosmos_eval.models.maps import scaled, wordmaps

    assert isinstance(encoder, CrossAttentionEncoder)  # or its maps would be of another kind
    (found,) = wordmaps(encoder, image, [text])
    shares = found.shares[0].mean(0)
    weights = scaled(shares[None])[0].tolist() if len(shares) else []
    return tuple(
        Word(word.text, weight, word.spaced)
        for word, weight in zip(found.words, weights, strict=True)
    )


def _draw(pair: Pair, maps: Mapping[str, Attention], canvas: Canvas) -> AttentionExample:
    image = pair.image()
    size = canvas.size_of(image.size)
    return AttentionExample(
        dataset=pair.dataset,
        name=pair.name,
        caption=pair.text,
        image=canvas.large(image),
        maps={model: canvas.heat_map(one.values, size) for model, one in maps.items()},
        kinds={model: one.kind for model, one in maps.items()},
        words={model: one.words for model, one in maps.items() if one.words},
    )
