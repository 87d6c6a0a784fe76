"""`cosmos-eval list`, `data` and `cache`: known names, data sets on the disk, cached embeddings."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument, Exit, Typer

from cosmos_eval.cli import options
from cosmos_eval.cli.completion import dataset_names, task_names
from cosmos_eval.cli.options import Texts, flag, option
from cosmos_eval.cli.output import print_details, print_json, print_line, print_records
from cosmos_eval.types import RunOptions

if TYPE_CHECKING:
    from cosmos_eval.embedding.cache import Space
    from cosmos_eval.runner.doctor import Diagnosis

data = Typer(cls=options.CommandGroup, help="Check data sets on the disk, or complete downloads.")
cache = Typer(cls=options.CommandGroup, help="Show or clear the cache of embeddings.")

_WORKERS = os.cpu_count() or 1


def list_known(
    what: Annotated[
        Literal["models", "tasks", "datasets", "protocols", "suites", "formats"],
        Argument(show_default=False),
    ],
    search: Annotated[
        str | None,
        option("TEXT", "Only rows with this text, in full; of models, all tags of OpenCLIP too."),
    ] = None,
    task: Annotated[
        str | None,
        option("NAME", "Only data sets of this task.", autocompletion=task_names),
    ] = None,
    format: options.Format = "table",
) -> None:
    """List known models, tasks, data sets, protocols, suites, or names in other tools' formats."""
    from cosmos_eval.runner import catalog

    as_json = format == "json"
    if what == "suites" and search is None and task is None and not as_json:
        _print_suites(catalog.suite_rows())
        return
    records = catalog.list_records(what, search, task)
    if as_json:
        print_json(records)
    elif what == "datasets" and search is None:
        _print_datasets(catalog.dataset_rows(records))
    elif what == "datasets":
        print_details(catalog.dataset_details(records))
    elif what == "suites":
        print_details(records)
    else:
        print_records(records)


def _print_datasets(rows: Sequence[Mapping[str, str]]) -> None:
    """Print data sets by topic, and what the columns hold."""
    print_line(f"{len(rows)} data sets by topic and task; --search TEXT prints rows in full")
    print_records(rows, section=("topic", "task"))
    print_line("original: whether the reader was tried on original files (read), on their")
    print_line("annotations only (lists), or not (no). Empty cells: no source states it")


def _print_suites(rows: Sequence[Mapping[str, str]]) -> None:
    """Print suites with one short line for each."""
    print_line(f"{len(rows)} suites; --search NAME prints data sets and source of one")
    print_records(rows)
    print_line("models: those that a suite names; the other suites need --model")


@data.command(cls=options.Command)
def doctor(
    names: Annotated[
        Texts,
        Argument(
            metavar="[NAME|FILE]...",
            help="Known data sets or YAML files that describe yours. Default: all known ones.",
            autocompletion=dataset_names,
        ),
    ] = None,
    suite: options.Suite = None,
    data_root: options.DataRoot = None,
    decode: Annotated[
        bool | None, flag("--decode/--no-decode", "Decode every image. Default: only of yours.")
    ] = None,
    format: options.Format = "table",
) -> None:
    """Check whether data sets are complete, and how to mend them.

    Exit status: 0 all are complete, 1 one is not, 2 wrong usage.
    """
    from cosmos_eval.cli.progress import Progress
    from cosmos_eval.runner.doctor import choose, examine
    from cosmos_eval.tasks import task_named

    run_options = RunOptions(data_root=data_root, workers=_WORKERS)
    protocols = choose(names or (), suite, run_options)
    diagnoses = []
    with Progress() as progress:
        for protocol in protocols:
            report = progress.steps_of(protocol.dataset)
            diagnoses.append(examine(protocol, run_options, report, decode=decode))
    if format == "json":
        print_json([dataclasses.asdict(diagnosis) for diagnosis in diagnoses])
    else:
        print_records([_diagnosis_record(diagnosis) for diagnosis in diagnoses])
        examined_tasks = dict.fromkeys(diagnosis.task for diagnosis in diagnoses)
        for task in examined_tasks:
            print_line(f"checked for {task}: {task_named(task).checked}")
        for diagnosis in diagnoses:
            _print_faults(diagnosis)
    if not all(diagnosis.whole for diagnosis in diagnoses):
        raise Exit(1)


def _print_faults(diagnosis: Diagnosis) -> None:
    """Print the faults of a data set, its note, and how to mend it unless a fault says so.

    A note without a folder is not printed, since the table shows it in the folder's place.
    """
    for fault in diagnosis.faults:
        print_line(f"{diagnosis.dataset}: {fault}")
    if diagnosis.note and diagnosis.folder:
        print_line(f"{diagnosis.dataset}: note: {diagnosis.note}")
    remedy = diagnosis.remedy
    if remedy and not any(remedy in fault for fault in diagnosis.faults):
        print_line(f"{diagnosis.dataset}: to mend it: {remedy}")


