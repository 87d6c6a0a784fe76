"""Queries of retrieval results: some that went wrong, some that did not. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from cosmos_eval.data.retrieval import RetrievalData, open_data, sample_list_hash
from cosmos_eval.data.sources import ImageSource
from cosmos_eval.report.gallery.drafts import Draft
from cosmos_eval.report.gallery.parts import (
    PAIRS,
    Answers,
    Drafted,
    Need,
    Opened,
    Pair,
    Part,
    model_of,
    opened,
    spread,
)
from cosmos_eval.report.gallery.pictures import Canvas
from cosmos_eval.report.gallery.queries import Found, Query, chosen, find
from cosmos_eval.report.gallery.records import Picture, RetrievalExample
from cosmos_eval.report.gallery.results import Group, Shown, listed
from cosmos_eval.types import OnProgress, Protocol, RunOptions, UsageError

if TYPE_CHECKING:
    from cosmos_eval.models.encoder import Encoder

_KIND = "lists of what was found"

# What is embedded for a page of examples if it is not among what runs have kept.
_MOST_IMAGES, _MOST_CAPTIONS = 1000, 5000


def of_retrieval(group: Group, options: RunOptions) -> Part:
    """The part of a group of retrieval results."""
    opened_group = opened(group, options, open_data, _is_of)
    needs = []
    for shown, data in opened_group.results:
        answer = partial(_embed_and_find, data, chosen(shown.samples), options)
        needs.append(
            Need(
                model=model_of(shown.row),
                label=shown.label,
                kind=_KIND,
                where=group.name,
                answer=answer,
            )
        )
    first = opened_group.results[:1]
    pairs = [pair for _, data in first for pair in pairs_of(group.protocol, data)]
    return Part(opened_group.notes, needs, partial(_drafted, group, opened_group), pairs)


def pairs_of(protocol: Protocol, data: RetrievalData) -> list[Pair]:
    """A few images, each with its first caption."""
    return [
        Pair(
            dataset=protocol.dataset,
            name=data.names[number],
            image=partial(_image, data.images[number]),
            text=data.captions[int(np.argmax(data.image_of_text == number))],
        )
        for number in spread(len(data.images), PAIRS)
    ]


def _image(source: ImageSource) -> Image.Image:
    return source.decode(source.read())


def _is_of(data: RetrievalData, shown: Shown) -> bool:
    return sample_list_hash(data) == shown.row.provenance["hashes"].get("sample_list")


def _embed_and_find(
    data: RetrievalData,
    queries: Sequence[Sequence[Query]],
    options: RunOptions,
    encoder: Encoder,
    progress: OnProgress,
) -> dict[Query, Found]:
    """What the model puts first for each query whose rank comes out as it was measured."""
    from cosmos_eval.embedding.embed import TooManyError, embed_images, embed_texts

    try:
        images = embed_images(encoder, data.images, options, progress, most=_MOST_IMAGES)
        texts = embed_texts(
            encoder, data.captions, options, progress, phase="captions", most=_MOST_CAPTIONS
        )
    except TooManyError as error:
        raise UsageError(f"{error}, so measure again without --no-cache") from error
    found = {}
    for query in (query for some in queries for query in some):
        one = find(query, images.features, texts.features, data.image_of_text)
        if one is not None:
            found[query] = one
    return found


def _drafted(group: Group, opened_group: Opened, answers: Answers) -> Drafted:
    drafts, differing = [], []
    for shown, data in opened_group.results:
        found: dict[Query, Found] | None = answers.get((_KIND, group.name, shown.label))
        for queries in chosen(shown.samples):
            for number, query in enumerate(queries):
                one = (found or {}).get(query)
                draw = partial(_draw, shown, data, query, one)
                drafts.append(Draft(number, draw))
                if found is not None and one is None:
                    differing.append(shown.label)
    notes = []
    if differing:
        notes.append(
            f"{group.name}: what {listed([*dict.fromkeys(differing)])} found is not shown for "
            f"{len(differing)} queries, whose ranks come out otherwise than measured"
        )
    return Drafted(drafts, notes)


def _draw(
    shown: Shown, data: RetrievalData, query: Query, found: Found | None, canvas: Canvas
) -> RetrievalExample:
    def image(number: int) -> Picture:
        return canvas.thumbnail(data.images[number])

    def caption(number: int) -> str:
        return data.captions[number]

    owner = data.image_of_text
    to_text = query.direction == "image_to_text"
    asked, other = (image, caption) if to_text else (caption, image)
    a_right_one = int(np.argmax(owner == query.number)) if to_text else int(owner[query.number])
    best, first = found or Found(a_right_one, ())
    of_image = query.number if to_text else owner[query.number]
    items: Any = [other(number) for number in first]
    return RetrievalExample(
        model=shown.label,
        dataset=shown.row.dataset,
        protocol=shown.row.protocol,
        direction=query.direction,
        rank=query.rank,
        query=asked(query.number),
        expected=other(best),
        found=items,
        right=[bool((owner[n] if to_text else n) == of_image) for n in first],
    )
