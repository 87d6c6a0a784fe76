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
from cosmos_eval.reporting.gallery.records import Example, Picture, pictures_of
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
    """Draws images as encoded pictures of one scale, each only once.

    Threads may share a canvas; at worst, two of them draw the same picture.
    """

    def __init__(self, scale: float = 1.0) -> None:
        """Create a canvas whose pictures have `scale` times their usual width and height."""
        self._scale = scale
        self._thumbnails: dict[str, Picture] = {}
        self._by_content: dict[bytes, Picture] = {}

    def thumbnail(self, source: ImageSource) -> Picture:
        """Encode an image of a data set as a small picture. Raises UsageError if it is damaged."""
        if source.name not in self._thumbnails:
            self._thumbnails[source.name] = self.large(decode_source(source), THUMBNAIL)
        return self._thumbnails[source.name]

    def large(self, image: Image.Image, longest: int = LARGE) -> Picture:
        """Encode an RGB image, reduced so that its longest side has at most `longest` pixels.

        The number of pixels is multiplied by the scale of the canvas.
        """
        size = _fit_size(image.size, longest * self._scale)
        # Resizing to the same size changes no pixel.
        return self._encode(image.resize(size, Image.Resampling.LANCZOS))

    def label_map(self, classes: Label, colours: Sequence[Rgb8], size: Size) -> Picture:
        """Draw a label map in the colours of its classes.

        Args:
            classes: (H, W), the index of the class of each pixel. Larger values are pixels without
                a class, which are transparent.
            colours: The colour of each class.
            size: The width and height of the picture in pixels.
        """
        # The colour and the opacity of each value of a pixel. Those without a class stay 0.
        rgba_by_value = np.zeros((VALUES, 4), np.uint8)
        rgba_by_value[: len(colours)] = [(*colour, 255) for colour in colours]
        resized = Image.fromarray(shrunk(classes)).resize(size, Image.Resampling.NEAREST)
        rgba = rgba_by_value[np.asarray(resized)]
        return self._encode(Image.fromarray(rgba), _LOSSLESS)

    def heat_map(self, values: NDArray[np.float32], size: Size) -> Picture:
        """Draw the values of an image's patches, such as an attention map, in colours.

        The colours go from a faint blue for the least value to yellow for the largest.

        Args:
            values: (h, w), the value of each patch.
            size: The width and height of the picture in pixels.
        """
        scaled_values = (values - values.min()) / (np.ptp(values) or 1)  # from 0 to 1
        # Linear between the centres of patches, as in cosmos_eval.models.maps.
        resized = Image.fromarray(scaled_values).resize(size, Image.Resampling.BILINEAR)
        pixels = np.asarray(resized)
        # Interpolate red, green and blue between the colours of viridis, and also the opacity.
        steps = np.linspace(0, 1, len(_VIRIDIS))
        channels = [np.interp(pixels, steps, channel) for channel in np.transpose(_VIRIDIS)]
        alpha = 255 * np.interp(pixels, (0, 1), _OPACITY)
        rgba = np.stack([*channels, alpha], axis=-1)
        return self._encode(Image.fromarray((rgba + 0.5).astype(np.uint8)))

    def size_of(self, image_size: Size) -> Size:
        """Return the size of the picture that `large` draws of an image with this size."""
        return _fit_size(image_size, LARGE * self._scale)

    def _encode(self, image: Image.Image, encoding: dict[str, Any] = _LOSSY) -> Picture:
        """Encode an image as WebP, by options of Pillow. Equal pictures become one object."""
        content = io.BytesIO()
        image.save(content, format="WEBP", **encoding)
        picture = Picture(content.getvalue(), "image/webp", image.width, image.height)
        return self._by_content.setdefault(picture.content, picture)


def shrunk(classes: Label) -> Label:
    """Return a label map (H, W) reduced to the largest size in which label maps are drawn."""
    height, width = classes.shape
    size = _fit_size((width, height), LARGE)
    return np.asarray(Image.fromarray(classes).resize(size, Image.Resampling.NEAREST))


def _fit_size(size: Size, longest: float) -> Size:
    """Return a size with the same proportions whose longest side has at most `longest` pixels.

    For example, (640, 480) becomes (320, 240) for `longest` of 320, and (100, 50) stays.
    """
    width, height = size
    factor = min(1.0, longest / max(size))
    return max(1, round(factor * width)), max(1, round(factor * height))


class Candidate(NamedTuple):
    """An example that can be drawn."""

    # The round of examples that it is added in. Round 0 has the first examples of all sections.
    round: int
    # Draws the example on a canvas. Raises UsageError if an image cannot be used.
    draw: Callable[[Canvas], Example]


