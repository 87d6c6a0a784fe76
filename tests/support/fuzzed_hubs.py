"""Hugging Face hubs to be fuzzed: damaged and refused files, hubs that fall silent, revisions.

The hub is a folder, `hub`: its files by repository and name, its commit in `commit.txt`, and what
goes wrong with it in `trouble.json`. It is served on this machine while a command runs.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from threading import Event
from typing import Any
from unittest import mock

import huggingface_hub.constants
from support.fuzzed_images import COLOURS, MODEL, SAMPLES, judge_archive, picture
from support.fuzzing import Kind, Outcome, damage, run_command
from support.hub import COMMIT, Hub, serving
from support.shards import tar_of

import cosmos_core.utils.hub

REPOSITORY = "datasets/clip-benchmark/wds_stl10"
ARCHIVE = f"hub/{REPOSITORY}/test/0.tar"
TROUBLES = ("cut", "short", "changed", "gated", 401, 403, 404, 429, 500, 503)
TIMEOUT = 0.5  # seconds that the client waits for a silent hub


def _write_hub(folder: Path) -> None:
    (folder / "model.py").write_text(MODEL)
    repository = folder / "hub" / REPOSITORY
    (repository / "test").mkdir(parents=True)
    (repository / "classnames.txt").write_text("\n".join(COLOURS))
    (repository / "zeroshot_classification_templates.txt").write_text("a {c} photo.\n")
    (repository / "test/nshards.txt").write_text("1")
    (repository / "test/0.tar").write_bytes(_archive(SAMPLES))
    (folder / "hub/commit.txt").write_text(COMMIT)
    (folder / "hub/trouble.json").write_text("{}")


def _archive(samples: list[tuple[int, str]]) -> bytes:
    """A shard with the pictures of these numbers, each with the class of its colour."""
    members = []
    for position, (number, colour) in enumerate(samples):
        label = str(list(COLOURS).index(colour)).encode()
        members += [(f"{position:04}.cls", label)]
        members += [(f"{position:04}.png", picture(number, colour))]
    return tar_of(members)


@contextlib.contextmanager
def _served(folder: Path) -> Iterator[None]:
    """Serve the hub of a folder, with an empty cache and short time-outs of the client."""
    trouble = json.loads((folder / "hub/trouble.json").read_text())
    # A hub that answers always may take its time on a busy machine.
    timeout = TIMEOUT if "silent from" in trouble else 60.0
    constants, released = huggingface_hub.constants, Event()
    with contextlib.ExitStack() as stack:
        hub = stack.enter_context(serving())
        stack.callback(released.set)
        cache = stack.enter_context(tempfile.TemporaryDirectory())
        replaced: dict[tuple[Any, str], Any] = {
            (constants, "ENDPOINT"): hub.url,
            (constants, "HUGGINGFACE_CO_URL_TEMPLATE"): hub.url
            + "/{repo_id}/resolve/{revision}/{filename}",
            (constants, "HF_HUB_CACHE"): cache,
            (constants, "HF_HUB_ETAG_TIMEOUT"): timeout,
            (constants, "HF_HUB_DOWNLOAD_TIMEOUT"): timeout,
            (cosmos_core.utils.hub, "UNKNOWN_SIZE_TIMEOUTS"): 2,
            (cosmos_core.utils.hub, "WINDOW_TIMEOUTS"): 1,
            (time, "sleep"): lambda seconds: None,  # the client's pauses before it tries again
        }
        for (owner, name), value in replaced.items():
            stack.enter_context(mock.patch.object(owner, name, value))
        _fill(hub, folder / "hub", trouble, released)
        yield


def _fill(hub: Hub, folder: Path, trouble: dict[str, Any], released: Event) -> None:
    hub.commit = (folder / "commit.txt").read_text()
    for path in folder.glob(f"{REPOSITORY}/**/*.*"):
        hub.files[str(path.relative_to(folder))] = path.read_bytes()
    hub.trouble |= trouble.get("files", {})
    first_silent = trouble.get("silent from", float("inf"))

    def fall_silent(_: str) -> None:
        if len(hub.requests) >= first_silent:
            released.wait()

    hub.on_request = fall_silent


def _measure(folder: Path) -> list[str]:
    options = json.loads((folder / "hub/trouble.json").read_text()).get("options", [])
    return [
        *("run", "--dataset", "wds/stl10", "--download", "--model", f"python:{folder}/model.py"),
        *("--name", "colours", "--output", str(folder / "out"), "--device", "cpu", "--no-cache"),
        *("--workers", "0", *options),
    ]


def _mutate_hub(rng: Random, folder: Path) -> str:
    """Damage the archive, or let requests of one file fail, or the hub fall silent."""
    trouble: dict[str, Any] = {"options": rng.choice(([], ["--stream"]))}
    form = rng.choice(("damaged", "trouble", "missing", "silent"))
    repository = folder / "hub" / REPOSITORY
    path = rng.choice(sorted(repository.rglob("*.*")))
    if form == "damaged":
        change = damage(rng, folder / ARCHIVE)
    elif form == "missing":
        path.unlink()
        change = f"{path.name} is missing"
    elif form == "trouble":
        kind = rng.choice(TROUBLES)
        trouble["files"] = {str(path.relative_to(folder / "hub")): kind}
        change = f"{path.name}: {kind}"
    else:
        trouble["silent from"] = rng.randrange(1, 9)
        change = f"silent from request {trouble['silent from']} on"
    (folder / "hub/trouble.json").write_text(json.dumps(trouble))
    return f"{change} {trouble['options']}"


def _judge_hub(copy: Path, _: Path, outcome: Outcome, __: Outcome) -> Iterator[str]:
    """Check that the number follows from the files of the hub, even after failed requests."""
    yield from judge_archive(copy / ARCHIVE, outcome)


def _prepare_baseline(folder: Path) -> None:
    _write_hub(folder)
    _measure_revision(folder)
    written = run_command([*_check(folder), "--update", "--reason", "fuzzing"], folder)
    if written.status:
        raise AssertionError(written)


def _measure_revision(folder: Path) -> None:
    """Measure the hub's set as it is now, in place of the results of before."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    shutil.rmtree(folder / "results", ignore_errors=True)
    with _served(folder):
        measured = run_command(_measure(folder), folder)
    if measured.status not in (0, 2):
        raise AssertionError(measured)
    if measured.status == 0:
        shutil.move(folder / "out", folder / "results")


