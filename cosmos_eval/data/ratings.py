"""Captions that people rated: Flickr8k-Expert, Flickr8k-CF and Composite. Imports no torch."""

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.data import folders
from cosmos_eval.data.readers import (
    FileError,
    first_repeated,
    lines,
    read_records,
    read_text,
    report_faults_at,
    shortened,
)
from cosmos_eval.data.sources import ImageFile, ImageSource, open_image_place
from cosmos_eval.types import FoundSamples, RatingsProtocol, RunOptions, UsageError

MOST_CELLS = 1 << 23
"""The largest table of scores by ratings, whose cells are counted in memory."""
_TOKENS = "Flickr8k.token.txt"
# The lists of Composite, whose rows have an image's address in this column, then the captions and
# then their ratings: evaluation code of several papers reads them so, and takes three captions.
_COMPOSITE_CAPTIONS = {"8k_correctness.csv": 3, "30k_correctness.csv": 4, "coco_correctness.csv": 4}
_COMPOSITE_COLUMN = 27
_COMPOSITE_RATED = 3


class RatedData(NamedTuple):
    """N ratings of captions. Every distinct image and caption is stored once."""

    # Names of the I images, as the lists have them.
    names: tuple[str, ...]
    # The I images.
    images: tuple[ImageSource, ...]
    # The distinct captions, each in the protocol's template.
    captions: tuple[str, ...]
    # (N,) the index of each rating's image, and of its caption.
    image_of_rating: NDArray[np.int64]
    caption_of_rating: NDArray[np.int64]
    # (N,) the ratings; higher is better.
    ratings: NDArray[np.float64]
    # How many ratings are in the lists, if the complete data set has more.
    found_samples: FoundSamples | None = None


class _Rating(NamedTuple):
    """A judgement of a person, or the mean of several ones."""

    image: str
    caption: str
    rating: float


def open_data(protocol: RatingsProtocol, options: RunOptions) -> RatedData:
    """Return the rated captions of a data set, with their images.

    Args:
        protocol: The data set and how it is measured.
        options: `limit` keeps only the first ratings. `allow_partial` accepts fewer ratings than
            the complete data set has.

    Raises:
        UsageError: If all ratings are equal, and if anything else is wrong with the data set.
    """
    data = list_data(protocol, options).checked_data(protocol, options)
    are_equal = (data.ratings == data.ratings[0]).all()
    if are_equal:
        raise UsageError(
            f"{protocol.dataset}: all {len(data.ratings)} ratings are equal, so that Kendall's tau "
            "is undefined: measure more of them with a larger --limit, or without it"
        )
    return data


def list_data(protocol: RatingsProtocol, options: RunOptions) -> folders.Listing[RatedData]:
    """Return the ratings of a data set, together with everything wrong with them.

    Missing images and a wrong number of ratings are recorded in the listing and not raised.

    Args:
        protocol: The data set and how it is measured.
        options: `limit` keeps only the first ratings.

    Raises:
        UsageError: If the ratings cannot be read.
    """
    list_path = folders.data_path(protocol, options, protocol.annotations, "ratings")
    all_ratings = _read_ratings(list_path, protocol)
    ratings = all_ratings[: options.limit]
    index_by_image = folders.number_distinct(rating.image for rating in ratings)
    index_by_caption = folders.number_distinct(rating.caption for rating in ratings)

    image_folders, images, missing_files = _locate_images(protocol, options, list(index_by_image))
    faults = []
    if missing_files:
        faults.append(folders.missing_images_fault(protocol, list_path, missing_files, len(images)))
    counts = folders.compare_counts(items=(len(all_ratings), protocol.n_items))
    data = RatedData(
        names=tuple(index_by_image),
        images=tuple(images),
        captions=tuple(protocol.template.replace("{}", text) for text in index_by_caption),
        image_of_rating=np.array([index_by_image[rating.image] for rating in ratings]),
        caption_of_rating=np.array([index_by_caption[rating.caption] for rating in ratings]),
        ratings=np.array([rating.rating for rating in ratings], np.float64),
        found_samples=folders.find_shortfall(counts),
    )
    return folders.Listing(
        data=data,
        path=list_path,
        counts=counts,
        survey=folders.Survey(
            faults=tuple(faults),
            folder=str(image_folders[0]),
            expected=len(images),
            images=len(images) - len(missing_files),
            expected_items=protocol.n_items or len(all_ratings),
            items=len(all_ratings),
        ),
    )


def _locate_images(
    protocol: RatingsProtocol, options: RunOptions, names: Sequence[str]
) -> tuple[list[Path], list[ImageSource], list[Path]]:
    """Return the folders that exist, the source of every image, and the paths of missing images.

    An image is looked for in all folders, because Composite has images of three data sets. Raise
    UsageError if none of the folders exists.
    """
    relative_paths = folders.as_tuple(protocol.images)
    root = folders.root_of(protocol, options, relative_paths)
    paths = [root / path for path in relative_paths if (root / path).exists()]
    if not paths:
        raise folders.missing_path_error(protocol, root, relative_paths, "images")
    places = [open_image_place(path) for path in paths]
    images: list[ImageSource] = []
    missing_files = []
    for name in names:
        image: ImageSource | None = None
        for place in places:
            image = image or place.find(name)
        if image is None:
            missing_files.append(paths[0] / name)
        images.append(image or ImageFile(paths[0] / name))
    return paths, images, missing_files


