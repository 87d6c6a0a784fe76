"""`cosmos-eval overlap`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument

from cosmos_core.utils.distributed import is_main_process, own_device, process_group
from cosmos_eval.cli import options
from cosmos_eval.cli.options import File, Text, option
from cosmos_eval.cli.output import print_json, print_line, print_notes, print_records
from cosmos_eval.results.text import percent
from cosmos_eval.types import ModelSpec, RunOptions, UsageError

if TYPE_CHECKING:
    from cosmos_eval.runner.overlap import Overlap

_SHOWN = 10  # matches of those in the file or the JSON document
_WORKERS = os.cpu_count() or 1


def overlap(
    shards: Annotated[
        str,
        Argument(metavar="SHARDS", help="Tars of training images, as in 'data/{000..099}.tar'."),
    ],
    dataset: options.Dataset,
    results: Annotated[File, option("DIR|FILE", "Results to show without the images.")] = None,
    model: Annotated[Text, option("SPEC", "Also compare embeddings of this model.")] = None,
    cosine: Annotated[
        float, option("X", "Least cosine of a near-duplicate by --model.", min=0, max=1)
    ] = 0.95,
    format: options.Format = "table",
    data_root: options.DataRoot = None,
    device: options.Device = "auto",
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
        ByModel,
        find_overlap,
        images_of,
        metrics_without,
    )
    from cosmos_eval.runner.plan import open_dataset, require_data_root
    from cosmos_eval.tasks import find_protocol

    with process_group() as distributed:
        run = RunOptions(
            data_root=data_root,
            workers=workers,
            device=device,
            cache=str(embeddings_folder()),
            distributed=distributed,
        )
        protocol, paths = find_protocol(dataset), _paths(shards)
        spec = None if model is None else parse_model_spec(model)
        measured = [] if results is None else _results_of(results, protocol.dataset)
        require_data_root(protocol, run)
        opened = open_dataset(protocol, run, check=False)  # images are enough
        with Progress(silent=not is_main_process()) as progress:
            watch = partial(progress.step, protocol.dataset)
            images = images_of(opened.data)
            by_model = None if spec is None else ByModel(_load(spec, run), cosine)
            found = find_overlap(images, paths, run, watch, by_model)
    if not is_main_process():
        return
    metrics = metrics_without(measured, [*images], found.found)
    if format == "json":
        more = {"dataset": protocol.dataset, "found": found.found, "metrics": metrics}
        print_json({**asdict(found), **more, "note": RECALL_NOTE})
    else:
        _print(found, protocol.dataset, metrics)
        if metrics:
            print_notes([f"without the images found: {RECALL_NOTE}"])


def _print(found: Overlap, dataset: str, metrics: Sequence[dict[str, Any]]) -> None:
    records: list[dict[str, Any]] = [asdict(match) for match in found.matches[:_SHOWN]]
    if records:
        print_records(records)
    if len(found.matches) > _SHOWN:
        print_line(f"and {len(found.matches) - _SHOWN} more: --json lists all")
    counts = f"{len(found.found)} of {found.images:,} images of {dataset}"
    print_line(f"{counts} have a near-duplicate among {found.training_images:,} training images")
    if metrics:
        print_records([_shown(one) for one in metrics])
    if found.flat:
        print_notes([f"{found.flat:,} images of the data set show nothing to compare"])
    if found.unreadable:
        print_notes([f"{found.unreadable:,} training images cannot be decoded"])


def _load(spec: ModelSpec, run: RunOptions) -> Any:
    from cosmos_eval.models import load_encoder

    load = partial(load_encoder, spec, device=own_device(run.device))
    return run.distributed.synchronized(load)


def _shown(metric: dict[str, Any]) -> dict[str, Any]:
    every, rest = percent(metric["all"]), percent(metric["without"])
    ends = ["-" if metric[end] is None else percent(metric[end]) for end in ("low", "high")]
    named = {key: metric[key] for key in ("model", "protocol", "metric")}
    return {**named, "all (%)": every, "without [95%]": f"{rest} [{ends[0]}, {ends[1]}]"}


def _results_of(place: Path, dataset: str) -> list[Any]:
    """Read the complete results of a data set with their samples. Raises UsageError without any."""
    from cosmos_eval.results.checked import read_checked
    from cosmos_eval.results.identity import is_partial
    from cosmos_eval.results.store import read_samples, result_paths

    stored = [one for one in read_checked(result_paths(place)) if one.row.dataset == dataset]
    whole = [one for one in stored if not is_partial(one.row)]
    if not whole:
        raise UsageError(f"{place} has no complete result of {dataset}")
    for one in whole:
        if one.is_edited:
            raise UsageError(f"{one.path}: {one.fault} (`cosmos-eval verify` shows more)")
    return [(one.row, read_samples(one.path)) for one in whole]


def _paths(shards: str) -> list[Path]:
    """Expand braces and patterns. Raises UsageError for shards that are not on this machine."""
    from braceexpand import braceexpand

    found: list[Path] = []
    for part in shards.split("::"):
        if re.match("[A-Za-z][A-Za-z0-9+.-]+:", part):
            raise UsageError(f"SHARDS {part!r} is a stream: fetch it, and name the tars")
        try:
            names = [*braceexpand(os.path.expanduser(part))]
        except ValueError as error:  # unbalanced braces
            raise UsageError(f"SHARDS {part!r} cannot be expanded: {error}") from error
        for name in names:
            paths = [Path(name)] if Path(name).exists() else [*map(Path, sorted(glob(name)))]
            if not paths or not all(path.is_file() for path in paths):
                raise UsageError(f"no such shard: {name}; name tars, as in 'data/*.tar'")
            found += paths
    return found
