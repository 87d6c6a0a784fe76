"""What models look at, as numbers: what is asked, and what every form of output is made from."""

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

KINDS: dict[Kind | Literal["both"], tuple[MapKind, ...]] = {
    "cross-attention": ("cross-attention",),
    "similarity": ("text-to-patch similarity",),
    "both": ("cross-attention", "text-to-patch similarity"),
}
"""What is shown of a model that has it, as it is typed."""


class Pair(NamedTuple):
    """An image and a text; `name` is what the image is called."""

    name: str
    source: ImageSource
    text: str


@dataclass(frozen=True, kw_only=True)
class Looking:
    """How models look. `kind` None: the one that a model usually has.

    `attention` is the form of the last block for similarity; None is csa.
    """

    kind: Kind | Literal["both"] | None = None
    heads: Heads = "mean"
    attention: Attention | None = None
    device: str = "auto"
    precision: Precision = "fp32"


class WordShare(NamedTuple):
    """A word and its share of a caption's attention, the sum of its tokens.

    `scaled` is the share between the least of the caption's words (0) and the largest (1), None
    where there is nothing to compare. `spaced` says whether white space precedes the word.
    """

    text: str
    share: float
    scaled: float | None
    spaced: bool

    @property
    def level(self) -> Level | None:
        """In which third of the caption's range the word is."""
        if self.scaled is None:
            return None
        return "low" if self.scaled < 1 / 3 else "middle" if self.scaled < 2 / 3 else "high"


@dataclass(frozen=True, kw_only=True)
class CaptionShares:
    """How an image looks at a text: shares that sum to 1 over words, start, end and padding.

    `unread` is the end of the text where it does not fit the context at all; where `halved` is true
    the last of `words` is read in part. `tokens` counts those of the whole text with its start and
    end.
    """

    words: tuple[WordShare, ...]
    unread: str
    halved: bool
    start: float
    end: float
    padding: float
    tokens: int
    context: int


class Spot(NamedTuple):
    """The largest value of a map, and the centre of its patch in pixels of the image."""

    value: float
    x: int
    y: int


@dataclass(frozen=True, kw_only=True)
class View:
    """What one head, or the mean of all, looks at: a map (h, w) over patches, and the text.

    The map holds weights that sum to 1, or cosines. `caption` is None where the model has no
    cross-attention or shows similarity.
    """

    head: str
    map: NDArray[np.float32]
    caption: CaptionShares | None

    def peak(self, size: tuple[int, int]) -> Spot:
        """Where the map is largest, in an image of this width and height."""
        height, width = self.map.shape
        row, column = divmod(int(self.map.argmax()), width)
        x, y = (column + 0.5) / width * size[0], (row + 0.5) / height * size[1]
        return Spot(float(self.map[row, column]), int(x), int(y))


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a model makes of a pair: a view, or one a head. `attention` is that of similarity.

    `usual` is the kind that the model usually has.
    """

    info: EncoderInfo
    usual: MapKind
    kind: MapKind
    attention: Attention | None
    views: tuple[View, ...]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A pair and what all models look at in it.

    `picture` is the image as large as it is drawn; `size` is the image's own, in pixels.
    """

    name: str
    text: str
    picture: Image.Image
    size: tuple[int, int]
    looks: Sequence[Look]
