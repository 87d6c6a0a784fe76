"""Read pairs of image and text, and compute the attention of models on them."""

import csv
import io
from collections.abc import Sequence
from itertools import groupby
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
from cosmos_eval.data.sources import (
    ImageArray,
    ImageSource,
    ShownImage,
    decode_source,
    to_displayed_rgb,
)
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
# The longest side of a row's picture in pixels: twice the side of the largest panel.
_PICTURE_SIDE = 680

Heads = Literal["mean", "each"]
Level = Literal["low", "middle", "high"]


class Pair(NamedTuple):
    """An image and a text."""

    # The name of the image.
    name: str
    source: ImageSource
    text: str


class AttendOptions(NamedTuple):
    """The settings that maps are computed with."""

    # None is the usual kind of each model; "both" is cross-attention and similarity.
    kind: MapName | Literal["both"] | None = None
    heads: Heads = "mean"
    # The form of the last block for similarity; None is csa.
    attention: Attention | None = None
    device: str = "auto"
    precision: Precision = "fp32"


class WordShare(NamedTuple):
    """A word and its share of a caption's attention."""

    text: str
    share: float
    # The share on a scale from the smallest (0) to the largest (1) share of the caption's words.
    # None if all are equal.
    scaled: float | None
    # Whether white space comes before the word.
    spaced: bool

    @property
    def level(self) -> Level | None:
        """The third of the caption's scale that the word is in. None if all words are equal."""
        if self.scaled is None:
            return None
        if self.scaled < 1 / 3:
            return "low"
        if self.scaled < 2 / 3:
            return "middle"
        return "high"


class CaptionShares(NamedTuple):
    """The attention of an image on a text: shares that sum to 1."""

    words: tuple[WordShare, ...]
    # The end of the text, if it does not fit the model's context.
    unread: str
    # Whether only a part of the last of `words` fits the context.
    last_word_in_part: bool
    # The shares of the start of text, its end, and the padding after it.
    start: float
    end: float
    padding: float
    # The number of tokens of the whole text, and of the model's context.
    tokens: int
    context: int


class View(NamedTuple):
    """The map of one head, or of the mean of all heads."""

    # The name of the head, or of the mean; empty for kinds without heads.
    head: str
    # The values of the patches (h, w): weights that sum to 1, log ratios of weights, or cosines.
    map: NDArray[np.float32]
    # None for text-to-patch similarity.
    caption: CaptionShares | None

    def peak(self, size: tuple[int, int]) -> tuple[float, int, int]:
        """Return the largest value of the map, and x and y of the centre of its patch.

        x and y are in pixels of an image whose width and height are `size`. For example, the centre
        of the first of 2 x 2 patches of an image of 100 x 60 pixels is at x 25, y 15.
        """
        image_width, image_height = size
        n_rows, n_columns = self.map.shape
        flat_index = int(self.map.argmax())
        row, column = divmod(flat_index, n_columns)
        x = (column + 0.5) / n_columns * image_width
        y = (row + 0.5) / n_rows * image_height
        return float(self.map[row, column]), int(x), int(y)


class Look(NamedTuple):
    """The attention of a model on a pair of image and text: its maps of one kind."""

    info: EncoderInfo
    # The usual kind of the model.
    usual: MapKind
    kind: MapKind
    # The form of the last block for similarity; None for other kinds.
    attention: Attention | None
    # The map of the mean of all heads, or one map for each head.
    views: tuple[View, ...]


class Row(NamedTuple):
    """A pair of image and text, and the attention of all models on it."""

    name: str
    text: str
    # The image as it is drawn.
    picture: Image.Image
    # Width and height of the image itself in pixels.
    size: tuple[int, int]
    looks: Sequence[Look]


def read_pairs(image: Path | None, texts: Sequence[str], file: Path | None) -> list[Pair]:
    """Return the pairs of an image with each text, or the pairs in a CSV file.

    Args:
        image: The file of the image, or None.
        texts: The texts to look for in the image.
        file: A CSV file with the columns `image` and `text`, instead of an image and texts.

    Raises:
        UsageError: Neither an image with texts nor a file is given, or both are, or they cannot be
            read.
    """
    if file is not None:
        if image is not None or texts:
            raise UsageError(f"--csv {file} names images and texts: leave IMAGE and --text out")
        return _read_csv_pairs(file)
    if image is not None and texts:
        return image_with_texts(image, texts)
    missing = "an IMAGE" if image is None else "the text to look for with --text TEXT"
    raise UsageError(f"give {missing}, or --csv FILE with columns {' and '.join(_COLUMNS)}")