def select(
    candidates: Sequence[Candidate], budget: int, workers: int, progress: OnProgress
) -> tuple[list[Example], list[str]]:
    """Draw as many whole rounds of examples as fit into a budget of bytes.

    If round 0 does not fit, all pictures are drawn smaller. If it does not fit at the smallest
    scale either, as many of its examples as fit are drawn. A picture of several examples counts
    once.

    Args:
        candidates: The examples that can be drawn, each with its round.
        budget: The most bytes of all pictures.
        workers: The number of threads that draw examples at the same time.
        progress: Called with the number of examples that were drawn.

    Returns:
        The examples in the order of their candidates, and a note on each thing that is not shown.
    """
    n_rounds = max((candidate.round for candidate in candidates), default=-1) + 1
    for scale in _SCALES:
        selection = _Selection(candidates, scale, budget, workers, progress)
        while selection.n_rounds < n_rounds:
            fits = selection.add_round()
            if not fits:
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
        """Start without any example.

        Args:
            candidates: The examples that can be drawn, each with its round.
            scale: The width and height of pictures relative to their usual ones.
            budget: The most bytes of all pictures.
            workers: The number of threads that draw examples at the same time.
            progress: Called with the number of examples that were drawn.
        """
        # The rounds that were added so far.
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
        """Draw and add the next round of candidates, and return True.

        If the pictures of the round do not fit into the budget, add nothing and return False. At
        the smallest scale round 0 always fits: examples that do not fit are left out.
        """
        is_smallest_scale = self._scale == _SCALES[-1]
        may_leave_out = is_smallest_scale and self.n_rounds == 0
        indices = []
        for index, candidate in enumerate(self._candidates):
            if candidate.round == self.n_rounds:
                indices.append(index)

        # The round is kept only if all of it fits: work on copies.
        drawn = dict(self._drawn)
        examples = self.examples()
        size_by_content = _picture_sizes(examples)
        n_done = len(examples)
        results = prefetch(indices, self._draw, workers=self._workers, window=4 * self._workers)
        for index, result in zip(indices, results, strict=True):
            sizes_with_result = dict(size_by_content)
            if isinstance(result, Example):
                sizes_with_result.update(_picture_sizes([result]))
            fits_into_budget = sum(sizes_with_result.values()) <= self._budget
            if fits_into_budget:
                drawn[index] = result
                size_by_content = sizes_with_result
            elif not may_leave_out:
                return False
            n_done += 1
            self._progress(Progress("pictures", n_done, len(self._candidates)))
        self._drawn = drawn
        self.n_rounds += 1
        return True

    def _draw(self, index: int) -> Example | UsageError:
        """Draw the candidate with an index. If its image cannot be used, return the error."""
        try:
            return self._candidates[index].draw(self._canvas)
        except UsageError as error:
            return error

    def examples(self) -> list[Example]:
        """Return the examples that were drawn, in the order of their candidates."""
        results = [self._drawn[index] for index in sorted(self._drawn)]
        return [result for result in results if isinstance(result, Example)]

    def notes(self) -> list[str]:
        """Return a line for each image that cannot be used, and for each kind of reduction.

        Pictures may be smaller, rounds may be missing, and single examples may be left out.
        """
        notes = [str(result) for result in self._drawn.values() if isinstance(result, UsageError)]
        budget = f"{self._budget / 1000:,.0f} kB"
        if self._scale < 1:
            notes.append(
                f"pictures at their usual size: at {self._scale:.0%} of it more of them fit into "
                f"{budget}"
            )
        total_rounds = max(candidate.round for candidate in self._candidates) + 1
        if self.n_rounds < total_rounds:
            notes.append(
                f"more than {self.n_rounds} of up to {total_rounds} examples of a kind: no more "
                f"fit into {budget}"
            )
        n_candidates = sum(candidate.round < self.n_rounds for candidate in self._candidates)
        n_left_out = n_candidates - len(self._drawn)
        if n_left_out:
            notes.append(
                f"{n_left_out} of {n_candidates} examples: their pictures do not fit into {budget}"
            )
        return notes


def _picture_sizes(examples: Sequence[Example]) -> dict[bytes, int]:
    """Return the number of bytes of each distinct picture of examples, by the picture's content.

    Pictures with the same content count once.
    """
    size_by_content = {}
    for example in examples:
        for picture in pictures_of(example):
            size_by_content[picture.content] = len(picture.content)
    return size_by_content
