"""Encode the pictures of a gallery, as many as keep within a byte budget. Imports no torch."""

import io
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cosmos_eval.data.label_maps import VALUES, Label
from cosmos_eval.data.prefetch import prefetch
from cosmos_eval.data.sources import ImageSource, decode_source
from cosmos_eval.report.gallery.records import Example, Picture, pictures_of
from cosmos_eval.types import OnProgress, Progress, UsageError

THUMBNAIL = 224  # longest side in pixels
LARGE = 320  # longest side of images under maps, in pixels
# WebP's method is its effort, from 0 to 6. A step up from 2 takes twice the time and saves 3% of
# the bytes.
_LOSSY: dict[str, Any] = {"quality": 75, "method": 2}
_LOSSLESS: dict[str, Any] = {"lossless": True, "method": 4}

# Matplotlib's viridis at 0.18, 0.344, ... 1: dark blue to yellow.
_VIRIDIS = (
    (67, 62, 133),
    (47, 107, 142),
    (32, 146, 140),
    (56, 185, 119),
    (147, 215, 65),
    (253, 231, 37),
)
_OPACITY = (0.35, 0.75)  # of the least and of the largest value
# Pictures are reduced to these fractions of their size if not even one round of examples fits.
_SCALES = (1.0, 0.75, 0.5, 0.35)

Rgb8 = tuple[int, int, int]
Size = tuple[int, int]
"""Width and height in pixels."""


class Canvas:
    """Draws pictures at one scale, each only once.

    Threads may share a canvas; at worst, two of them draw the same picture.
    """

    def __init__(self, scale: float = 1.0) -> None:
        self._scale = scale
        self._thumbnails: dict[str, Picture] = {}
        self._by_content: dict[bytes, Picture] = {}

    def thumbnail(self, source: ImageSource) -> Picture:
        """Encode an image of a data set as a small picture. Raises UsageError if it is damaged."""
        if source.name not in self._thumbnails:
            self._thumbnails[source.name] = self.large(decode_source(source), THUMBNAIL)
        return self._thumbnails[source.name]

    def large(self, image: Image.Image, longest: int = LARGE) -> Picture:
        """Encode an RGB image, with `longest` as its longest side unless it is smaller."""
        size = _fit(image.size, longest * self._scale)
        # Resizing to the same size changes no pixel.
        return self._encoded(image.resize(size, Image.Resampling.LANCZOS))

    def label_map(self, classes: Label, colours: Sequence[Rgb8], size: Size) -> Picture:
        """Draw classes (H, W) in their colours; pixels without a class are transparent."""
        rgba_of_class = np.zeros((VALUES, 4), np.uint8)
        rgba_of_class[: len(colours)] = [(*colour, 255) for colour in colours]
        resized = Image.fromarray(shrunk(classes)).resize(size, Image.Resampling.NEAREST)
        rgba = rgba_of_class[np.asarray(resized)]
        return self._encoded(Image.fromarray(rgba), _LOSSLESS)

    def heat_map(self, values: NDArray[np.float32], size: Size) -> Picture:
        """Draw values (h, w) of patches: faint blue for the least, yellow for the largest."""
        values = (values - values.min()) / (np.ptp(values) or 1)
        # Linear between the centres of patches, as in cosmos_eval.models.maps.
        pixels = np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BILINEAR))
        steps = np.linspace(0, 1, len(_VIRIDIS))
        red, green, blue = (np.interp(pixels, steps, channel) for channel in np.transpose(_VIRIDIS))
        alpha = 255 * np.interp(pixels, (0, 1), _OPACITY)
        rgba = np.stack([red, green, blue, alpha], axis=-1)
        return self._encoded(Image.fromarray((rgba + 0.5).astype(np.uint8)))

    def size_of(self, image_size: Size) -> Size:
        """Return the size that `large` gives an image of this size."""
        return _fit(image_size, LARGE * self._scale)

    def _encoded(self, image: Image.Image, encoding: dict[str, Any] = _LOSSY) -> Picture:
        """Encode an image; equal pictures are the same object."""
        content = io.BytesIO()
        image.save(content, format="WEBP", **encoding)
        picture = Picture(content.getvalue(), "image/webp", *image.size)
        return self._by_content.setdefault(picture.content, picture)


def shrunk(classes: Label) -> Label:
    """Reduce a label map (H, W) to the largest size in which maps are drawn."""
    size = _fit((classes.shape[1], classes.shape[0]), LARGE)
    return np.asarray(Image.fromarray(classes).resize(size, Image.Resampling.NEAREST))