def image_with_texts(image: Path | Image.Image, texts: Sequence[str]) -> list[Pair]:
    """Return one pair of the image with each text.

    Args:
        image: A file, or an image in memory.
        texts: The texts to look for in the image.

    Raises:
        UsageError: A text is blank, or the image cannot be read.
    """
    for text in texts:
        _require_text(text, "--text")
    name = "image"
    source: ImageSource
    if isinstance(image, Path):
        name = image.name
        source = ShownImage(image)
    else:
        source = ImageArray(name, np.asarray(to_displayed_rgb(image)))
    decode_source(source)  # to raise errors before any model is loaded
    return [Pair(name, source, text) for text in texts]


def _read_csv_pairs(file: Path) -> list[Pair]:
    """Return the pairs in a CSV file with the columns `image` and `text`.

    Images are named relative to the folder of the file. Raises UsageError for a fault, with the
    file and the line.
    """
    pairs = []
    for line_number, row in _read_csv_rows(file):
        place = f"{file} line {line_number}"
        name = row["image"] or ""
        text = row["text"] or ""
        _require_text(text, f"{place}, column text")
        if not name.strip():
            raise UsageError(f"{place}, column image: no file is named")
        source = ShownImage(file.parent / name)
        try:
            decode_source(source)
        except UsageError as error:
            raise UsageError(f"{place}: {error}") from error
        pairs.append(Pair(name, source, text))
    if not pairs:
        raise UsageError(f"{file} has no rows: one per image and text, below {','.join(_COLUMNS)}")
    return pairs


def _read_csv_rows(file: Path) -> list[tuple[int, dict[str, str]]]:
    """Return the rows of a CSV file, each with the number of its last line.

    For example, [(2, {"image": "cat.jpg", "text": "a cat"})]. Raises UsageError if the file cannot
    be read, or lacks a column.
    """
    try:
        reader = csv.DictReader(io.StringIO(read_text(file), newline=""), strict=True)
        column_names = reader.fieldnames or ()
        missing_columns = [name for name in _COLUMNS if name not in column_names]
        if missing_columns:
            raise UsageError(
                f"{file} has no column {' and no column '.join(missing_columns)}: its first line "
                f"must name {' and '.join(_COLUMNS)}, separated by commas"
            )
        return [(reader.line_num, row) for row in reader]
    except MissingFileError as error:
        raise UsageError(f"no such file: {file}") from error
    except (FileError, csv.Error) as error:
        raise UsageError(f"cannot read {file} as CSV in UTF-8: {error}") from error


def _require_text(text: str, place: str) -> None:
    """Raise UsageError for a blank text, and name the place that it comes from."""
    if not text.strip():
        raise UsageError(f"{place} is empty: say what to look for")


def compute_rows(
    pairs: Sequence[Pair], specs: Sequence[ModelSpec], options: AttendOptions
) -> list[Row]:
    """Compute the attention of every model on every pair of image and text.

    Args:
        pairs: The pairs of image and text.
        specs: The models, which are loaded one after the other.
        options: The kind of maps, and how models are run.

    Returns:
        One row for each pair, with the attention of all models.

    Raises:
        UsageError: A model cannot be loaded, or lacks the requested maps or heads.
    """
    # For each pair, the attention of all models: one look for each model and kind of map.
    looks_of_pairs: list[list[Look]] = [[] for _ in pairs]
    for spec in specs:
        looks_of_model = _compute_looks(pairs, spec, options)
        for looks, new_looks in zip(looks_of_pairs, looks_of_model, strict=True):
            looks += new_looks
    if options.attention and not any(look.attention for look in looks_of_pairs[0]):
        raise UsageError("--attention is about similarity: add --kind similarity, or leave it out")
    rows = []
    for pair, looks in zip(pairs, looks_of_pairs, strict=True):
        image = decode_source(pair.source)
        # Draw the image with a longest side of 680 pixels. An image that is much longer than wide
        # is squeezed, as it is for models.
        longest = max(image.size)
        least_side = _PICTURE_SIDE // maps.LONGEST
        width = max(round(_PICTURE_SIDE * image.width / longest), least_side)
        height = max(round(_PICTURE_SIDE * image.height / longest), least_side)
        picture = image.resize((width, height), Image.Resampling.LANCZOS)
        rows.append(Row(pair.name, pair.text, picture, image.size, looks))
    return rows