def _read_ratings(path: Path, protocol: RatingsProtocol) -> list[_Rating]:
    """Return the ratings in a file or folder. Raise UsageError for a broken or empty one."""
    with report_faults_at(f"{path}: "):
        ratings = list(_LAYOUTS[protocol.layout](path))
        n_kinds = len({rating.rating for rating in ratings})
        if n_kinds < 2:
            raise FileError("must hold ratings that differ")
        if n_kinds * len(ratings) > MOST_CELLS:
            raise FileError(f"holds {n_kinds} different ratings, too many: round them")
    return ratings


def _make_rating(image: Any, caption: Any, rating: Any, location: str) -> _Rating:
    """Return a rating, whose caption has single spaces. Raise FileError for a wrong value."""
    if not isinstance(image, str) or not image.strip():
        raise FileError(f"{location}: the image must be a name, not {shortened(image)}")
    if not isinstance(caption, str) or not caption.strip():
        raise FileError(f"{location}: the caption must be text, not {shortened(caption)}")
    try:
        number = float(rating)
    except (TypeError, ValueError):
        number = float("nan")
    if not np.isfinite(number):
        raise FileError(f"{location}: the rating must be a number, not {shortened(rating)}")
    return _Rating(image, " ".join(caption.split()), number)


def _read_rows(path: Path, n_columns: int) -> Iterator[tuple[str, list[str]]]:
    """Yield the location and the cells of each line of a file whose columns are separated by tabs.

    Raise FileError for a line with another number of columns.
    """
    for number, line in lines(read_text(path)):
        cells = line.split("\t")
        if len(cells) != n_columns:
            raise FileError(f"line {number}: has {len(cells)} columns, not {n_columns}")
        yield f"line {number}", cells


def _read_flickr8k_captions(folder: Path) -> dict[str, str]:
    """Return the captions of Flickr8k by their ids, such as `1.jpg#0`.

    Raise UsageError if the file is damaged, or has an id twice.
    """
    with report_faults_at(f"{folder / _TOKENS}: "):
        rows = [cells for _, cells in _read_rows(folder / _TOKENS, 2)]
        if repeated := first_repeated(caption_id for caption_id, _ in rows):
            raise FileError(f"has caption {repeated[0]} twice")
    return dict(rows)


def _caption_of(captions: Mapping[str, str], caption_id: str, location: str) -> str:
    """Return the caption with an id. Raise FileError if there is none."""
    if caption_id not in captions:
        raise FileError(f"{location}: {_TOKENS} beside it has no caption {caption_id}")
    return captions[caption_id]


def _read_flickr8k_expert(path: Path) -> Iterator[_Rating]:
    """Yield the ratings 1 to 4 of Flickr8k's three experts, each as a rating of its own.

    A caption that is one of the image's own is left out, as in flickr8k_example/download.py of
    github.com/jmhessel/clipscore (1036465). As there, an image is known by its name up to the first
    point, since one image is `2258277193_586949ec62.jpg.1` in the list of captions.
    """
    captions = _read_flickr8k_captions(path.parent)
    captions_by_image = defaultdict(set)
    for caption_id, text in captions.items():
        captions_by_image[caption_id.partition(".")[0]].add(text)
    for location, (image, caption_id, *ratings) in _read_rows(path, 5):
        caption = _caption_of(captions, caption_id, location)
        if caption in captions_by_image[image.partition(".")[0]]:
            continue
        for rating in ratings:
            yield _make_rating(image, caption, rating, location)


def _read_flickr8k_cf(path: Path) -> Iterator[_Rating]:
    """Yield the share of people who said that a caption describes an image.

    The columns are the image, the caption, the share, and the numbers of yes and no.
    """
    captions = _read_flickr8k_captions(path.parent)
    for location, (image, caption_id, share, _, _) in _read_rows(path, 5):
        caption = _caption_of(captions, caption_id, location)
        yield _make_rating(image, caption, share, location)


def _read_composite(folder: Path) -> Iterator[_Rating]:
    """Yield the ratings 1 to 5 of Composite's captions of Flickr8k, Flickr30k and COCO.

    Columns are separated by semicolons. Only the first three captions of an image are taken. Rows
    without an address end a list.
    """
    for file_name, n_captions in _COMPOSITE_CAPTIONS.items():
        path = folder / file_name
        with report_faults_at(f"{path}: "):
            try:
                rows = list(csv.reader(io.StringIO(read_text(path)), delimiter=";", strict=True))
            except csv.Error as error:
                raise FileError(f"is no table: {error}") from error
            for number, cells in enumerate(rows[1:], start=2):
                address = cells[_COMPOSITE_COLUMN] if len(cells) > _COMPOSITE_COLUMN else ""
                if not address.strip():
                    continue
                first_rating = _COMPOSITE_COLUMN + 1 + n_captions
                if len(cells) < first_rating + n_captions:
                    raise FileError(f"row {number}: has {len(cells)} columns, too few")
                image = PurePosixPath(address).name
                for place in range(_COMPOSITE_RATED):
                    caption = cells[_COMPOSITE_COLUMN + 1 + place]
                    rating = cells[first_rating + place]
                    yield _make_rating(image, caption, rating, f"row {number}")


def _read_listed_ratings(path: Path) -> Iterator[_Rating]:
    """Yield the ratings of records `{"image": "1.jpg", "caption": "A dog", "rating": 3}`."""
    for location, record in read_records(path):
        fields = record if isinstance(record, dict) else {}
        yield _make_rating(
            fields.get("image"), fields.get("caption"), fields.get("rating"), location
        )


_LAYOUTS: Mapping[str, Callable[[Path], Iterator[_Rating]]] = {
    "records": _read_listed_ratings,
    "flickr8k-expert": _read_flickr8k_expert,
    "flickr8k-cf": _read_flickr8k_cf,
    "composite": _read_composite,
}
