"""Pairs of image and text as requested, and the attention of models on them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cosmos_core.utils.distributed import own_device
from cosmos_eval.data.readers import FileError, MissingFileError, read_text
from cosmos_eval.data.sources import ImageArray, ImageSource, ShownImage, as_shown
from cosmos_eval.models import load_encoder
from cosmos_eval.models.encoder import CrossAttentionEncoder, DenseEncoder, Encoder
from cosmos_eval.models.maps import (
    LONGEST,
    WordMap,
    heatmaps,
    scaled,
    usual_kind,
    whole_image,
    wordmaps,
)
from cosmos_eval.report.attention.records import (
    AttendOptions,
    CaptionShares,
    Look,
    Pair,
    Row,
    View,
    WordShare,
)
from cosmos_eval.types import MapKind, ModelSpec, UsageError

COLUMNS = ("image", "text")
KINDS: dict[str, tuple[MapKind, ...]] = {
    "cross-attention": ("cross-attention",),
    "similarity": ("text-to-patch similarity",),
    "both": ("cross-attention", "text-to-patch similarity"),
}
"""The kinds of maps by the option that requests them."""

PICTURE = 680
"""Longest side of a row's picture in pixels, twice that of the largest panel."""


def read_pairs(image: Path | None, texts: Sequence[str], file: Path | None) -> list[Pair]:
    """Return the pairs of an image and texts, or of a CSV file. Raises UsageError for neither."""
    if file is not None:
        if image is not None or texts:
            raise UsageError(f"--csv {file} names images and texts: leave IMAGE and --text out")
        return _pairs_of_csv(file)
    if image is None or not texts:
        missing = "an IMAGE" if image is None else "what to look for with --text TEXT"
        raise UsageError(f"say {missing}, or --csv FILE with columns {' and '.join(COLUMNS)}")
    return image_with_texts(image, texts)


def image_with_texts(image: Path | Image.Image, texts: Sequence[str]) -> list[Pair]:
    """Pair an image with each text. Raises UsageError for a blank text and a file of no image."""
    for text in texts:
        _require_text(text, "--text")
    if isinstance(image, Path):
        source: ImageSource = ShownImage(image)
        source.decode(source.read())
        return [Pair(image.name, source, text) for text in texts]
    source = ImageArray("image", np.asarray(as_shown(image)))
    return [Pair("image", source, text) for text in texts]


def _pairs_of_csv(file: Path) -> list[Pair]:
    """Read a CSV file with columns `image` and `text`, and every image; paths relate to the file.

    Raises UsageError that names the file, and the line of the fault.
    """
    pairs = []
    for line, row in _lines_of_csv(file):
        where = f"{file} line {line}"
        name, text = row["image"] or "", row["text"] or ""
        _require_text(text, f"{where}, column text")
        if not name.strip():
            raise UsageError(f"{where}, column image: no file is named")
        source = ShownImage(file.parent / name)
        try:
            source.decode(source.read())
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error
        pairs.append(Pair(name, source, text))
    if not pairs:
        raise UsageError(f"{file} has no rows: one per image and text, below {','.join(COLUMNS)}")
    return pairs


