"""`cosmos-eval overlap`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import asdict
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument

from cosmos_core.utils.distributed import is_main_process, own_device, process_group
from cosmos_eval.cli import options
from cosmos_eval.cli.completion import model_names
from cosmos_eval.cli.options import File, Text, option
from cosmos_eval.cli.output import print_json, print_line, print_notes, print_records
from cosmos_eval.results.text import percent
from cosmos_eval.types import ModelSpec, RunOptions, Samples, UsageError

if TYPE_CHECKING:
    from cosmos_eval.models.encoder import Encoder
    from cosmos_eval.results.record import ResultRow
    from cosmos_eval.runner.overlap import Overlap

_MATCHES_PRINTED = 10  # the JSON document has all matches
_LEAST_COSINE = 0.95  # of a near-duplicate
_WORKERS = os.cpu_count() or 1


def overlap(
    shards: Annotated[
        str,
        Argument(metavar="SHARDS", help="Tars of training images, as in 'data/{000..099}.tar'."),
    ],
    dataset: options.Dataset,
    results: Annotated[File, option("DIR|FILE", "Results to show without the images.")] = None,
    model: Annotated[
        Text, option("SPEC", "Also compare embeddings of this model.", autocompletion=model_names)
    ] = None,
    cosine: Annotated[
        float | None,
        option(
            "X",
            f"Least cosine of a near-duplicate by --model. Default: {_LEAST_COSINE}.",
            min=0,
            max=1,
        ),
    ] = None,
    format: options.Format = "table",
    data_root: options.DataRoot = None,
    device: options.Device = RunOptions.device,
    workers: options.Workers = _WORKERS,
) -> None:
    """Find images of a data set among training images: copies, scaled, compressed or mirrored.

    Under torchrun the processes divide the shards.
    """
    from cosmos_eval.cli.progress import Progress
    from cosmos_eval.embedding.cache import embeddings_folder
    from cosmos_eval.models.specs import parse_model_spec
    from cosmos_eval.runner.overlap import (
        RECALL_NOTE,
        find_overlap,
        images_of,
        metrics_without,
        require_measured_data,
    )
    from cosmos_eval.runner.plan import open_dataset, require_data_root, require_usable_device
    from cosmos_eval.tasks import find_protocol

    if cosine is not None and model is None:
        raise UsageError("--cosine is the least cosine of embeddings: name their --model SPEC")
    with process_group() as distributed:
        run_options = RunOptions(
            data_root=data_root,
            workers=workers,
            device=device,
            cache=str(embeddings_folder()),
            distributed=distributed,
        )
        # All names and files are checked before anything slow.
        protocol = find_protocol(dataset)
        shard_paths = _expand_shards(shards)
        spec = None if model is None else parse_model_spec(model)
        results_and_samples = [] if results is None else _read_results(results, protocol.dataset)
        require_data_root(protocol, run_options)
        if spec is not None:
            require_usable_device(run_options)

        # The checks of a measurement are left out: images are enough.
        opened = open_dataset(protocol, run_options, check=False)
        images = images_of(opened.data)
        distributed.main_process_only(
            require_measured_data,
            [row for row, _ in results_and_samples],
            opened.protocol,
            opened.data,
            run_options,
        )
        with Progress(silent=not is_main_process()) as progress:
            encoder = None if spec is None else _load_encoder(spec, run_options)
            overlap_of_dataset = find_overlap(
                images,
                shard_paths,
                run_options,
                progress.steps_of(protocol.dataset),
                encoder,
                least_cosine=_LEAST_COSINE if cosine is None else cosine,
            )
    if not is_main_process():
        return
    metrics = metrics_without(
        results_and_samples, list(images), overlap_of_dataset.duplicated_images
    )

    if format == "json":
        document = asdict(overlap_of_dataset)
        document["dataset"] = protocol.dataset
        document["found"] = overlap_of_dataset.duplicated_images
        document["metrics"] = metrics
        document["note"] = RECALL_NOTE
        print_json(document)
    else:
        _print_overlap(overlap_of_dataset, protocol.dataset)
        _print_metrics(metrics, protocol.task, has_matches=len(overlap_of_dataset.matches) > 0)


def _print_metrics(metrics: Sequence[dict[str, Any]], task: str, *, has_matches: bool) -> None:
    """Print metrics with and without the images found, as `metrics_without` returns them, if any.

    If no image was found, a note says that no metric changes.
    """
    from cosmos_eval.runner.overlap import RECALL_NOTE

    if metrics and has_matches:
        print_records(_metric_records(metrics, task))
        print_notes([f"without the images found: {RECALL_NOTE}"])
    elif metrics:
        print_notes([f"no metric changes, since no image was found; {RECALL_NOTE}"])


def _print_overlap(overlap: Overlap, dataset: str) -> None:
    """Print the first near-duplicates of a data set's images, and the counts."""
    records: list[dict[str, Any]] = [asdict(match) for match in overlap.matches[:_MATCHES_PRINTED]]
    if records:
        print_records(records)
    if len(overlap.matches) > _MATCHES_PRINTED:
        print_line(f"and {len(overlap.matches) - _MATCHES_PRINTED} more: --json lists all")
    print_line(
        f"{len(overlap.duplicated_images)} of {overlap.images:,} images of {dataset} have a "
        f"near-duplicate among {overlap.training_images:,} training images"
    )
    if overlap.flat:
        print_notes([f"{overlap.flat:,} images of the data set show nothing to compare"])
    if overlap.unreadable:
        print_notes([f"{overlap.unreadable:,} training images cannot be decoded"])


