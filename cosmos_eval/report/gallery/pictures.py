"""Pictures of a gallery, encoded small, and as many as keep within a byte budget. No torch."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cosmos_eval.data.prefetch import prefetch
from cosmos_eval.data.sources import ImageSource
from cosmos_eval.report.gallery.records import Example, Picture, pictures_of
from cosmos_eval.types import OnProgress, Progress, UsageError

THUMBNAIL = 224  # longest side in pixels
LARGE = 320  # of images that maps are laid over
# WebP's method is its effort, from 0 to 6: a step from 2 costs twice the time, saves 3% of bytes.
_LOSSY: dict[str, Any] = {"quality": 75, "method": 2}
_LOSSLESS: dict[str, Any] = {"lossless": True, "method": 4}

# Matplotlib's viridis at 0.18, 0.344, ... 1: dark blue to yellow.
_VIRIDIS = (
    *((67, 62, 133), (47, 107, 142), (32, 146, 140)),
    *((56, 185, 119), (147, 215, 65), (253, 231, 37)),
)
_OPACITY = (0.35, 0.75)  # of the least and of the most
# Longest sides are reduced to these fractions where not even one round of examples fits.
_SCALES = (1.0, 0.75, 0.5, 0.35)

Rgb8 = tuple[int, int, int]
Size = tuple[int, int]
"""Width and height in pixels."""


class Canvas:
    """Makes pictures at one scale, each once; threads that share it may make one twice at worst."""

    def __init__(self, scale: float = 1.0) -> None:
        self._scale = scale
        self._thumbnails: dict[str, Picture] = {}
        self._by_content: dict[bytes, Picture] = {}

    def thumbnail(self, source: ImageSource) -> Picture:
        """Encode an image of a data set as a small picture. Raises UsageError for a damaged one."""
        if source.name not in self._thumbnails:
            image = source.decode(source.read())
            self._thumbnails[source.name] = self._photograph(image, THUMBNAIL)
        return self._thumbnails[source.name]

    def large(self, image: Image.Image) -> Picture:
        """Encode an RGB image, to lay maps over."""
        return self._photograph(image, LARGE)

    def label_map(self, classes: NDArray[np.uint8], colours: Sequence[Rgb8], size: Size) -> Picture:
        """Draw classes (H, W) in their colours; what is no class is transparent."""
        table = np.zeros((256, 4), np.uint8)
        table[: len(colours)] = [(*colour, 255) for colour in colours]
        nearest = Image.fromarray(shrunk(classes)).resize(size, Image.Resampling.NEAREST)
        return self._encoded(Image.fromarray(table[np.asarray(nearest)]), _LOSSLESS)

    def heat_map(self, values: NDArray[np.float32], size: Size) -> Picture:
        """Draw values (h, w) of patches: faint blue for the least, yellow for the largest."""
        values = (values - values.min()) / (np.ptp(values) or 1)
        # Linear between the centres of patches, as cosmos_eval.models.maps has it.
        large = np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BILINEAR))
        steps = np.linspace(0, 1, len(_VIRIDIS))
        channels = [np.interp(large, steps, channel) for channel in zip(*_VIRIDIS, strict=True)]
        rgba = np.stack([*channels, 255 * np.interp(large, (0, 1), _OPACITY)], axis=-1)
        return self._encoded(Image.fromarray((rgba + 0.5).astype(np.uint8)))

    def size_of(self, image_size: Size) -> Size:
        """Return the size that `large` gives an image of this size."""
        return _fit(image_size, LARGE * self._scale)

    def _photograph(self, image: Image.Image, longest: int) -> Picture:
        size = _fit(image.size, longest * self._scale)
        # A copy of the same size is an exact one.
        return self._encoded(image.resize(size, Image.Resampling.LANCZOS))

    def _encoded(self, image: Image.Image, how: dict[str, Any] = _LOSSY) -> Picture:
        content = io.BytesIO()
        image.save(content, format="WEBP", **how)
        picture = Picture(content.getvalue(), "image/webp", *image.size)
        return self._by_content.setdefault(picture.content, picture)


def shrunk(classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Reduce a label map (H, W) to the largest size that is drawn."""
    size = _fit((classes.shape[1], classes.shape[0]), LARGE)
    return np.asarray(Image.fromarray(classes).resize(size, Image.Resampling.NEAREST))


def _fit(size: Size, longest: float) -> Size:
    factor = min(1.0, longest / max(size))
    return max(1, round(factor * size[0])), max(1, round(factor * size[1]))


class Candidate(NamedTuple):
    """An example that can be drawn. Every section has a few; the first of each are round 0."""

    round: int
    draw: Callable[[Canvas], Example]  # raises UsageError where an image cannot be used


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

    def report(done: int) -> None:
        progress(Progress("pictures", done, len(candidates)))

    total = max((candidate.round for candidate in candidates), default=-1) + 1
    for scale in _SCALES:
        page, draw, shown = _Page({}, {}, []), partial(_draw, Canvas(scale)), 0
        while shown < total:
            own = [(n, one) for n, one in enumerate(candidates) if one.round == shown]
            drawn = prefetch(own, draw, workers=workers, window=4 * workers)
            is_partial = shown == 0 and scale == _SCALES[-1]
            larger = _with_round(page, drawn, budget, is_partial, report)
            if larger is None:
                break
            page, shown = larger, shown + 1
        if shown:
            notes = _reductions(page, candidates, shown, scale, budget)
            examples = [page.examples[number] for number in sorted(page.examples)]
            return Selection(examples, [*page.faults, *notes])
    return Selection([], [])


def _draw(canvas: Canvas, candidate: tuple[int, Candidate]) -> tuple[int, Example | UsageError]:
    number, one = candidate
    try:
        return number, one.draw(canvas)
    except UsageError as error:
        return number, error


def _with_round(
    page: _Page,
    drawn: Iterator[tuple[int, Example | UsageError]],
    budget: int,
    is_partial: bool,
    report: Callable[[int], None],
) -> _Page | None:
    """Add a round to a page; None where it does not fit, unless a part of it will do."""
    larger = _Page(dict(page.examples), dict(page.sizes), list(page.faults))
    for done, (number, example) in enumerate(drawn, len(page.examples) + 1):
        if isinstance(example, UsageError):
            larger.faults.append(str(example))
        else:
            own = {picture.content: len(picture.content) for picture in pictures_of(example)}
            if sum((larger.sizes | own).values()) <= budget:
                larger.examples[number] = example
                larger.sizes.update(own)
            elif not is_partial:
                return None
        report(done)
    return larger


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
