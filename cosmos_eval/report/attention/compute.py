"""Pairs of image and text as requested, and the attention of models on them as records."""

import csv
import io
from collections.abc import Sequence
from functools import partial
from itertools import chain, groupby
from operator import attrgetter
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cosmos_core.utils.distributed import own_device
from cosmos_eval.data.readers import FileError, MissingFileError, read_text
from cosmos_eval.data.sources import ImageArray, ImageSource, ShownImage, as_shown, decoded
from cosmos_eval.models import load_encoder, maps
from cosmos_eval.models.encoder import CrossAttentionEncoder, DenseEncoder, Encoder
from cosmos_eval.types import (
    MAPS,
    Attention,
    EncoderInfo,
    MapKind,
    MapName,
    ModelSpec,
    Precision,
    UsageError,
)

_COLUMNS = ("image", "text")
_KINDS: dict[str | None, tuple[MapKind, ...]] = {
    **{name: (kind,) for name, kind in MAPS.items()},
    "both": (MAPS["cross-attention"], maps.SIMILARITY),
}
# Longest side of a row's picture in pixels, twice that of the largest panel.
_PICTURE = 680

Heads = Literal["mean", "each"]
Level = Literal["low", "middle", "high"]


class Pair(NamedTuple):
    """An image, named `name`, and a text."""

    name: str
    source: ImageSource
    text: str


class AttendOptions(NamedTuple):
    """How maps are computed."""

    kind: MapName | Literal["both"] | None = None  # the usual kind of each model
    heads: Heads = "mean"
    attention: Attention | None = None  # the form of the last block for similarity, csa if None
    device: str = "auto"
    precision: Precision = "fp32"


class WordShare(NamedTuple):
    """A word and its share of a caption's attention; `spaced` tells of white space before it.
    `scaled` is the share from the smallest (0) to the largest (1) word, None if all are equal."""

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


class CaptionShares(NamedTuple):
    """Attention of an image on a text: shares of words, start, end and padding, which sum to 1.
    `tokens` counts the whole text, of which `unread` does not fit the `context`, and of the last of
    `words` maybe only a part."""

    words: tuple[WordShare, ...]
    unread: str
    last_word_in_part: bool
    start: float
    end: float
    padding: float
    tokens: int
    context: int


class View(NamedTuple):
    """The map (h, w) of one head or of the mean of all: weights that sum to 1, or their log ratios;
    of a kind without heads cosines."""

    head: str
    map: NDArray[np.float32]
    caption: CaptionShares | None  # None for text-to-patch similarity

    def peak(self, size: tuple[int, int]) -> tuple[float, int, int]:
        """Return the largest value of the map, and x and y of the centre of its patch in pixels of
        an image of this width and height."""
        height, width = self.map.shape
        row, column = divmod(int(self.map.argmax()), width)
        x, y = (column + 0.5) / width * size[0], (row + 0.5) / height * size[1]
        return float(self.map[row, column]), int(x), int(y)


class Look(NamedTuple):
    """The maps of a model for a pair, one or one per head; `usual` is the model's own kind."""

    info: EncoderInfo
    usual: MapKind
    kind: MapKind
    attention: Attention | None
    views: tuple[View, ...]


class Row(NamedTuple):
    """A pair and the looks of all models: `picture` as drawn, `size` of the file in pixels."""

    name: str
    text: str
    picture: Image.Image
    size: tuple[int, int]
    looks: Sequence[Look]


def read_pairs(image: Path | None, texts: Sequence[str], file: Path | None) -> list[Pair]:
    """Return the pairs of an image and texts, or of a CSV file. Raises UsageError for neither."""
    if file is not None:
        if image is not None or texts:
            raise UsageError(f"--csv {file} names images and texts: leave IMAGE and --text out")
        return _pairs_of_csv(file)
    if image is None or not texts:
        missing = "an IMAGE" if image is None else "the text to look for with --text TEXT"
        raise UsageError(f"give {missing}, or --csv FILE with columns {' and '.join(_COLUMNS)}")
    return image_with_texts(image, texts)


def image_with_texts(image: Path | Image.Image, texts: Sequence[str]) -> list[Pair]:
    """Pair an image with each text. Raises UsageError for a blank text and a file of no image."""
    for text in texts:
        _require_text(text, "--text")
    source: ImageSource
    if isinstance(image, Path):
        name, source = image.name, ShownImage(image)
    else:
        name, source = "image", ImageArray("image", np.asarray(as_shown(image)))
    decoded(source)
    return [Pair(name, source, text) for text in texts]


def _pairs_of_csv(file: Path) -> list[Pair]:
    """Read a CSV file and every image in it; errors name the file, and the line of the fault."""
    pairs = []
    for line, row in _lines_of_csv(file):
        where = f"{file} line {line}"
        name, text = row["image"] or "", row["text"] or ""
        _require_text(text, f"{where}, column text")
        if not name.strip():
            raise UsageError(f"{where}, column image: no file is named")
        source = ShownImage(file.parent / name)
        try:
            decoded(source)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error
        pairs.append(Pair(name, source, text))
    if not pairs:
        raise UsageError(f"{file} has no rows: one per image and text, below {','.join(_COLUMNS)}")
    return pairs


def _lines_of_csv(file: Path) -> list[tuple[int, dict[str, str]]]:
    """Return rows with the number of their last line."""
    try:
        reader = csv.DictReader(io.StringIO(read_text(file), newline=""), strict=True)
        names = reader.fieldnames or ()
        if missing := [name for name in _COLUMNS if name not in names]:
            raise UsageError(
                f"{file} has no column {' and no column '.join(missing)}: its first line must "
                f"name {' and '.join(_COLUMNS)}, separated by commas"
            )
        return [(reader.line_num, row) for row in reader]
    except MissingFileError as error:
        raise UsageError(f"no such file: {file}") from error
    except (FileError, csv.Error) as error:
        raise UsageError(f"cannot read {file} as CSV in UTF-8: {error}") from error