def _load_encoder(spec: ModelSpec, run_options: RunOptions) -> Encoder:
    """Load a model on this process's device, in all processes."""
    from cosmos_eval.models import load_encoder

    device = own_device(run_options.device)
    return run_options.distributed.synchronized(load_encoder, spec, device=device)


def _metric_records(metrics: Sequence[dict[str, Any]], task: str) -> list[dict[str, Any]]:
    """Return the rows of a table for metrics, as `metrics_without` returns them.

    Metrics that only help to judge others, such as the share of captions cut, are left out.
    """
    from cosmos_eval.tasks import metric_of

    records = []
    for metric in metrics:
        if not metric_of(task, metric["metric"]).reference:
            records.append(_metric_record(metric))
    return records


def _metric_record(metric: dict[str, Any]) -> dict[str, Any]:
    """Return the row of a table for a metric, as `metrics_without` returns it, in percent.

    For example `{"model": "scenes-clip", ..., "all (%)": "80.0", "without [95%]": "78.1 [74.0,
    82.0]"}`. A metric without an interval has `-` in place of the ends.
    """
    low = "-" if metric["low"] is None else percent(metric["low"])
    high = "-" if metric["high"] is None else percent(metric["high"])
    return {
        "model": metric["model"],
        "protocol": metric["protocol"],
        "metric": metric["metric"],
        "all (%)": percent(metric["all"]),
        "without [95%]": f"{percent(metric['without'])} [{low}, {high}]",
    }


def _read_results(path: Path, dataset: str) -> list[tuple[ResultRow, Samples]]:
    """Read the results of a data set that was complete, each with its samples.

    Args:
        path: A result, or a folder of results.
        dataset: The name of the data set. Results of other ones are left out.

    Raises:
        UsageError: If such results do not exist, or if one was edited.
    """
    from cosmos_eval.results.checked import read_checked
    from cosmos_eval.results.identity import is_partial
    from cosmos_eval.results.store import read_samples, result_paths

    complete_results = []
    for result in read_checked(result_paths(path)):
        if result.row.dataset == dataset and not is_partial(result.row):
            complete_results.append(result)
    if not complete_results:
        raise UsageError(f"{path} has no complete result of {dataset}")
    for result in complete_results:
        if result.is_edited:
            raise UsageError(f"{result.path}: {result.fault} (`cosmos-eval verify` shows more)")
    return [(result.row, read_samples(result.path)) for result in complete_results]


def _expand_shards(shards: str) -> list[Path]:
    """Return the paths of tars that braces and patterns, joined by `::`, stand for.

    Raises UsageError for shards that are not on this machine.

    Example:
        `a/{00..02}.tar::b/*.tar` gives `a/00.tar`, `a/01.tar`, `a/02.tar`, and all tars in `b`.
    """
    from braceexpand import braceexpand

    paths: list[Path] = []
    for pattern in shards.split("::"):
        is_url = re.match("[A-Za-z][A-Za-z0-9+.-]+:", pattern)
        if is_url:
            raise UsageError(f"SHARDS {pattern!r} is a stream: fetch it, and name the tars")
        try:
            names = list(braceexpand(os.path.expanduser(pattern)))
        except ValueError as error:  # unbalanced braces
            raise UsageError(f"SHARDS {pattern!r} cannot be expanded: {error}") from error
        for name in names:
            if Path(name).exists():  # also if the name has characters of a pattern
                paths_of_name = [Path(name)]
            else:
                paths_of_name = [Path(match) for match in sorted(glob(name))]
            if not paths_of_name or not all(path.is_file() for path in paths_of_name):
                raise UsageError(f"no such shard: {name}; name tars, as in 'data/*.tar'")
            paths += paths_of_name
    return paths
