"""Queries whose positives are ranked in a gallery, with all images and texts. Imports no torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.data import folders
from cosmos_eval.data.ranking_layouts import (
    Box,
    ListedQuery,
    ListedSearch,
    ListPaths,
    read_searches,
)
from cosmos_eval.data.readers import report_faults_at
from cosmos_eval.data.sources import CroppedImage, ImageFile, ImageSource, open_image_place
from cosmos_eval.types import FoundSamples, RankingProtocol, RunOptions

Ints = NDArray[np.int64]


class Query(NamedTuple):
    """A query, by indices of images and texts, and its items, by indices in the gallery."""

    # The index of its image, its text, or both.
    image: int | None
    text: int | None
    # (p,): its positives, and whether each is hard.
    positives: Ints
    is_hard: NDArray[np.bool_]
    # Items that are removed from its ranking.
    junk: Ints
    # The subset in which CIRR ranks again.
    subset: Ints
    # Queries with the same number depend on each other.
    cluster: int
    # The number of positives that the gallery lacks.
    n_unranked: int


class Search(NamedTuple):
    """Queries of one kind and the gallery in which they rank."""

    # The start of the names of metrics, such as `image_to_text`; empty if there is one kind.
    direction: str
    # Whether the gallery has captions, and not images.
    has_captions: bool
    # (G,): the index of each item among the images or the captions.
    gallery: Ints
    queries: tuple[Query, ...]


class RankingData(NamedTuple):
    """The images and texts of a data set, each once, and the searches that refer to them."""

    # Names of the I images, with the box if one is cut out.
    names: tuple[str, ...]
    # The I images.
    images: tuple[ImageSource, ...]
    # The texts of queries and galleries.
    captions: tuple[str, ...]
    searches: tuple[Search, ...]
    # How many queries are in the lists, if the complete data set has more.
    found_samples: FoundSamples | None = None


def open_data(protocol: RankingProtocol, options: RunOptions) -> RankingData:
    """Return the queries and galleries of a data set.

    Args:
        protocol: The data set and how it is measured.
        options: `limit` keeps only the first queries of each search; galleries stay whole.
            `allow_partial` accepts lists with fewer queries than the complete data set.

    Raises:
        UsageError: If anything else is wrong with the data set.
    """
    return list_data(protocol, options).checked_data(protocol, options)


def list_data(protocol: RankingProtocol, options: RunOptions) -> folders.Listing[RankingData]:
    """Return the queries and galleries of a data set, together with everything wrong with them.

    Missing images and wrong numbers are recorded in the listing and not raised.

    Args:
        protocol: The data set and how it is measured.
        options: `limit` keeps only the first queries of each search.

    Raises:
        UsageError: If the lists cannot be read.
    """
    list_path = folders.data_path(protocol, options, protocol.annotations, "queries")
    gallery_path = None
    if protocol.gallery:
        gallery_path = folders.data_path(protocol, options, protocol.gallery, "gallery")
    image_folder = folders.data_path(protocol, options, protocol.images, "images")
    with report_faults_at(f"{list_path}: "):
        searches = read_searches(ListPaths(list_path, gallery_path), protocol)

    n_queries = sum(len(search.queries) for search in searches)
    n_positives = sum(query.n_positives for search in searches for query in search.queries)
    n_images = sum(len(search.gallery) for search in searches if search.captions is None)
    counts = folders.compare_counts(
        queries=(n_queries, protocol.n_queries),
        images=(n_images, protocol.n_images),
        positives=(n_positives, protocol.n_positives),
    )
    numbering = _Numbering()
    numbered_searches = [numbering.search(search, options.limit) for search in searches]
    image_keys = list(numbering.number_by_image)
    images, missing_files = _locate_images(image_keys, image_folder, protocol)
    data = RankingData(
        names=tuple(name if box is None else f"{name} {list(box)}" for name, box in image_keys),
        images=tuple(images),
        captions=tuple(numbering.number_by_text),
        searches=tuple(numbered_searches),
        found_samples=folders.find_shortfall(counts),
    )
    faults = []
    if missing_files:
        faults.append(
            folders.missing_images_fault(protocol, list_path, missing_files, len(data.images))
        )
    return folders.Listing(
        data=data,
        path=list_path,
        counts=counts,
        survey=folders.Survey(
            faults=tuple(faults),
            folder=str(image_folder),
            expected=len(data.images),
            images=len(data.images) - len(missing_files),
            expected_items=protocol.n_queries or n_queries,
            items=n_queries,
        ),
    )


def sample_list(data: RankingData) -> list[Any]:
    """Return everything that identifies images, texts and queries, as JSON can hold it."""
    entries: list[Any] = [data.names, data.captions]
    for search in data.searches:
        entries.append([search.direction, search.gallery.tolist()])
        for query in search.queries:
            fields = [query.positives, query.is_hard, query.junk, query.subset]
            numbers = [query.image, query.text, query.n_unranked]
            entries.append([*numbers, *(field.tolist() for field in fields)])
    return entries


class _Numbering:
    """Numbers the images and texts of all searches, each once, from 0."""

    def __init__(self) -> None:
        """Begin without any image, text or cluster."""
        self.number_by_image: dict[tuple[str, Box | None], int] = {}
        self.number_by_text: dict[str, int] = {}
        self.number_by_cluster: dict[tuple[str, str], int] = {}

    def image(self, name: str, box: Box | None = None) -> int:
        """Return the number of an image, or of a box of it."""
        return self.number_by_image.setdefault((name, box), len(self.number_by_image))

    def text(self, text: str) -> int:
        """Return the number of a text."""
        return self.number_by_text.setdefault(text, len(self.number_by_text))

    def search(self, search: ListedSearch, limit: int | None) -> Search:
        """Return a search with numbers in place of names, and its first `limit` queries."""
        if search.captions is None:
            gallery = [self.image(key) for key in search.gallery]
        else:
            gallery = [self.text(search.captions[key]) for key in search.gallery]
        place_by_key = {key: place for place, key in enumerate(search.gallery)}
        queries = []
        for query in search.queries[:limit]:
            queries.append(self._query(query, search.direction, place_by_key))
        return Search(
            direction=search.direction,
            has_captions=search.captions is not None,
            gallery=np.array(gallery),
            queries=tuple(queries),
        )

    def _query(self, query: ListedQuery, direction: str, place_by_key: Mapping[str, int]) -> Query:
        """Return a query with numbers in place of names.

        Args:
            query: The query of the list.
            direction: The direction of its search: other directions have other clusters.
            place_by_key: The place in the gallery of each item.
        """
        cluster_key = direction, query.cluster or query.image or query.text or ""
        return Query(
            image=None if query.image is None else self.image(query.image, query.box),
            text=None if query.text is None else self.text(query.text),
            positives=_places(query.positives, place_by_key),
            is_hard=np.isin(query.positives, query.hard),
            junk=_places(query.junk, place_by_key),
            subset=_places(query.subset, place_by_key),
            cluster=self.number_by_cluster.setdefault(cluster_key, len(self.number_by_cluster)),
            n_unranked=query.n_unranked,
        )


def _places(keys: Sequence[str], place_by_key: Mapping[str, int]) -> Ints:
    """Return the place of each item in the gallery, (n,)."""
    return np.array([place_by_key[key] for key in keys], np.int64)


def _locate_images(
    image_keys: Sequence[tuple[str, Box | None]], image_folder: Path, protocol: RankingProtocol
) -> tuple[list[ImageSource], list[Path]]:
    """Return the source of every image, and the paths of missing files.

    The source of a missing image is a file that does not exist.

    Args:
        image_keys: The name of each image, and the box that is cut out of it or None.
        image_folder: The folder or zip file of the images.
        protocol: States the suffix that names lack.
    """
    image_place = open_image_place(image_folder)
    images: list[ImageSource] = []
    missing_files = []
    for name, box in image_keys:
        file = name.removesuffix(protocol.image_suffix) + protocol.image_suffix
        image = image_place.find(file)
        if image is None:
            missing_files.append(image_folder / file)
            image = ImageFile(image_folder / file)
        images.append(image if box is None else CroppedImage(image, box))
    return images, missing_files
