"""The selection of examples: whole rounds, as many as keep all pictures within a byte budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from cosmos_eval.data.prefetch import prefetch
from cosmos_eval.report.gallery.pictures import Canvas
from cosmos_eval.report.gallery.records import Example, pictures_of
from cosmos_eval.types import OnProgress, Progress, UsageError

# Longest sides are reduced to these fractions where not even one round fits.
_SCALES = (1.0, 0.75, 0.5, 0.35)


class Candidate(NamedTuple):
    """An example that can be drawn. Every section has a few; the first of each are round 0.

    `draw` raises UsageError where an image cannot be used.
    """

    round: int
    draw: Callable[[Canvas], Example]


class Selection(NamedTuple):
    """Examples in the order of their candidates, and one line for each thing that is not shown."""

    examples: Sequence[Example]
    notes: Sequence[str]


class _Page(NamedTuple):
    """Drawn examples by the number of their candidate, sizes of pictures by content, faults."""

    examples: dict[int, Example]
    sizes: dict[bytes, int]
    faults: list[str]


def select(
    candidates: Sequence[Candidate], budget: int, workers: int, progress: OnProgress
) -> Selection:
    """Draw as many whole rounds of candidates as fit into `budget` bytes of pictures.

    If round 0 does not fit, all pictures are smaller, and if it never does, some of it is shown. A
    picture of several examples counts once.
    """
    total = max((candidate.round for candidate in candidates), default=-1) + 1
    for scale in _SCALES:
        page, canvas, shown = _Page({}, {}, []), Canvas(scale), 0
        while shown < total:
            own = [n for n, candidate in enumerate(candidates) if candidate.round == shown]
            drawn = _draw(candidates, own, canvas, workers, len(page.examples), progress)
            partial = shown == 0 and scale == _SCALES[-1]
            larger = _with_round(page, drawn, budget, partial=partial)
            if larger is None:
                break
            page, shown = larger, shown + 1
        if shown:
            notes = _reductions(page, candidates, shown, scale, budget)
            examples = [page.examples[number] for number in sorted(page.examples)]
            return Selection(examples, [*page.faults, *notes])
    return Selection([], [])


def _draw(
    candidates: Sequence[Candidate],
    numbers: Sequence[int],
    canvas: Canvas,
    workers: int,
    before: int,
    progress: OnProgress,
) -> Iterator[tuple[int, Example | UsageError]]:
    """Draw candidates in threads; yields them in order, with their numbers."""

    def draw(number: int) -> tuple[int, Example | UsageError]:
        try:
            return number, candidates[number].draw(canvas)
        except UsageError as error:
            return number, error

    drawn = prefetch(numbers, draw, workers=workers, window=4 * workers)
    for done, one in enumerate(drawn, before + 1):
        yield one
        progress(Progress("pictures", done, len(candidates)))


def _with_round(
    page: _Page, drawn: Iterator[tuple[int, Example | UsageError]], budget: int, *, partial: bool
) -> _Page | None:
    """Add a round to a page; None where it does not fit, unless a part of it will do."""
    page = _Page(dict(page.examples), dict(page.sizes), list(page.faults))
    for number, example in drawn:
        if isinstance(example, UsageError):
            page.faults.append(str(example))
            continue
        sizes = {picture.content: len(picture.content) for picture in pictures_of(example)}
        if sum((page.sizes | sizes).values()) <= budget:
            page.examples[number] = example
            page.sizes.update(sizes)
        elif not partial:
            return None
    return page


def _reductions(
    page: _Page, candidates: Sequence[Candidate], shown: int, scale: float, budget: int
) -> Iterator[str]:
    """State what the budget leaves out."""
    size = f"{budget / 1000:,.0f} kB"
    total = max(candidate.round for candidate in candidates) + 1
    if scale < 1:
        yield f"pictures at their usual size: at {scale:.0%} of it more of them fit into {size}"
    if shown < total:
        yield f"more than {shown} of up to {total} examples of a kind: no more fit into {size}"
    wanted = sum(candidate.round < shown for candidate in candidates)
    if missing := wanted - len(page.examples) - len(page.faults):
        yield f"{missing} of {wanted} examples: their pictures do not fit into {size}"