def _lines_of_csv(file: Path) -> list[tuple[int, dict[str, str]]]:
    """Rows with the number of their last line."""
    try:
        reader = csv.DictReader(io.StringIO(read_text(file), newline=""), strict=True)
        names = reader.fieldnames or ()
        if missing := [name for name in COLUMNS if name not in names]:
            raise UsageError(
                f"{file} has no column {' and no column '.join(missing)}: its first line must "
                f"name {' and '.join(COLUMNS)}, separated by commas"
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
    """Compute the attention on every pair, one model after the other.

    Raises UsageError for a model that cannot be loaded, has no map of the requested kind or no
    heads to show one by one.
    """
    columns = [_looks_of_model(pairs, spec, options) for spec in specs]
    if options.attention and not any(look.attention for looks in columns for look in looks[0]):
        raise UsageError("--attention is about similarity: add --kind similarity, or leave it out")
    rows = []
    for pair, *looks in zip(pairs, *columns, strict=True):
        image = pair.source.decode(pair.source.read())
        rows.append(
            Row(
                name=pair.name,
                text=pair.text,
                picture=_as_drawn(image),
                size=image.size,
                looks=[look for of_model in looks for look in of_model],
            )
        )
    return rows


def _looks_of_model(
    pairs: Sequence[Pair], spec: ModelSpec, options: AttendOptions
) -> list[list[Look]]:
    """The looks of one model at each pair."""
    encoder = load_encoder(spec, device=own_device(options.device), precision=options.precision)
    kinds = _kinds_of(encoder, options)
    if options.heads == "each" and "cross-attention" not in kinds:
        raise UsageError(f"{spec.text}: similarity has no heads; leave --heads out")
    looks: list[list[Look]] = []
    for _, group in groupby(pairs, key=lambda pair: pair.name):
        of_image = list(group)
        source, texts = of_image[0].source, [pair.text for pair in of_image]
        image = source.decode(source.read())
        columns = [looks_at_image(encoder, image, texts, kind, options) for kind in kinds]
        looks += map(list, zip(*columns, strict=True))
    return looks


def _kinds_of(encoder: Encoder, options: AttendOptions) -> list[MapKind]:
    """The requested kinds of maps that a model has. Raises UsageError for none."""
    usual = usual_kind(encoder)
    if options.kind is None:
        return [usual]
    # Every model with cross-attention can show similarity as well.
    found = [kind for kind in KINDS[options.kind] if kind in (usual, *KINDS["similarity"])]
    if not found:
        raise UsageError(f"{encoder.info.spec} has no cross-attention; leave --kind out")
    return found


def looks_at_image(
    encoder: Encoder,
    image: Image.Image,
    texts: Sequence[str],
    kind: MapKind,
    options: AttendOptions,
) -> list[Look]:
    """Return the look at an image for each text. Raises UsageError for a text without words."""
    assert isinstance(encoder, DenseEncoder)  # or there would be no kinds
    images = whole_image(encoder, image)[None]
    attention = options.attention or "csa"
    maps = heatmaps(encoder, images, texts, kind=kind, attention=attention)[0]
    if kind == "cross-attention":
        views = _attention_views(encoder, images, texts, maps, options)
    else:
        views = [(View(head="", map=one[0].numpy(), caption=None),) for one in maps]
    return [
        Look(
            info=encoder.info,
            usual=usual_kind(encoder),
            kind=kind,
            attention=None if kind == "cross-attention" else attention,
            views=of_text,
        )
        for of_text in views
    ]


def _attention_views(
    encoder: Encoder, images: Tensor, texts: Sequence[str], maps: Tensor, options: AttendOptions
) -> list[tuple[View, ...]]:
    assert isinstance(encoder, CrossAttentionEncoder)  # or it would have no such maps
    words = wordmaps(encoder, images, texts)
    for text, word_map in zip(texts, words, strict=True):
        if not word_map.words:
            raise UsageError(f"{text!r} has no word that {encoder.info.spec} can read")
    context = encoder.tokenize(texts[:1]).shape[1]
    return [_views(*of_text, context, options) for of_text in zip(maps, words, strict=True)]


def _views(maps: Tensor, words: WordMap, context: int, options: AttendOptions) -> tuple[View, ...]:
    """The views of one text's maps (heads, h, w), each or their mean."""
    shares = torch.cat(
        [words.shares[0], torch.stack([words.start, words.end, words.padding], -1)[0]], -1
    )
    names = [f"head {number + 1}" for number in range(len(maps))]
    if options.heads == "mean":
        names = [f"mean of {len(maps)} heads"]
        maps, shares = maps.mean(0, keepdim=True), shares.mean(0, keepdim=True)
    return tuple(
        View(head=name, map=one.numpy(), caption=_caption(words, share, context))
        for name, one, share in zip(names, maps, shares, strict=True)
    )


def _caption(words: WordMap, shares: Tensor, context: int) -> CaptionShares:
    """Name the shares (words + 3) of a view: of the words, the start, the end and the padding."""
    *of_words, start, end, padding = shares.tolist()
    relative = scaled(shares[None, :-3])[0].tolist() if of_words else []
    comparable = len(set(of_words)) > 1
    read = {word.start for word in words.words}
    unread = [word for word in words.cut if word.start not in read]
    return CaptionShares(
        words=tuple(
            WordShare(word.text, share, level if comparable else None, word.spaced)
            for word, share, level in zip(words.words, of_words, relative, strict=True)
        ),
        unread="".join(f" {word.text}" if word.spaced else word.text for word in unread).strip(),
        last_word_in_part=any(word.start in read for word in words.cut),
        start=start,
        end=end,
        padding=padding,
        tokens=max(word.stop for word in (*words.words, *words.cut)) + 1,
        context=context,
    )


def _as_drawn(image: Image.Image) -> Image.Image:
    """Resize an image as it is drawn; a very long one is squeezed, as the model sees it."""
    longest, shortest = max(image.size), min(image.size)
    long, short = PICTURE, max(round(PICTURE * shortest / longest), PICTURE // LONGEST)
    size = (long, short) if image.width >= image.height else (short, long)
    return image.resize(size, Image.Resampling.LANCZOS)
