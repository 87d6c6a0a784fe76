"""Audit benchmarks by stored results, and by their images and captions if these are on the disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.data import retrieval as retrieval_data
from cosmos_eval.data import selection as selection_data
from cosmos_eval.data.folders import Listing, content_hash
from cosmos_eval.data.frames import require_no_videos
from cosmos_eval.data.sources import ImageSource
from cosmos_eval.results.audit.document import MetricAudit, audit_metric
from cosmos_eval.results.audit.groups import SAME_WORDS, ItemGroup
from cosmos_eval.results.audit.metrics import AuditedMetric, read_metrics
from cosmos_eval.results.identity import CONTENT
from cosmos_eval.results.labels import StoredResult
from cosmos_eval.results.record import ResultRow
from cosmos_eval.results.table import select_metrics
from cosmos_eval.runner.overlap import EvaluationImages
from cosmos_eval.runner.plan import open_dataset, require_data_root
from cosmos_eval.stats.estimates import Ints
from cosmos_eval.stats.items import (
    bag_of_words,
    bag_of_words_chance,
    contradictions,
    number_equal,
    repeats,
)
from cosmos_eval.tasks import classification, find_protocol, retrieval, selection
from cosmos_eval.tasks.task import NAME
from cosmos_eval.types import OnProgress, Protocol, RunOptions, UsageError

COPIES, CONTRADICTING = "copies", "copies, other label"
SHARED_CAPTION = "caption fits others"

_TASKS = (classification.TASK.name, selection.TASK.name, retrieval.TASK.name)


def audit_results(
    results: Sequence[StoredResult],
    options: RunOptions,
    *,
    datasets: Sequence[str] = (),
    metric_patterns: Sequence[str] = (),
    reads_data: bool = True,
    show_progress: Callable[[str], OnProgress] | None = None,
) -> tuple[list[MetricAudit], list[str]]:
    """Audit the benchmarks on which results were measured.

    Args:
        results: The results. They may have several data sets.
        options: Where the data sets are, and how many threads read images.
        datasets: YAML files that describe users' data sets.
        metric_patterns: Patterns of the names of the audited metrics; empty for all.
        reads_data: True to search the images and captions of data sets that are on the disk.
        show_progress: A function that returns, for the name of a data set, the function that is
            called with the progress of searching it.

    Returns:
        The audit of each metric, and notes on what was not audited.

    Raises:
        UsageError: If the results cannot be audited, if the folder of data sets does not exist, or
            if a data set on the disk is not the one that was measured.
    """
    if options.data_root is not None and not Path(options.data_root).is_dir():
        raise UsageError(f"no folder {options.data_root}, see --data-root")
    metrics, notes = read_metrics(results)
    if not metrics:
        raise UsageError(f"nothing to audit: {'; '.join(notes) or 'there are no results'}")
    chosen_metrics = select_metrics(metrics, metric_patterns, lambda metric: metric.metric)
    protocols = _read_protocols(datasets, metrics)

    findings_by_set: dict[tuple[Any, ...], DataFindings] = {}
    audits = []
    for metric in chosen_metrics:
        row = metric.row
        # Two protocols may have the same data, which are then read once.
        hashes = row.provenance["hashes"]
        key = (row.task, row.dataset, hashes.get("sample_list"), hashes.get(CONTENT))
        if reads_data and key not in findings_by_set:
            on_progress = show_progress(row.dataset) if show_progress else None
            findings_by_set[key] = find_in_data(metric, options, protocols, on_progress)
        findings = findings_by_set.get(key)
        if findings is None:
            audits.append(audit_metric(metric, unknown=["copies and captions: --no-data"]))
        else:
            audits.append(audit_metric(metric, findings.groups(metric), findings.unknown))
    return audits, notes


def _read_protocols(
    files: Sequence[str], metrics: Sequence[AuditedMetric]
) -> dict[tuple[str, str, str], Protocol]:
    """Read the YAML files of users' data sets.

    Args:
        files: The paths of the files.
        metrics: The metrics to audit.

    Returns:
        The protocols by task, data set and protocol name.

    Raises:
        UsageError: If no result was measured on the data set of a file.
    """
    measured_sets = {_names_of_set(metric.row) for metric in metrics}
    protocols = {}
    for file in files:
        protocol = find_protocol(file)
        key = (protocol.task, protocol.dataset, protocol.protocol_name)
        if key not in measured_sets:
            raise UsageError(f"no result was measured on {protocol.dataset}: leave --dataset out")
        protocols[key] = protocol
    return protocols


def _names_of_set(row: ResultRow) -> tuple[str, str, str]:
    """Return the names of the task, the data set and the protocol of a result."""
    return row.task, row.dataset, row.protocol


class DataFindings:
    """The doubtful items that are found by searching the images and captions of a data set."""

    def __init__(self, data: Any = None, copy_of: Ints | None = None, unknown: str = "") -> None:
        """Keep the opened data, and which images are copies of each other.

        Args:
            data: The result of the task's `open_data`; None if the data are not on the disk.
            copy_of: (I,), a number for each image. Images that are copies have the same number.
            unknown: A sentence that says what could not be searched; empty if everything was.
        """
        self._data = data
        self._copy_of = copy_of
        self.unknown = [unknown] if unknown else []

    def groups(self, metric: AuditedMetric) -> list[ItemGroup]:
        """Return the groups of doubtful items of a metric; none if the data are not on the disk."""
        if self._data is None or self._copy_of is None:
            return []
        if metric.row.task == classification.TASK.name:
            return list(_class_groups(self._data.labels, self._copy_of, self._data.names))
        if metric.row.task == selection.TASK.name:
            return list(_selection_groups(self._data, self._copy_of))
        return list(
            _retrieval_groups(
                self._data, self._copy_of, are_queries_captions=metric.has_captions_as_items
            )
        )


def find_in_data(
    metric: AuditedMetric,
    options: RunOptions,
    protocols: Mapping[tuple[str, str, str], Protocol],
    progress: OnProgress | None = None,
) -> DataFindings:
    """Open the data set of a metric, and search its images for copies.

    If only the captions are on the disk, no images are searched.

    Args:
        metric: A metric on the data set.
        options: Where data sets are, and how many threads read images.
        protocols: Users' protocols by task, data set and protocol name.
        progress: Called with the number of images that are read.

    Raises:
        UsageError: If the data on the disk are not those that were measured.
    """
    row = metric.row
    if row.task not in _TASKS:
        return DataFindings(unknown=f"copies: data of task {row.task} are not searched")
    protocol = protocols.get(_names_of_set(row))
    try:
        if protocol is None:
            protocol = find_protocol(row.dataset, row.protocol)
        limited_options = replace(
            options,
            limit=row.provenance["limit"],
            allow_partial="partial" in row.provenance,
        )
        require_data_root(protocol, limited_options)
        data = open_dataset(protocol, limited_options, check=False).data
    except UsageError as error:
        data = _list_captions(protocol, options) if protocol else None
        if data is None:
            return DataFindings(unknown=f"copies and captions: the data are not there: {error}")
        _require_measured_names(metric, data)
        without_copies = np.arange(len(data.images))  # every image has a number of its own
        return DataFindings(data, without_copies, f"copies: the images are not there: {error}")

    _require_measured_names(metric, data)
    images = EvaluationImages.read(_numbered_images(data), options, progress or _ignore)
    _require_measured_content(row, data, images)
    return DataFindings(data, find_copies(images, len(data.images)))


def _list_captions(protocol: Any, options: RunOptions) -> Any:
    """Return the captions of a data set whose images are missing.

    Return None if the task has no captions, or if they are missing as well.

    Args:
        protocol: The protocol of the data set.
        options: Where data sets are.
    """
    list_data_by_task: dict[str, Callable[[Any, RunOptions], Listing[Any]]] = {
        selection.TASK.name: selection_data.list_data,
        retrieval.TASK.name: retrieval_data.list_data,
    }
    list_data = list_data_by_task.get(protocol.task)
    if list_data is None:
        return None
    try:
        return list_data(protocol, options).data
    except UsageError:
        return None


def _ignore(progress: Any) -> None:
    """Do nothing, if no progress is shown."""


def _numbered_images(data: Any) -> dict[str, ImageSource]:
    """Return the images of a data set by their index as a text, since names may occur twice."""
    require_no_videos(data.images)
    return {str(index): image for index, image in enumerate(data.images)}


def _require_measured_names(metric: AuditedMetric, data: Any) -> None:
    """Raise UsageError unless the opened data have the items that were measured, by their names."""
    samples = metric.samples[0]
    if hasattr(data, "names"):
        names = [str(name) for name in data.names]
    else:
        names = [str(data.pictures[images[0]].file) for images in data.images_of_item]
    if NAME in samples and names != [str(name) for name in samples[NAME]]:
        raise _other_data_error(metric.row, "its items have other names")
    if len(names) != metric.row.n_samples:
        raise _other_data_error(metric.row, f"it has {len(names):,} items")


def _require_measured_content(row: ResultRow, data: Any, images: EvaluationImages) -> None:
    """Raise UsageError if the images or labels are not those that a result recorded by a hash.

    Args:
        row: The result. Results of older versions have no hash, and are not checked.
        data: The opened data set. Only classification sets have `labels`.
        images: The digests of its images, which `_numbered_images` named "0", "1" and so on.
    """
    recorded_content = row.provenance["hashes"].get(CONTENT)
    if recorded_content is None:
        return
    digest_of_image = {}
    for digest, image_names in images.names_by_digest.items():
        for image_name in image_names:
            digest_of_image[image_name] = digest
    digests = [digest_of_image[str(index)] for index in range(len(data.images))]
    if content_hash(digests, getattr(data, "labels", None)) != recorded_content:
        raise _other_data_error(row, "its images or labels are other ones")


def _other_data_error(row: ResultRow, difference: str) -> UsageError:
    """Return the error for data on the disk that are not those that were measured."""
    return UsageError(
        f"{row.dataset} on the disk is not what was measured: {difference}; restore it, or add "
        "--no-data"
    )


def find_copies(images: EvaluationImages, n_images: int) -> NDArray[np.int64]:
    """Return a number for each image (I,). Images that are copies of each other have the same one.

    Images are copies if their files are the same, or if `cosmos-eval overlap` would report them.
    Copies of copies count as copies: all items of a connected component have the same number, in a
    graph in which each edge joins two copies.

    Args:
        images: The images, whose names are their indices as texts.
        n_images: Their number I.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    is_uncropped = np.array([name == "whole" for name in images.copy_names], bool)
    uncropped = np.flatnonzero(is_uncropped)
    keys = [images.image_names[index] for index in uncropped.tolist()]
    pairs = []
    for match in images.near_duplicates("", keys, images.pictures[uncropped]):
        pairs.append((int(match.key), int(match.image)))
    for names in images.names_by_digest.values():
        pairs += [(int(names[0]), int(name)) for name in names]
    first_images, second_images = np.array(pairs, np.int64).reshape(-1, 2).T
    is_edge = np.ones(len(pairs), bool)
    edges = coo_array((is_edge, (first_images, second_images)), shape=(n_images, n_images))
    _, copy_of = connected_components(edges, directed=False)
    return np.asarray(copy_of, np.int64)


