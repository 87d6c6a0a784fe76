"""What texts light up in images, by every model that is on this machine. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.report.gallery.drafts import Draft
from cosmos_eval.report.gallery.parts import (
    PAIRS,
    Answers,
    Drafted,
    Need,
    Pair,
    Part,
    model_of,
    name_of,
)
from cosmos_eval.report.gallery.pictures import Canvas
from cosmos_eval.report.gallery.records import AttentionExample, Word
from cosmos_eval.report.gallery.results import Group
from cosmos_eval.results.record import ResultRow
from cosmos_eval.types import MapKind, OnProgress

if TYPE_CHECKING:
    import torch

    from cosmos_eval.models.encoder import Encoder


_KIND = "attention maps"


class Seen(NamedTuple):
    """What a model looks at in a pair: values (h, w) in [0, 1] over patches, and the words."""

    values: NDArray[np.float32]
    kind: MapKind
    words: tuple[Word, ...]


def of_attention(groups: Sequence[Group], pairs: Sequence[Pair]) -> Part:
    """The part of what the texts of pairs light up in their images, by every model measured."""
    rows = {name_of(shown): shown.row for group in groups for shown in group.results}
    by_set: dict[str, list[Pair]] = {}
    for pair in pairs:
        own = by_set.setdefault(pair.dataset, [])
        # Protocols of one data set may bring the same images.
        if len(own) < PAIRS and pair.name not in {other.name for other in own}:
            own.append(pair)
    needs = [
        _need(label, rows[label], dataset, own)
        for label in sorted(rows)
        for dataset, own in by_set.items()
    ]
    return Part((), needs, partial(_drafted, by_set, sorted(rows)))


def _need(label: str, row: ResultRow, dataset: str, pairs: Sequence[Pair]) -> Need:
    return Need(
        model=model_of(row),
        label=label,
        kind=_KIND,
        where=dataset,
        answer=partial(_look, pairs),
    )


def _look(pairs: Sequence[Pair], encoder: Encoder, progress: OnProgress) -> list[Seen]:
    """Raises UsageError for a model without patches and an image that cannot be used."""
    from cosmos_eval.models.encoder import DenseEncoder
    from cosmos_eval.models.maps import heatmaps, scaled, usual_kind, whole_image

    kind = usual_kind(encoder)
    assert isinstance(encoder, DenseEncoder)  # or it would have no kind of maps
    seen = []
    for pair in pairs:
        image = whole_image(encoder, pair.image())[None]
        maps = heatmaps(encoder, image, [pair.text], kind=kind)[0, 0].mean(0)
        words = _words(encoder, image, pair.text) if kind == "cross-attention" else ()
        seen.append(Seen(scaled(maps).numpy(), kind, words))
    return seen


def _words(encoder: Encoder, image: torch.Tensor, text: str) -> tuple[Word, ...]:
    """The words of a text as an image (1, 3, H, W) weighs them."""
    import torch

    from cosmos_eval.models.encoder import CrossAttentionEncoder
    from cosmos_eval.models.maps import wordmaps

    assert isinstance(encoder, CrossAttentionEncoder)  # or its maps would be of another kind
    (found,) = wordmaps(encoder, image, [text])
    shares = found.shares[0].mean(0)
    low, high = (shares.min(), shares.max()) if len(shares) else (0, 0)
    weights = (shares - low) / (high - low) if high > low else torch.zeros_like(shares)
    return tuple(
        Word(word.text, weight, word.spaced)
        for word, weight in zip(found.words, weights.tolist(), strict=True)
    )


def _drafted(
    by_set: Mapping[str, Sequence[Pair]], labels: Sequence[str], answers: Answers
) -> Drafted:
    drafts = []
    for dataset, pairs in by_set.items():
        for number, pair in enumerate(pairs):
            of_models = {label: answers.get((_KIND, dataset, label)) for label in labels}
            seen = {label: found[number] for label, found in of_models.items() if found}
            if seen:
                drafts.append(Draft(number, partial(_draw, pair, seen)))
    return Drafted(drafts, ())


def _draw(pair: Pair, seen: Mapping[str, Seen], canvas: Canvas) -> AttentionExample:
    image = pair.image()
    size = canvas.size_of(image.size)
    return AttentionExample(
        dataset=pair.dataset,
        name=pair.name,
        caption=pair.text,
        image=canvas.large(image),
        maps={label: canvas.heat_map(one.values, size) for label, one in seen.items()},
        kinds={label: one.kind for label, one in seen.items()},
        words={label: one.words for label, one in seen.items() if one.words},
    )
