"""Models look at pairs: numbers for every form of output."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from PIL import Image
from torch import Tensor

from cosmos_core.utils.distributed import own_device
from cosmos_eval.models import load_encoder
from cosmos_eval.models.encoder import CrossAttentionEncoder, DenseEncoder, Encoder
from cosmos_eval.models.heatmaps import LONGEST, heatmaps, scaled, usual_kind, whole_image
from cosmos_eval.models.wordmaps import WordMap, wordmaps
from cosmos_eval.report.attention.records import (
    KINDS,
    CaptionShares,
    Look,
    Looking,
    Pair,
    Row,
    View,
    WordShare,
)
from cosmos_eval.types import Attention, MapKind, ModelSpec, UsageError

PICTURE = 680
"""Longest side of a row's picture, in pixels: twice that of the largest panel."""


def look(pairs: Sequence[Pair], specs: Sequence[ModelSpec], looking: Looking) -> list[Row]:
    """What models look at in every pair, a model after the other; looks in their order.

    Raises UsageError for a model that cannot be loaded, has none of the kinds that are asked for
    or no heads to be looked at one by one.
    """
    columns = [_looks(pairs, spec, looking) for spec in specs]
    if looking.attention and not any(one.attention for looks in columns for one in looks[0]):
        raise UsageError("--attention is about similarity: add --kind similarity, or leave it out")
    rows = []
    for pair, *looks in zip(pairs, *columns, strict=True):
        image = pair.source.decode(pair.source.read())
        rows.append(
            Row(
                name=pair.name,
                text=pair.text,
                picture=_fitted(image),
                size=image.size,
                looks=[one for of_model in looks for one in of_model],
            )
        )
    return rows


def _looks(pairs: Sequence[Pair], spec: ModelSpec, looking: Looking) -> list[list[Look]]:
    """The looks of one model, a list a pair."""
    encoder = load_encoder(spec, device=own_device(looking.device), precision=looking.precision)
    kinds = kinds_of(encoder, looking)
    if looking.heads == "each" and "cross-attention" not in kinds:
        raise UsageError(f"{spec.text}: similarity has no heads; leave --heads out")
    looks: list[list[Look]] = []
    for _, group in groupby(pairs, key=lambda pair: pair.name):
        looks += _of_image(encoder, list(group), kinds, looking)
    return looks


def kinds_of(encoder: Encoder, looking: Looking) -> list[MapKind]:
    """The kinds of maps that are asked for and that a model has. Raises UsageError for none."""
    usual = usual_kind(encoder)
    if looking.kind is None:
        return [usual]
    # Every model with cross-attention has patches to be compared with a text as well.
    had = [kind for kind in KINDS[looking.kind] if kind in (usual, *KINDS["similarity"])]
    if not had:
        raise UsageError(f"{encoder.info.spec} has no cross-attention; leave --kind out")
    return had


def _of_image(
    encoder: Encoder, pairs: Sequence[Pair], kinds: Sequence[MapKind], looking: Looking
) -> list[list[Look]]:
    """The looks of pairs with the same image."""
    assert isinstance(encoder, DenseEncoder)  # or there would be no kinds
    source, texts = pairs[0].source, [pair.text for pair in pairs]
    images = whole_image(encoder, source.decode(source.read()))[None]
    columns = [_of_kind(encoder, images, texts, kind, looking) for kind in kinds]
    return [list(looks) for looks in zip(*columns, strict=True)]


def _of_kind(
    encoder: Encoder, images: Tensor, texts: Sequence[str], kind: MapKind, looking: Looking
) -> list[Look]:
    attention = looking.attention or "csa"
    maps = heatmaps(encoder, images, texts, kind=kind, attention=attention)[0]
    if kind == "text-to-patch similarity":
        views = [[View(head="", map=one[0].numpy(), caption=None)] for one in maps]
        return [_look(encoder, kind, (*one,), attention) for one in views]
    assert isinstance(encoder, CrossAttentionEncoder)  # heatmaps has asked
    words = wordmaps(encoder, images, texts)
    for text, word_map in zip(texts, words, strict=True):
        if not word_map.words:
            raise UsageError(f"{text!r} has no word that {encoder.info.spec} can read")
    context = encoder.tokenize(texts[:1]).shape[1]
    drawn = [_views(*found, context, looking) for found in zip(maps, words, strict=True)]
    return [_look(encoder, kind, views) for views in drawn]


def _look(
    encoder: Encoder, kind: MapKind, views: tuple[View, ...], attention: Attention | None = None
) -> Look:
    usual = usual_kind(encoder)
    return Look(info=encoder.info, usual=usual, kind=kind, attention=attention, views=views)


def _views(maps: Tensor, words: WordMap, context: int, looking: Looking) -> tuple[View, ...]:
    """Maps (heads, h, w) and shares of one text, each or as their mean."""
    shares = torch.cat(
        [words.shares[0], torch.stack([words.start, words.end, words.padding], -1)[0]], -1
    )
    names = [f"head {number + 1}" for number in range(len(maps))]
    if looking.heads == "mean":
        names = [f"mean of {len(maps)} heads"]
        maps, shares = maps.mean(0, keepdim=True), shares.mean(0, keepdim=True)
    return tuple(
        View(head=name, map=one.numpy(), caption=_caption(words, share, context))
        for name, one, share in zip(names, maps, shares, strict=True)
    )


def _caption(words: WordMap, shares: Tensor, context: int) -> CaptionShares:
    """Shares (words + 3) of one view: of the words, the start, the end and the padding."""
    *of_words, start, end, padding = shares.tolist()
    relative = scaled(shares[None, :-3])[0].tolist() if of_words else []
    comparable = len(set(of_words)) > 1
    read = {word.start for word in words.words}
    unread = [word for word in words.cut if word.start not in read]
    return CaptionShares(
        words=tuple(
            WordShare(word.text, share, level if comparable else None, word.spaced)
            for word, share, level in zip(words.words, of_words, relative, strict=True)
        ),
        unread="".join(f" {word.text}" if word.spaced else word.text for word in unread).strip(),
        halved=any(word.start in read for word in words.cut),
        start=start,
        end=end,
        padding=padding,
        tokens=max(word.stop for word in (*words.words, *words.cut)) + 1,
        context=context,
    )


def _fitted(image: Image.Image) -> Image.Image:
    """As large as it is drawn; what is very long is squeezed, as the model sees it."""
    longest, shortest = max(image.size), min(image.size)
    long, short = PICTURE, max(round(PICTURE * shortest / longest), PICTURE // LONGEST)
    size = (long, short) if image.width >= image.height else (short, long)
    return image.resize(size, Image.Resampling.LANCZOS)