def _class_groups(labels: Ints, copy_of: Ints, names: Sequence[str]) -> Iterator[ItemGroup]:
    """Yield the group of copies with the same label, and the group of copies with another label.

    Args:
        labels: (N,), the labels of the images.
        copy_of: (N,), a number for each image. Copies have the same number.
        names: (N,), the names of the images.
    """
    is_contradicted = contradictions(copy_of, labels)
    details = _copy_details(copy_of, names)
    is_repeat = repeats(copy_of) & ~is_contradicted
    yield _group_of(COPIES, is_repeat, details)
    yield _group_of(CONTRADICTING, is_contradicted, details)


def _selection_groups(data: Any, copy_of: Ints) -> Iterator[ItemGroup]:
    """Yield the groups of doubtful items of caption selection.

    They are the items that are copies, with the same or another right caption, and the items whose
    right and wrong captions have the same words. Items are copies if their images are copies and
    their captions are the same.

    Args:
        data: The opened data set.
        copy_of: (I,), a number for each image. Copies have the same number.
    """
    keys = []
    right_answers = []
    for images, captions, n_right in zip(
        data.images_of_item, data.captions_of_item, data.n_correct_of_item, strict=True
    ):
        keys.append((tuple(sorted(copy_of[images])), tuple(sorted(captions.tolist()))))
        right_answers.append(tuple(sorted(captions[:n_right].tolist())))
    copy_of_item = number_equal(keys)
    is_contradicted = contradictions(copy_of_item, number_equal(right_answers))
    names = [str(index) for index in range(len(keys))]
    details = _copy_details(copy_of_item, names)
    yield _group_of(COPIES, repeats(copy_of_item) & ~is_contradicted, details)
    yield _group_of(CONTRADICTING, is_contradicted, details)
    if data.chosen != "images":
        yield _same_words_group(data)