def _fit(size: Size, longest: float) -> Size:
    """Return a size with the same proportions, and with `longest` as its longest side at most."""
    factor = min(1.0, longest / max(size))
    return max(1, round(factor * size[0])), max(1, round(factor * size[1]))


class Candidate(NamedTuple):
    """An example that can be drawn."""

    # The round of examples that it is added in. Round 0 has the first examples of all sections.
    round: int
    # Raises UsageError if an image cannot be used.
    draw: Callable[[Canvas], Example]


def select(
    candidates: Sequence[Candidate], budget: int, workers: int, progress: OnProgress
) -> tuple[list[Example], list[str]]:
    """Draw as many whole rounds of candidates as fit into `budget` bytes of pictures.

    If round 0 does not fit, all pictures are drawn smaller. If it does not fit at the smallest
    scale either, as many of its examples as fit are drawn. A picture of several examples counts
    once.

    Returns the examples in the order of their candidates, and a note on each thing that is not
    shown.
    """
    n_rounds = max((candidate.round for candidate in candidates), default=-1) + 1
    for scale in _SCALES:
        selection = _Selection(candidates, scale, budget, workers, progress)
        while selection.n_rounds < n_rounds:
            if not selection.add_round():
                break
        if selection.n_rounds > 0:
            return selection.examples(), selection.notes()
    return [], []


class _Selection:
    """The examples that were drawn at one scale, round by round, within a budget of bytes."""

    def __init__(
        self,
        candidates: Sequence[Candidate],
        scale: float,
        budget: int,
        workers: int,
        progress: OnProgress,
    ) -> None:
        self.n_rounds = 0
        self._candidates = candidates
        self._scale = scale
        self._budget = budget
        self._workers = workers
        self._progress = progress
        self._canvas = Canvas(scale)
        # The example that was drawn, or the error, by the index of the candidate.
        self._drawn: dict[int, Example | UsageError] = {}

    def add_round(self) -> bool:
        """Draw the next round of candidates; return False, and add nothing, if it does not fit.

        At the smallest scale round 0 always fits, as examples without room are left out.
        """
        may_leave_out = self.n_rounds == 0 and self._scale == _SCALES[-1]
        numbers = [
            number
            for number, candidate in enumerate(self._candidates)
            if candidate.round == self.n_rounds
        ]
        drawn = dict(self._drawn)
        examples = self.examples()
        sizes = _picture_sizes(examples)
        done = len(examples)
        results = prefetch(numbers, self._draw, workers=self._workers, window=4 * self._workers)
        for number, result in zip(numbers, results, strict=True):
            new_sizes = dict(sizes)
            if isinstance(result, Example):
                new_sizes.update(_picture_sizes([result]))
            if sum(new_sizes.values()) <= self._budget:
                drawn[number] = result
                sizes = new_sizes
            elif not may_leave_out:
                return False
            done += 1
            self._progress(Progress("pictures", done, len(self._candidates)))
        self._drawn = drawn
        self.n_rounds += 1
        return True

    def _draw(self, number: int) -> Example | UsageError:
        """Draw a candidate, and return the error instead if its image cannot be used."""
        try:
            return self._candidates[number].draw(self._canvas)
        except UsageError as error:
            return error

    def examples(self) -> list[Example]:
        """Return the examples in the order of their candidates."""
        results = [self._drawn[number] for number in sorted(self._drawn)]
        return [result for result in results if isinstance(result, Example)]

    def notes(self) -> list[str]:
        """Return a line for each image that cannot be used, and each reduction of the page."""
        notes = [str(result) for result in self._drawn.values() if isinstance(result, UsageError)]
        size = f"{self._budget / 1000:,.0f} kB"
        if self._scale < 1:
            notes.append(
                f"pictures at their usual size: at {self._scale:.0%} of it more of them fit into "
                f"{size}"
            )
        total_rounds = max(candidate.round for candidate in self._candidates) + 1
        if self.n_rounds < total_rounds:
            notes.append(
                f"more than {self.n_rounds} of up to {total_rounds} examples of a kind: no more "
                f"fit into {size}"
            )
        n_candidates = sum(candidate.round < self.n_rounds for candidate in self._candidates)
        n_left_out = n_candidates - len(self._drawn)
        if n_left_out:
            notes.append(
                f"{n_left_out} of {n_candidates} examples: their pictures do not fit into {size}"
            )
        return notes


def _picture_sizes(examples: Sequence[Example]) -> dict[bytes, int]:
    """Return the number of bytes of each distinct picture, by its content."""
    sizes = {}
    for example in examples:
        for picture in pictures_of(example):
            sizes[picture.content] = len(picture.content)
    return sizes