def _require_text(text: str, where: str) -> None:
    if not text.strip():
        raise UsageError(f"{where} is empty: say what to look for")


def compute_rows(
    pairs: Sequence[Pair], specs: Sequence[ModelSpec], options: AttendOptions
) -> list[Row]:
    """Compute the attention of every model on every pair. Raises UsageError for a model that cannot
    be loaded or lacks the requested maps or heads."""
    columns = [_looks_of_model(pairs, spec, options) for spec in specs]
    if options.attention and not any(look.attention for looks in columns for look in looks[0]):
        raise UsageError("--attention is about similarity: add --kind similarity, or leave it out")
    rows = []
    for pair, *of_models in zip(pairs, *columns, strict=True):
        image = decoded(pair.source)
        # A very long image is squeezed, as the model sees it.
        sides = (round(_PICTURE * side / max(image.size)) for side in image.size)
        width, height = (max(side, _PICTURE // maps.LONGEST) for side in sides)
        picture = image.resize((width, height), Image.Resampling.LANCZOS)
        rows.append(Row(pair.name, pair.text, picture, image.size, [*chain(*of_models)]))
    return rows


def _looks_of_model(
    pairs: Sequence[Pair], spec: ModelSpec, options: AttendOptions
) -> list[list[Look]]:
    encoder = load_encoder(spec, device=own_device(options.device), precision=options.precision)
    usual = maps.usual_kind(encoder)
    crossed = isinstance(encoder, CrossAttentionEncoder)
    asked = _KINDS.get(options.kind, (usual,))
    kinds = [kind for kind in asked if crossed or kind == maps.SIMILARITY]
    if not kinds:
        raise UsageError(f"{encoder.info.spec} has no cross-attention; leave --kind out")
    if options.heads == "each" and not {*kinds} & {*maps.OF_WEIGHTS}:
        other = "add --kind cross-attention or " if crossed else ""
        raise UsageError(f"{spec.text}: maps of {kinds[0]} have no heads; {other}leave --heads out")
    looks: list[list[Look]] = []
    for _, group in groupby(pairs, key=attrgetter("name")):
        _, sources, texts = zip(*group, strict=True)
        image = decoded(sources[0])
        columns = [looks_at_image(encoder, image, texts, kind, options) for kind in kinds]
        looks += map(list, zip(*columns, strict=True))
    return looks


def looks_at_image(
    encoder: Encoder,
    image: Image.Image,
    texts: Sequence[str],
    kind: MapKind,
    options: AttendOptions,
) -> list[Look]:
    """Return the look at an image for each text. Raises UsageError for a text without words."""
    assert isinstance(encoder, DenseEncoder)  # or there would be no kinds
    images = maps.whole_image(encoder, image)[None]
    attention = options.attention or "csa"
    values = maps.heatmaps(encoder, images, texts, kind=kind, attention=attention)[0]
    look = partial(Look, encoder.info, maps.usual_kind(encoder), kind)
    if kind == maps.SIMILARITY:
        return [look(attention, (View("", one[0].numpy(), None),)) for one in values]
    assert isinstance(encoder, CrossAttentionEncoder)  # or it would have no such maps
    word_maps = maps.wordmaps(encoder, images, texts)
    for text, words in zip(texts, word_maps, strict=True):
        if not words.words:
            raise UsageError(f"{text!r} has no word that {encoder.info.spec} can read")
    context = encoder.tokenize(texts[:1]).shape[1]
    pairs = zip(values, word_maps, strict=True)
    return [look(None, _views(one, words, context, options)) for one, words in pairs]


def _views(
    values: Tensor, words: maps.WordMap, context: int, options: AttendOptions
) -> tuple[View, ...]:
    """Return the views of one text's maps (heads, h, w), each or their mean; words of a map without
    heads are weighed by the mean of all."""
    others = torch.stack([words.start, words.end, words.padding], -1)
    shares = torch.cat([words.shares, others], -1)[0]
    names = [f"head {number + 1}" for number in range(len(values))]
    if options.heads == "mean" or len(values) < len(shares):
        names = [f"mean of {len(values)} heads" if len(values) > 1 else ""]
        values, shares = values.mean(0, keepdim=True), shares.mean(0, keepdim=True)
    return tuple(
        View(name, one.numpy(), _caption(words, share, context))
        for name, one, share in zip(names, values, shares, strict=True)
    )


def _caption(words: maps.WordMap, shares: Tensor, context: int) -> CaptionShares:
    """Name the shares (words + 3) of a view: of the words, the start, the end and the padding."""
    *of_words, start, end, padding = shares.tolist()
    differ = len(set(of_words)) > 1
    levels = maps.scaled(shares[None, :-3])[0].tolist() if differ else [None] * len(of_words)
    read = {word.start for word in words.words}
    unread = [word for word in words.cut if word.start not in read]
    return CaptionShares(
        words=tuple(
            WordShare(word.text, share, level, word.spaced)
            for word, share, level in zip(words.words, of_words, levels, strict=True)
        ),
        unread="".join(f" {word.text}" if word.spaced else word.text for word in unread).strip(),
        last_word_in_part=len(unread) < len(words.cut),
        start=start,
        end=end,
        padding=padding,
        tokens=max(word.stop for word in (*words.words, *words.cut)) + 1,
        context=context,
    )
