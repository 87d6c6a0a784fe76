"""`cosmos-eval list`, `data` and `cache`: known names, data sets on the disk, cached embeddings."""

from __future__ import annotations

import dataclasses
import os
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument, Exit, Typer

from cosmos_eval.cli import options
from cosmos_eval.cli.options import Texts, flag
from cosmos_eval.cli.output import print_json, print_line, print_records
from cosmos_eval.types import RunOptions

if TYPE_CHECKING:
    from cosmos_eval.embedding.cache import Space
    from cosmos_eval.runner.doctor import Diagnosis

data = Typer(help="Check data sets on the disk, or complete downloads.")
cache = Typer(help="Show or clear the cache of embeddings.")

_WORKERS = os.cpu_count() or 1


def list_known(
    what: Annotated[
        Literal["models", "tasks", "datasets", "protocols", "suites"], Argument(show_default=False)
    ],
    format: options.Format = "table",
) -> None:
    """List known models, tasks, data sets, protocols or suites."""
    from cosmos_eval.runner.catalog import LISTS

    print_records(LISTS[what](), as_json=format == "json")


@data.command(cls=options.Command)
def doctor(
    names: Annotated[
        Texts,
        Argument(
            metavar="[NAME|FILE]...",
            help="Known data sets or YAML files that describe yours. Default: all known ones.",
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
    with Progress() as progress:
        diagnoses = [
            examine(p, run_options, partial(progress.step, p.dataset), decode=decode)
            for p in protocols
        ]
    if format == "json":
        print_json([dataclasses.asdict(diagnosis) for diagnosis in diagnoses])
    else:
        print_records([_diagnosis_row(diagnosis) for diagnosis in diagnoses])
        for task in dict.fromkeys(diagnosis.task for diagnosis in diagnoses):
            print_line(f"checked for {task}: {task_named(task).checked}")
        for diagnosis in diagnoses:
            for fault in diagnosis.faults:
                print_line(f"{diagnosis.dataset}: {fault}")
            if diagnosis.note and diagnosis.folder:
                print_line(f"{diagnosis.dataset}: note: {diagnosis.note}")
            if diagnosis.remedy:
                print_line(f"{diagnosis.dataset}: to mend it: {diagnosis.remedy}")
    if not all(diagnosis.whole for diagnosis in diagnoses):
        raise Exit(1)


def _diagnosis_row(diagnosis: Diagnosis) -> dict[str, str | None]:
    counts = {
        "images": (diagnosis.images, diagnosis.expected),
        "captions": (diagnosis.captions, diagnosis.expected_captions),
        "items": (diagnosis.items, diagnosis.expected_items),
        "label maps": (diagnosis.label_maps, diagnosis.expected),
        "decoded": (diagnosis.decoded, diagnosis.images),
    }
    ranges = {"labels": diagnosis.labels, "of": diagnosis.classes}
    return {
        "dataset": diagnosis.dataset,
        "task": diagnosis.task,
        "whole": "yes" if diagnosis.whole else "NO",
        **{key: None if n is None else f"{n} of {of}" for key, (n, of) in counts.items()},
        "classes": None if diagnosis.n_classes is None else str(diagnosis.n_classes),
        **{key: ends and f"{ends[0]}-{ends[1]}" for key, ends in ranges.items()},
        "suffix": diagnosis.mask_suffix,
        "folder": diagnosis.folder or diagnosis.note,
    }


@data.command(cls=options.Command)
def prepare(
    name: Annotated[str, Argument(help="coco_object, coco_stuff, cityscapes, context, imagenet.")],
    data_root: options.DataRoot = None,
    format: options.Format = "table",
) -> None:
    """Make label maps or class folders that a download lacks.

    Existing files are kept.
    """
    from cosmos_eval.cli.progress import Progress
    from cosmos_eval.data.prepare import prepare as make

    with Progress() as progress:
        counts = make(name, data_root, workers=_WORKERS, progress=partial(progress.step, name))
    print_records([{"prepared": name, **counts._asdict()}], as_json=format == "json")


@cache.command(cls=options.Command)
def info(format: options.Format = "table") -> None:
    """Show where embeddings are cached, how many of which models, and the size on disk."""
    from cosmos_eval.embedding.cache import embeddings_folder, limit_bytes, spaces

    folder, limit = embeddings_folder(), limit_bytes()
    cached = spaces(folder)
    size = sum(space.size for space in cached)
    if format == "json":
        content = {"folder": str(folder), "bytes": size, "limit_bytes": limit}
        print_json({**content, "spaces": [space._asdict() for space in cached]})
        return
    if cached:
        print_records([_space_row(space) for space in cached])
    print_line(f"{folder}: {size / 1e6:.1f} MB of {limit / 1e9:g} GB")


@cache.command(cls=options.Command)
def clear(format: options.Format = "table") -> None:
    """Remove all cached embeddings; the next run that needs them computes them again."""
    from cosmos_eval.embedding import cache as embeddings

    folder = embeddings.embeddings_folder()
    removed = {"folder": str(folder), "removed_bytes": embeddings.clear(folder)}
    print_records([removed], as_json=format == "json")


def _space_row(space: Space) -> dict[str, str]:
    identity = {name: str(value) for name, value in space.identity.items()}
    architecture = identity.get("architecture", "")
    return {
        "of": identity.get("role", "unknown"),
        # A JSON configuration instead of a name is too long for a table.
        "architecture": architecture if architecture[:1] != "{" else "from JSON",
        "weights": identity.get("weights_sha256", "")[:8],
        "precision": identity.get("precision", ""),
        "embeddings": str(space.embeddings),
        "MB": f"{space.size / 1e6:.1f}",
        "used (UTC)": f"{datetime.fromtimestamp(space.used, timezone.utc):%Y-%m-%d %H:%M}",
    }