def _compute_looks(
    pairs: Sequence[Pair], spec: ModelSpec, options: AttendOptions
) -> list[list[Look]]:
    """Load a model, and return its attention on each pair of image and text.

    Args:
        pairs: The pairs of image and text.
        spec: The model.
        options: The kind of maps, and how the model is run.

    Returns:
        For each pair, a list with one look for each kind of map.

    Raises:
        UsageError: The model cannot be loaded, or lacks the requested maps or heads.
    """
    encoder = load_encoder(spec, device=own_device(options.device), precision=options.precision)
    kinds = _find_map_kinds(encoder, options)
    _require_heads(encoder, spec, kinds, options)
    looks_of_pairs: list[list[Look]] = []
    # Successive pairs with the same image are computed together, so that it is encoded once.
    for _, pairs_of_image in groupby(pairs, key=attrgetter("name")):
        image_pairs = list(pairs_of_image)
        image = decode_source(image_pairs[0].source)
        texts = [pair.text for pair in image_pairs]
        looks_of_texts: list[list[Look]] = [[] for _ in texts]
        for kind in kinds:
            looks_of_kind = looks_at_image(encoder, image, texts, kind, options)
            for looks, look in zip(looks_of_texts, looks_of_kind, strict=True):
                looks.append(look)
        looks_of_pairs += looks_of_texts
    return looks_of_pairs


def _find_map_kinds(encoder: Encoder, options: AttendOptions) -> list[MapKind]:
    """Return the kinds of maps that are requested and that a model has.

    Models without cross-attention have similarity only. For example, the option `kind="both"` gives
    ["cross-attention", "text-to-patch similarity"] for a model with cross-attention, and only the
    latter for others. `encoder` is the loaded model. Raises UsageError if it has none of the
    requested kinds.
    """
    usual_kind = maps.default_map_kind(encoder)
    if options.kind is None:
        requested_kinds = [usual_kind]
    elif options.kind == "both":
        requested_kinds = [MAPS["cross-attention"], maps.SIMILARITY]
    else:
        requested_kinds = [MAPS[options.kind]]
    if isinstance(encoder, CrossAttentionEncoder):
        return requested_kinds
    kinds = [kind for kind in requested_kinds if kind == maps.SIMILARITY]
    if not kinds:
        raise UsageError(f"{encoder.info.spec} has no cross-attention; leave --kind out")
    return kinds


def _require_heads(
    encoder: Encoder, spec: ModelSpec, kinds: Sequence[MapKind], options: AttendOptions
) -> None:
    """Raise UsageError if maps of every head are requested, but no kind of map has heads.

    Args:
        encoder: The loaded model.
        spec: The model as the user named it, for the message.
        kinds: The kinds of maps that are computed.
        options: The requested heads.
    """
    wants_each_head = options.heads == "each"
    have_heads = any(kind in maps.OF_WEIGHTS for kind in kinds)
    if not wants_each_head or have_heads:
        return
    advice = "leave --heads out"
    if isinstance(encoder, CrossAttentionEncoder):
        advice = f"add --kind cross-attention or {advice}"
    raise UsageError(f"{spec.text}: maps of {kinds[0]} have no heads; {advice}")


