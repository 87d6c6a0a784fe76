"""Pictures of a gallery, encoded small, and as many as keep within a byte budget. No torch."""

import io
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cosmos_eval.data.label_maps import VALUES, Label
from cosmos_eval.data.prefetch import prefetch
from cosmos_eval.data.sources import ImageSource, decoded
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
            self._thumbnails[source.name] = self.large(decoded(source), THUMBNAIL)
        return self._thumbnails[source.name]

    def large(self, image: Image.Image, longest: int = LARGE) -> Picture:
        """Encode an RGB image, to lay maps over."""
        size = _fit(image.size, longest * self._scale)
        # A copy of the same size is an exact one.
        return self._encoded(image.resize(size, Image.Resampling.LANCZOS))

    def label_map(self, classes: Label, colours: Sequence[Rgb8], size: Size) -> Picture:
        """Draw classes (H, W) in their colours; what is no class is transparent."""
        table = np.zeros((VALUES, 4), np.uint8)
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

    def _encoded(self, image: Image.Image, how: dict[str, Any] = _LOSSY) -> Picture:
        content = io.BytesIO()
        image.save(content, format="WEBP", **how)
        picture = Picture(content.getvalue(), "image/webp", *image.size)
        return self._by_content.setdefault(picture.content, picture)


def shrunk(classes: Label) -> Label:
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


_Page = dict[int, Example | UsageError]
"""What was drawn, by the number of its candidate; what does not fit is left out."""


def select(
    candidates: Sequence[Candidate], budget: int, workers: int, progress: OnProgress
) -> tuple[list[Example], list[str]]:
    """Draw as many whole rounds of candidates as fit into `budget` bytes of pictures. If round 0
    does not fit, all pictures are smaller, and if it never does, some of it is shown. A picture of
    several examples counts once.

    Returns examples in the order of their candidates, and a note on each thing that is not shown.
    """

    def report(done: int) -> None:
        progress(Progress("pictures", done, len(candidates)))

    total = max((candidate.round for candidate in candidates), default=-1) + 1
    for scale in _SCALES:
        page: _Page = {}
        draw, shown = partial(_draw, Canvas(scale)), 0
        while shown < total:
            own = [(n, one) for n, one in enumerate(candidates) if one.round == shown]
            drawn = prefetch(own, draw, workers=workers, window=4 * workers)
            is_partial = shown == 0 and scale == _SCALES[-1]
            larger = _with_round(page, drawn, budget, is_partial, report)
            if larger is None:
                break
            page, shown = larger, shown + 1
        if shown:
            faults = [str(one) for one in page.values() if isinstance(one, UsageError)]
            notes = _reductions(len(page), candidates, shown, scale, budget)
            return _examples(page), [*faults, *notes]
    return [], []


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
    larger, before = dict(page), _examples(page)
    sizes = _sizes(before)
    for done, (number, example) in enumerate(drawn, len(before) + 1):
        own = {} if isinstance(example, UsageError) else _sizes([example])
        if sum((sizes | own).values()) <= budget:
            larger[number] = example
            sizes |= own
        elif not is_partial:
            return None
        report(done)
    return larger


def _examples(page: _Page) -> list[Example]:
    return [one for number in sorted(page) if isinstance(one := page[number], Example)]


def _sizes(examples: Sequence[Example]) -> dict[bytes, int]:
    return {p.content: len(p.content) for one in examples for p in pictures_of(one)}


def _reductions(
    drawn: int, candidates: Sequence[Candidate], shown: int, scale: float, budget: int
) -> Iterator[str]:
    size = f"{budget / 1000:,.0f} kB"
    total = max(candidate.round for candidate in candidates) + 1
    if scale < 1:
        yield f"pictures at their usual size: at {scale:.0%} of it more of them fit into {size}"
    if shown < total:
        yield f"more than {shown} of up to {total} examples of a kind: no more fit into {size}"
    wanted = sum(candidate.round < shown for candidate in candidates)
    if missing := wanted - drawn:
        yield f"{missing} of {wanted} examples: their pictures do not fit into {size}"
