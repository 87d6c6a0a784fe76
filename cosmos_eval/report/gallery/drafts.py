"""Which examples fit: rounds of them, as many as keep all pictures within a number of bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from cosmos_eval.data.prefetch import prefetch
from cosmos_eval.report.gallery.pictures import Canvas
from cosmos_eval.report.gallery.records import (
    AttentionExample,
    ClassificationExample,
    Picture,
    RetrievalExample,
    SegmentationExample,
)
from cosmos_eval.types import OnProgress, Progress, UsageError

Example: TypeAlias = (
    RetrievalExample | ClassificationExample | SegmentationExample | AttentionExample
)

# Longest sides are reduced to these parts of theirs where not even one round fits.
_SCALES = (1.0, 0.75, 0.5, 0.35)


class Draft(NamedTuple):
    """An example to be drawn. Everything that is shown has a few; the first of each are round 0.

    `draw` raises UsageError where an image cannot be used.
    """

    round: int
    draw: Callable[[Canvas], Example]


class Fitted(NamedTuple):
    """Examples in the order of their drafts, and a line for each thing that is not shown."""

    examples: Sequence[Example]
    notes: Sequence[str]


def fit(drafts: Sequence[Draft], budget: int, workers: int, progress: OnProgress) -> Fitted:
    """The drawn examples of as many whole rounds as fit into `budget` bytes of pictures.

    Where round 0 does not fit, all pictures are smaller, and where it never does, only some of it
    is shown. A picture that several examples have counts once.
    """
    total = max((draft.round for draft in drafts), default=-1) + 1
    for scale in _SCALES if drafts else ():
        page, canvas = _Page(budget, {}, {}, []), Canvas(scale)
        shown = 0
        while shown < total:
            own = {n: draft for n, draft in enumerate(drafts) if draft.round == shown}
            drawn = _drawn(own, canvas, workers, progress, len(page.examples), len(drafts))
            last_resort = shown == 0 and scale == _SCALES[-1]
            larger = _some_of(page, drawn) if last_resort else _all_of(page, drawn)
            if larger is None:
                break
            page, shown = larger, shown + 1
        if shown:
            reductions = _reductions(page, drafts, shown, scale, budget)
            examples = [page.examples[number] for number in sorted(page.examples)]
            return Fitted(examples, [*page.faults, *reductions])
    return Fitted([], [])


class _Drawn(NamedTuple):
    """A draft's number and its example, or why there is none."""

    number: int
    example: Example | None
    fault: str = ""


class _Page(NamedTuple):
    """Examples by the numbers of their drafts, the sizes of their pictures by content, faults."""

    budget: int
    examples: Mapping[int, Example]
    sizes: Mapping[bytes, int]
    faults: Sequence[str]


def _drawn(
    drafts: Mapping[int, Draft],
    canvas: Canvas,
    workers: int,
    progress: OnProgress,
    before: int,
    total: int,
) -> Iterator[_Drawn]:
    """Drawn by threads, in order."""

    def draw(number: int) -> _Drawn:
        try:
            return _Drawn(number, drafts[number].draw(canvas))
        except UsageError as error:
            return _Drawn(number, None, str(error))

    for done, one in enumerate(prefetch(drafts, draw, workers=workers, window=4 * workers), 1):
        yield one
        progress(Progress("pictures", before + done, total))


def _all_of(page: _Page, drawn: Iterator[_Drawn]) -> _Page | None:
    """The page with all of these on it, None where they do not fit."""
    for one in drawn:
        larger = _with(page, one)
        if larger is None:
            return None
        page = larger
    return page


def _some_of(page: _Page, drawn: Iterator[_Drawn]) -> _Page:
    """The page with those on it that still fit."""
    for one in drawn:
        page = _with(page, one) or page
    return page


def _with(page: _Page, one: _Drawn) -> _Page | None:
    if one.example is None:
        return page._replace(faults=[*page.faults, one.fault])
    sizes = {**page.sizes, **{p.content: len(p.content) for p in pictures_of(one.example)}}
    if sum(sizes.values()) > page.budget:
        return None
    return page._replace(examples={**page.examples, one.number: one.example}, sizes=sizes)


def pictures_of(example: Example) -> Iterator[Picture]:
    """All pictures of an example; one may come twice."""
    for value in vars(example).values():
        if isinstance(value, Picture):
            yield value
        elif isinstance(value, Mapping):
            yield from (item for item in value.values() if isinstance(item, Picture))
        elif isinstance(value, Sequence):
            yield from (item for item in value if isinstance(item, Picture))


def _reductions(
    page: _Page, drafts: Sequence[Draft], shown: int, scale: float, budget: int
) -> Iterator[str]:
    """What is not shown for lack of room."""
    room = f"{budget / 1000:,.0f} kB"
    total = max(draft.round for draft in drafts) + 1
    if scale < 1:
        yield f"pictures at their usual size: at {scale:.0%} of it more of them fit into {room}"
    if shown < total:
        yield f"more than {shown} of up to {total} examples of a kind: no more fit into {room}"
    wanted = sum(draft.round < shown for draft in drafts)
    if missing := wanted - len(page.examples) - len(page.faults):
        yield f"{missing} of {wanted} examples: their pictures do not fit into {room}"