def looks_at_image(
    encoder: Encoder,
    image: Image.Image,
    texts: Sequence[str],
    kind: MapKind,
    options: AttendOptions,
) -> list[Look]:
    """Return the attention of a model on an image for each text: maps of one kind.

    Args:
        encoder: The loaded model.
        image: The image.
        texts: The texts to look for in the image.
        kind: The kind of the maps, such as "cross-attention".
        options: True if maps show the mean of all heads or each head, and the form of
            attention.

    Raises:
        UsageError: A text has no words.
    """
    assert isinstance(encoder, DenseEncoder)  # other encoders have no usual kind of map
    images = maps.whole_image(encoder, image)[None]  # a batch of one image
    attention = options.attention or "csa"
    # The maps of the only image, (texts, heads, h, w).
    values = maps.heatmaps(encoder, images, texts, kind=kind, attention=attention)[0]
    usual_kind = maps.default_map_kind(encoder)
    looks: list[Look] = []

    # Maps of similarity have no heads, and no shares of words.
    if kind == maps.SIMILARITY:
        for values_of_text in values:
            view = View(head="", map=values_of_text[0].numpy(), caption=None)
            looks.append(Look(encoder.info, usual_kind, kind, attention, (view,)))
        return looks

    # Maps of cross-attention have the shares of words besides.
    assert isinstance(encoder, CrossAttentionEncoder)  # other encoders have similarity only
    word_maps = maps.wordmaps(encoder, images, texts)
    for text, word_map in zip(texts, word_maps, strict=True):
        if not word_map.words:
            raise UsageError(f"{text!r} has no word that {encoder.info.spec} can read")
    context_length = encoder.tokenize(texts[:1]).shape[1]
    for values_of_text, word_map in zip(values, word_maps, strict=True):
        views = _make_views(values_of_text, word_map, context_length, options)
        looks.append(Look(encoder.info, usual_kind, kind, None, views))
    return looks


def _make_views(
    values: Tensor, word_map: maps.WordMap, context_length: int, options: AttendOptions
) -> tuple[View, ...]:
    """Return the maps of one text as views: one for each head, or one for the mean of all heads.

    The shares of words always have heads. If the maps have no heads, there is one view with the
    mean of the shares.

    Args:
        values: (heads, h, w), the maps of the text.
        word_map: The shares of the text's words in the attention, by head.
        context_length: The number of tokens that the model reads.
        options: True if to return the mean of all heads or each head.
    """
    special_shares = torch.stack([word_map.start, word_map.end, word_map.padding], -1)
    shares = torch.cat([word_map.shares, special_shares], -1)[0]  # (heads, words + 3)
    n_heads = len(values)
    maps_have_heads = n_heads >= len(shares)
    if options.heads == "mean" or not maps_have_heads:
        names = [f"mean of {n_heads} heads" if n_heads > 1 else ""]
        values = values.mean(0, keepdim=True)
        shares = shares.mean(0, keepdim=True)
    else:
        names = [f"head {number + 1}" for number in range(n_heads)]
    views = []
    for name, values_of_head, shares_of_head in zip(names, values, shares, strict=True):
        caption = _make_caption(word_map, shares_of_head, context_length)
        views.append(View(name, values_of_head.numpy(), caption))
    return tuple(views)


def _make_caption(word_map: maps.WordMap, shares: Tensor, context_length: int) -> CaptionShares:
    """Return the attention on a text, from the words of the text and their shares.

    Args:
        word_map: The words of the text, both those that the model reads and those that are cut off.
        shares: (words + 3,), the share of each word that is read, and then the shares of the start
            of text, its end and the padding.
        context_length: The number of tokens that the model reads.
    """
    *word_shares, start, end, padding = shares.tolist()
    # The shares on a scale from 0 to 1, or None if all are equal.
    scaled_shares: list[float | None] = [None] * len(word_shares)
    shares_differ = len(set(word_shares)) > 1
    if shares_differ:
        scaled_shares = maps.scale_to_unit_range(shares[None, :-3])[0].tolist()
    words = []
    for word, share, scaled in zip(word_map.words, word_shares, scaled_shares, strict=True):
        words.append(WordShare(word.text, share, scaled, word.spaced))

    # The words that are cut off. A word that is read in part is among both `words` and `cut`.
    read_starts = {word.start for word in word_map.words}
    unread_words = [word for word in word_map.cut if word.start not in read_starts]
    unread = ""
    for word in unread_words:
        unread += f" {word.text}" if word.spaced else word.text
    last_token = max(word.stop for word in (*word_map.words, *word_map.cut))
    is_last_word_in_part = len(unread_words) < len(word_map.cut)
    return CaptionShares(
        words=tuple(words),
        unread=unread.strip(),
        last_word_in_part=is_last_word_in_part,
        start=start,
        end=end,
        padding=padding,
        tokens=last_token + 1,
        context=context_length,
    )