def _check(folder: Path) -> list[str]:
    return ["check", str(folder / "results"), "--baseline", str(folder / "baseline.json")]


def _mutate_revision(rng: Random, folder: Path) -> str:
    """Give the repository another commit, other files, or both, and measure it again."""
    samples, done = list(SAMPLES), []
    forms = ["picture", "label", "order", "fewer", "template", "names"]
    if rng.random() < 0.5:
        forms += ["same files"] * 3
        (folder / "hub/commit.txt").write_text(f"{rng.randrange(16**40):040x}")
        done.append("another commit")
    repository = folder / "hub" / REPOSITORY
    form = rng.choice(forms)
    place = rng.randrange(len(samples))
    number, colour = samples[place]
    if form == "picture":  # of the same colour: no metric changes
        samples[place] = number + len(samples), colour
    elif form == "label":
        samples[place] = number, rng.choice([other for other in COLOURS if other != colour])
    elif form == "order":
        rng.shuffle(samples)
    elif form == "fewer":
        del samples[place]
    elif form == "template":
        (repository / "zeroshot_classification_templates.txt").write_text("the {c} photo.\n")
    elif form == "names":
        names = [f"very {name}" if name == colour else name for name in COLOURS]
        (repository / "classnames.txt").write_text("\n".join(names))
    (folder / ARCHIVE).write_bytes(_archive(samples))
    _measure_revision(folder)
    return ", ".join([*done, form])


def _judge_revision(copy: Path, pristine: Path, _: Outcome, __: Outcome) -> Iterator[str]:
    """A result passes if the commit and every file are those that the baseline was measured on."""
    for path in (pristine / "hub").rglob("*.*"):
        name = path.relative_to(pristine)
        if path.is_file() and (copy / name).read_bytes() != path.read_bytes():
            yield f"it passes, though {name} is another one"


KINDS = (
    Kind("hub", _write_hub, _mutate_hub, _measure, _judge_hub, around=_served),
    Kind("revisions", _prepare_baseline, _mutate_revision, _check, _judge_revision, reports=True),
)
