"""Attention of models as numbers: the request, and the records behind every form of output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cosmos_eval.data.sources import ImageSource
from cosmos_eval.types import Attention, EncoderInfo, MapKind, Precision

Kind = Literal["cross-attention", "similarity"]
Heads = Literal["mean", "each"]
Level = Literal["low", "middle", "high"]


class Pair(NamedTuple):
    """An image, named `name`, and a text."""

    name: str
    source: ImageSource
    text: str


@dataclass(frozen=True, kw_only=True)
class AttendOptions:
    """How maps are computed. `kind` None is the usual kind of each model.

    `attention` is the form of the last block for similarity; None is csa.
    """

    kind: Kind | Literal["both"] | None = None
    heads: Heads = "mean"
    attention: Attention | None = None
    device: str = "auto"
    precision: Precision = "fp32"


class WordShare(NamedTuple):
    """A word and its share of a caption's attention; `spaced` tells of white space before it.

    `scaled` is the share from the smallest (0) to the largest (1) word, None if all are equal.
    """

    text: str
    share: float
    scaled: float | None
    spaced: bool

    @property
    def level(self) -> Level | None:
        """The third of the caption's range that the word is in."""
        if self.scaled is None:
            return None
        return "low" if self.scaled < 1 / 3 else "middle" if self.scaled < 2 / 3 else "high"


@dataclass(frozen=True, kw_only=True)
class CaptionShares:
    """Attention of an image on a text: shares of words, start, end and padding, which sum to 1.

    `tokens` counts the whole text, of which `unread` does not fit the `context`, and of the last of
    `words` maybe only a part.
    """

    words: tuple[WordShare, ...]
    unread: str
    last_word_in_part: bool
    start: float
    end: float
    padding: float
    tokens: int
    context: int


class Peak(NamedTuple):
    """The largest value of a map, and the centre of its patch in pixels of the image."""

    value: float
    x: int
    y: int


@dataclass(frozen=True, kw_only=True)
class View:
    """The map (h, w) of one head or of the mean of all: weights that sum to 1, or cosines.

    `caption` is None for text-to-patch similarity.
    """

    head: str
    map: NDArray[np.float32]
    caption: CaptionShares | None

    def peak(self, size: tuple[int, int]) -> Peak:
        """The largest value of the map, in an image of this width and height."""
        height, width = self.map.shape
        row, column = divmod(int(self.map.argmax()), width)
        x, y = (column + 0.5) / width * size[0], (row + 0.5) / height * size[1]
        return Peak(float(self.map[row, column]), int(x), int(y))


@dataclass(frozen=True, kw_only=True)
class Look:
    """The maps of a model for a pair, one or one per head; `usual` is the model's own kind."""

    info: EncoderInfo
    usual: MapKind
    kind: MapKind
    attention: Attention | None
    views: tuple[View, ...]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A pair and the looks of all models: `picture` as drawn, `size` of the file in pixels."""

    name: str
    text: str
    picture: Image.Image
    size: tuple[int, int]
    looks: Sequence[Look]