def _diagnosis_record(diagnosis: Diagnosis) -> dict[str, str | None]:
    """Return the row of the table of `data doctor` for a data set, by the headings of the columns.

    For example `{"dataset": "voc20", "complete": "NO", "images": "1448 of 1449", ...}`. Values that
    the data set does not have are None.
    """
    return {
        "dataset": diagnosis.dataset,
        "task": diagnosis.task,
        "complete": "yes" if diagnosis.whole else "NO",
        "images": _count_text(diagnosis.images, diagnosis.expected),
        "captions": _count_text(diagnosis.captions, diagnosis.expected_captions),
        "items": _count_text(diagnosis.items, diagnosis.expected_items),
        "label maps": _count_text(diagnosis.label_maps, diagnosis.expected),
        "decoded": _count_text(diagnosis.decoded, diagnosis.images),
        "classes": None if diagnosis.n_classes is None else str(diagnosis.n_classes),
        "labels": _range_text(diagnosis.labels),
        "of": _range_text(diagnosis.classes),
        "suffix": diagnosis.mask_suffix,
        "folder": diagnosis.folder or diagnosis.note,
    }


def _count_text(count: int | None, expected: int | None) -> str | None:
    """Return a text such as `3 of 5`; None if nothing was counted."""
    return None if count is None else f"{count} of {expected}"


def _range_text(ends: tuple[int, int] | None) -> str | None:
    """Return a text such as `0-20`; None if the range is unknown."""
    return None if ends is None else f"{ends[0]}-{ends[1]}"


@data.command(cls=options.Command)
def prepare(
    name: Annotated[
        str,
        Argument(
            help="coco_object, coco_stuff, cityscapes, context, context459, ade20k_847, imagenet."
        ),
    ],
    data_root: options.DataRoot = None,
    format: options.Format = "table",
) -> None:
    """Make label maps or class folders that a download lacks.

    Existing files are kept.
    """
    from cosmos_eval.cli.progress import Progress
    from cosmos_eval.data.prepare import prepare as prepare_dataset

    with Progress() as progress:
        report = progress.steps_of(name)
        counts = prepare_dataset(name, data_root, workers=_WORKERS, progress=report)
    record = {"prepared": name} | counts._asdict()
    print_records([record], as_json=format == "json")


@cache.command(cls=options.Command)
def info(format: options.Format = "table") -> None:
    """Show the folder of cached embeddings, how many each model has, and the size on disk."""
    from cosmos_eval.embedding.cache import embeddings_folder, limit_bytes, spaces

    folder, limit = embeddings_folder(), limit_bytes()
    cached_spaces = spaces(folder)
    size = sum(space.size for space in cached_spaces)
    if format == "json":
        document = {
            "folder": str(folder),
            "bytes": size,
            "limit_bytes": limit,
            "spaces": [space._asdict() for space in cached_spaces],
        }
        print_json(document)
        return
    if cached_spaces:
        print_records([_space_record(space) for space in cached_spaces])
    print_line(f"{folder}: {size / 1e6:.1f} MB of {limit / 1e9:g} GB")


@cache.command(cls=options.Command)
def clear(format: options.Format = "table") -> None:
    """Remove all cached embeddings; the next run that needs them computes them again."""
    from cosmos_eval.embedding import cache as embeddings

    folder = embeddings.embeddings_folder()
    removed_bytes = embeddings.clear(folder)
    record = {"folder": str(folder), "removed_bytes": removed_bytes}
    print_records([record], as_json=format == "json")


def _space_record(space: Space) -> dict[str, str]:
    """Return the row of the table of `cache info` for a space, by the headings of the columns.

    A space holds the embeddings that one model has computed of images or of texts.
    """
    identity = {name: str(value) for name, value in space.identity.items()}
    architecture = identity.get("architecture", "")
    if architecture.startswith("{"):  # a JSON configuration is too long for a table
        architecture = "from JSON"
    last_used = datetime.fromtimestamp(space.used, timezone.utc)
    return {
        "of": identity.get("role", "unknown"),
        "architecture": architecture,
        "weights": identity.get("weights_sha256", "")[:8],
        "precision": identity.get("precision", ""),
        "embeddings": str(space.embeddings),
        "MB": f"{space.size / 1e6:.1f}",
        "used (UTC)": f"{last_used:%Y-%m-%d %H:%M}",
    }