def _same_words_group(data: Any) -> ItemGroup:
    """Return the group of items that a model which ignores word order solves by chance only."""
    chances = []
    details = []
    for captions, n_right in zip(data.captions_of_item, data.n_correct_of_item, strict=True):
        texts = [data.captions[caption] for caption in captions]
        # With two images and two captions, the first caption is the right one of the first image.
        chance = bag_of_words_chance(texts, int(n_right))
        chances.append(chance)
        details.append(" | ".join(texts) if chance < 1 else "")
    is_same = np.array(chances) < 1
    return ItemGroup(SAME_WORDS, is_same, 1 - np.array(chances), details, expected=0.0)


def _retrieval_groups(
    data: Any, copy_of: Ints, *, are_queries_captions: bool
) -> Iterator[ItemGroup]:
    """Yield the queries whose image has copies, and the queries whose caption fits other images.

    A caption fits another image that is not a copy if that image has a caption with the same words.

    Args:
        data: The opened data set.
        copy_of: (I,), a number for each image. Copies have the same number.
        are_queries_captions: True if captions are the queries, false if images are.
    """
    image_of_text = np.asarray(data.image_of_text)
    has_copies = np.bincount(copy_of)[copy_of] > 1
    bag_of_text = number_equal([bag_of_words(caption) for caption in data.captions])
    fits_others = contradictions(bag_of_text, copy_of[image_of_text])
    details = _copy_details(copy_of, data.names)
    if are_queries_captions:
        details_of_text = [details[image] for image in image_of_text.tolist()]
        yield _group_of(COPIES, has_copies[image_of_text], details_of_text)
        yield _group_of(SHARED_CAPTION, fits_others, data.captions)
    else:
        yield _group_of(COPIES, has_copies, details)
        has_shared_caption = np.zeros(len(copy_of), bool)
        has_shared_caption[image_of_text[fits_others]] = True
        yield _group_of(SHARED_CAPTION, has_shared_caption, ())


def _group_of(name: str, items: NDArray[np.bool_], details: Sequence[str]) -> ItemGroup:
    """Return a group whose items are all equally doubtful. None is expected without a fault."""
    return ItemGroup(name, items, items.astype(float), details, expected=0.0)


def _copy_details(copy_of: Ints, names: Sequence[str]) -> list[str]:
    """Return for each item a phrase that names its copies, (N,). It is empty without copies.

    Example:
        The numbers [0, 1, 0] and the names a, b and c give ["like c", "", "like a"].
    """
    items_by_number: dict[int, list[int]] = {}
    for item, number in enumerate(copy_of.tolist()):
        items_by_number.setdefault(number, []).append(item)
    details = []
    for item, number in enumerate(copy_of.tolist()):
        copies = [names[other] for other in items_by_number[number] if other != item]
        details.append(f"like {', '.join(copies)}" if copies else "")
    return details
