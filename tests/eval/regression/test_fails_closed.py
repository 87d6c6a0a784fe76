"""Everything that must never pass: each a command line, with the status and what it says."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from support.models import make_result, seal, seg_samples, store

GOOD = ("cls", "retrieval", "seg", "select", "loc")


class Bench(NamedTuple):
    """A baseline, and a folder of new results that are the same as those it was made of."""

    baseline: Path
    new: Path

    def file(self, task: str) -> Path:
        return self.new / f"scenes-cosmos__scenes-{task}__scenes.json"

    def again(self, task: str = "cls", skill: float = 0.6, seed: int = 1, **changes: Any) -> None:
        """Put another result in the place of a new one."""
        for path in self.new.glob(f"scenes-cosmos__scenes-{task}__*"):
            path.unlink()
        store(self.new, task, skill, seed, **changes)

    def edit(self, path: Path, **fields: Any) -> None:
        document = json.loads(path.read_text())
        document.update(fields)
        path.write_text(json.dumps(document))

    def edit_baseline(self, number: int, **fields: Any) -> None:
        """Change an entry, and the hash that the baseline holds of itself with it."""
        results = json.loads(self.baseline.read_text())["results"]
        results[number].update(fields)
        self.edit(self.baseline, results=results)
        seal(self.baseline)

    def relabel(self) -> None:
        """Make the baseline one of version 1."""
        document = json.loads(self.baseline.read_text())
        del document["baseline_sha256"]
        for entry in document["results"]:
            old = entry["samples"]["file"]
            new = old.replace(".baseline.npz", ".npz")
            folder = self.baseline.with_suffix("")
            (folder / old).rename(folder / new)
            entry["samples"]["file"] = new
        self.baseline.write_text(json.dumps({**document, "schema_version": 1}))

    def command(self, *more: object) -> list[str]:
        return ["check", str(self.new), "--baseline", str(self.baseline), *map(str, more)]


@pytest.fixture
def bench(command: Callable, tmp_path: Path) -> Bench:
    made = Bench(tmp_path / "base" / "line.json", tmp_path / "new")
    for task in GOOD:
        store(tmp_path / "old", task)
        store(made.new, task)
    update = ["--update", "--reason", "the first one"]
    assert command("check", tmp_path / "old", "--baseline", made.baseline, *update).status == 0
    return made


def test_what_is_the_same_passes(command, bench):
    ended = command(*bench.command("--strict"))
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.endswith("no regression shown, of 37 metrics\n")


SCENARIOS: dict[str, tuple[Callable[[Bench], Sequence[object] | None], int, str]] = {}
"""Name -> what is done to a bench that passes (the command line where it is not the usual), the
exit status, and what is said."""


def scenario(name: str, status: int, message: str) -> Callable:
    def add(function: Callable) -> Callable:
        SCENARIOS[name] = (function, status, message)
        return function

    return add


@scenario("missing baseline", 2, "no baseline .*line.json: write it with --update")
def _(bench):
    bench.baseline.unlink()


@scenario("baseline is a folder", 2, "cannot be read as a baseline")
def _(bench):
    bench.baseline.unlink()
    bench.baseline.mkdir()


@scenario("baseline is empty", 2, "cannot be read as a baseline")
def _(bench):
    bench.baseline.write_text("")


@scenario("baseline is malformed", 2, "cannot be read as a baseline")
def _(bench):
    bench.baseline.write_text(bench.baseline.read_text()[:-20])


@scenario("baseline is no text", 2, "cannot be read as a baseline")
def _(bench):
    bench.baseline.write_bytes(b"\xff\xfe\x00")


@scenario("baseline nests too deeply", 2, "cannot be read as a baseline")
def _(bench):
    bench.baseline.write_text("[" * 200_000)


@scenario("baseline is a list", 2, "line.json: ")
def _(bench):
    bench.baseline.write_text("[]")


@scenario("baseline of another version", 2, r"line.json: \$.schema_version: ")
def _(bench):
    bench.edit(bench.baseline, schema_version=3)


@scenario("baseline without results", 2, r"line.json: \$.results: ")
def _(bench):
    bench.edit(bench.baseline, results=[])


@scenario("baseline that does not say who, when and why", 2, "written")
def _(bench):
    bench.edit(bench.baseline, written={"by": "me"})


@scenario("baseline has one result twice", 2, "two results of scenes-cosmos on scenes-cls")
def _(bench):
    results = json.loads(bench.baseline.read_text())["results"]
    bench.edit(bench.baseline, results=[*results, results[0]])
    seal(bench.baseline)


@scenario(
    "a tolerance beyond what --update allows",
    2,
    r"\$.tolerance: .*, not 0.51",
)
def _(bench):
    bench.edit(bench.baseline, tolerance=0.51)
    seal(bench.baseline)


@scenario("an edited tolerance", 2, "line.json was edited: it has another content than baseline_sh")
def _(bench):
    bench.edit(bench.baseline, tolerance=0.5)


@scenario("an edited metric of the baseline", 2, "line.json was edited")
def _(bench):
    text = bench.baseline.read_text()
    value = json.loads(text)["results"][0]["metrics"]["acc1"]
    assert f'"acc1": {value}' in text
    bench.baseline.write_text(text.replace(f'"acc1": {value}', '"acc1": 0.1'))


@scenario("a baseline whose samples were taken out", 2, "line.json was edited")
def _(bench):
    results = json.loads(bench.baseline.read_text())["results"]
    bench.edit(bench.baseline, results=[{**entry, "samples": None} for entry in results])


@scenario("a baseline without its hash", 2, "line.json was edited")
def _(bench):
    document = json.loads(bench.baseline.read_text())
    del document["baseline_sha256"]
    bench.baseline.write_text(json.dumps(document))


@scenario("a baseline that says version 1", 2, "it says version 1, but has what version 2 brought")
def _(bench):
    bench.edit(bench.baseline, schema_version=1)


@scenario("the same without its hash", 2, "it says version 1, but has what version 2 brought")
def _(bench):
    document = json.loads(bench.baseline.read_text())
    del document["baseline_sha256"]
    bench.baseline.write_text(json.dumps({**document, "schema_version": 1}))


@scenario("a baseline of version true", 2, r"\$.schema_version: ")
def _(bench):
    bench.edit(bench.baseline, schema_version=True)


@scenario("no samples in version 1", 2, "a result without samples, in a baseline of version 1")
def _(bench):
    bench.relabel()
    results = json.loads(bench.baseline.read_text())["results"]
    bench.edit(bench.baseline, results=[{**results[0], "samples": None}, *results[1:]])


@scenario("an edited metric in version 1", 2, "acc1 is 0.1, but its samples give")
def _(bench):
    bench.relabel()
    results = json.loads(bench.baseline.read_text())["results"]
    bench.edit(bench.baseline, results=[{**results[0], "metrics": {"acc1": 0.1}}, *results[1:]])


@scenario("a pipe as the baseline", 2, "is a pipe or a device, not a file")
def _(bench):
    bench.baseline.unlink()
    os.mkfifo(bench.baseline)


@scenario("a pipe as the baseline's samples", 2, "is a pipe or a device, not a file")
def _(bench):
    (path,) = bench.baseline.with_suffix("").glob("*cls*")
    path.unlink()
    os.mkfifo(path)


@scenario("a relabelled result under --strict", 2, "version is 1, but it has record_sha256")
def _(bench):
    bench.edit(bench.file("cls"), schema_version=1)
    return bench.command("--strict")


@scenario("tolerance of everything", 2, r"\$.tolerance")
def _(bench):
    bench.edit(bench.baseline, tolerance=1.0)


@scenario("NaN in the baseline", 2, "NaN is no number")
def _(bench):
    text = bench.baseline.read_text().replace('"tolerance": 0.0', '"tolerance": NaN')
    bench.baseline.write_text(text)


@scenario("infinity in the baseline", 2, "results.*metrics")
def _(bench):
    bench.edit_baseline(1, metrics={"image_to_text_mean_rank": 1e308 * 10})
    bench.baseline.write_text(bench.baseline.read_text().replace("Infinity", "1e999"))


@scenario("baseline's metric was edited", 2, "acc1 is 0.1, but its samples give")
def _(bench):
    bench.edit_baseline(0, metrics={"acc1": 0.1})


@scenario("baseline has a metric that the result lacks", 2, "samples do not give acc9")
def _(bench):
    metrics = json.loads(bench.baseline.read_text())["results"][0]["metrics"]
    bench.edit_baseline(0, metrics={**metrics, "acc9": 0.5})


@scenario("baseline's samples are missing", 2, "the baseline's samples .*no such file")
def _(bench):
    for path in bench.baseline.with_suffix("").glob("*cls*"):
        path.unlink()


@scenario("baseline's samples were edited", 2, "not what the baseline was written with")
def _(bench):
    for path in bench.baseline.with_suffix("").glob("*cls*"):
        path.write_bytes(path.read_bytes() + b"\0")


@scenario("baseline's samples lie elsewhere", 2, "results.0.samples.file: ")
def _(bench):
    bench.edit_baseline(0, samples={"file": "../../x.npz", "sha256": "0" * 64})


@scenario("the result lacks a metric", 2, "edited metric acc5")
def _(bench):
    metrics = json.loads(bench.file("cls").read_text())["metrics"]
    del metrics["acc5"]
    bench.edit(bench.file("cls"), metrics=metrics)


@scenario("the result is of another version", 2, "version 99")
def _(bench):
    bench.edit(bench.file("cls"), schema_version=99)


@scenario("the result is of no version", 2, "no result: it has no `schema_version`")
def _(bench):
    bench.file("cls").write_text("{}")


@scenario("the result is malformed", 2, "cannot be read as a result")
def _(bench):
    bench.file("cls").write_text("{")


@scenario("the result is empty", 2, "cannot be read as a result")
def _(bench):
    bench.file("cls").write_text("")


@scenario("the result is no text", 2, "cannot be read as a result")
def _(bench):
    return ["check", next(bench.new.glob("*cls*.npz")), "--baseline", bench.baseline]


@scenario("the result is not there", 2, "nowhere.json: cannot be read as a result")
def _(bench):
    return ["check", bench.new, "nowhere.json", "--baseline", bench.baseline]


@scenario("NaN in the result", 2, r"\$.metrics.acc1: Input should be a finite number")
def _(bench):
    metrics = json.loads(bench.file("cls").read_text())["metrics"]
    bench.edit(bench.file("cls"), metrics={**metrics, "acc1": float("nan")})


@scenario("infinity in the result", 2, r"mean_rank: Input should be a finite number")
def _(bench):
    metrics = json.loads(bench.file("retrieval").read_text())["metrics"]
    metrics["image_to_text_mean_rank"] = float("inf")
    bench.edit(bench.file("retrieval"), metrics=metrics)


@scenario("NaN in an interval", 2, r"\$.intervals.acc1.low: Input should be a finite number")
def _(bench):
    intervals = json.loads(bench.file("cls").read_text())["intervals"]
    intervals["acc1"]["low"] = float("nan")
    bench.edit(bench.file("cls"), intervals=intervals)


@scenario("an edited metric", 2, "edited metric acc1: 0.99")
def _(bench):
    metrics = json.loads(bench.file("cls").read_text())["metrics"]
    bench.edit(bench.file("cls"), metrics={**metrics, "acc1": 0.99})


@scenario("edited provenance", 2, "edited record")
def _(bench):
    document = json.loads(bench.file("cls").read_text())
    bench.edit(bench.file("cls"), provenance={**document["provenance"], "commit": "2" * 40})


@scenario("edited samples", 2, "edited samples")
def _(bench):
    path = next(bench.new.glob("*cls*.npz"))
    path.write_bytes(path.read_bytes() + b"\0")


@scenario("missing samples", 2, "missing samples")
def _(bench):
    next(bench.new.glob("*cls*.npz")).unlink()


@scenario("samples of another result", 2, "swapped file")
def _(bench):
    samples = next(bench.new.glob("*seg*.npz"))
    next(bench.new.glob("*cls*.npz")).write_bytes(samples.read_bytes())


@scenario("two results for one key", 2, "a second result of scenes-cosmos on scenes-cls")
def _(bench):
    store(bench.new / "again", "cls")


@scenario("a file given twice", 2, "a second result of scenes-cosmos on scenes-cls")
def _(bench):
    return ["check", bench.new, bench.file("cls"), "--baseline", bench.baseline]


@scenario("protocol drift", 2, "scenes-cls .scenes.: the baseline has it, the results have not")
def _(bench):
    bench.again(protocol="cosmos")


@scenario("templates drift", 2, "hashes.templates is bbbbbbbbbbbb and dddddddddddd")
def _(bench):
    bench.again(hashes={"templates": "d" * 64})


@scenario("class names drift", 2, "hashes.class_names is aaaaaaaaaaaa and dddddddddddd")
def _(bench):
    bench.again(hashes={"class_names": "d" * 64})


@scenario("a new hash", 2, "hashes.constants is missing and dddddddddddd")
def _(bench):
    bench.again(hashes={"constants": "d" * 64})


@scenario("another sample list", 2, "hashes.sample_list is cccccccccccc and dddddddddddd")
def _(bench):
    bench.again(hashes={"sample_list": "d" * 64})


@scenario("an unknown sample list", 2, "hashes.sample_list is .* and missing")
def _(bench):
    bench.again(provenance={"hashes": {}})


@scenario("other labels under the same sample list", 2, "`labels` of the samples differs")
def _(bench):
    samples = make_result()[1]
    bench.again(samples={**samples, "labels": samples["labels"][::-1]})


@scenario("fewer samples", 2, "n_samples is 30 and 20")
def _(bench):
    bench.again("seg", samples=seg_samples(0.6, np.random.default_rng(1), images=20))


@scenario("a limit", 2, r"there is one of scenes-cosmos \(first 20 only\)")
def _(bench):
    bench.again(provenance={"limit": 20})


@scenario("another attention", 2, r"there is one of scenes-cosmos \(vanilla\)")
def _(bench):
    bench.again("seg", provenance={"attention": "vanilla"})


@scenario("another attention by the protocol", 2, "attention is csa and naclip")
def _(bench):
    bench.again("seg", provenance={"attention": "naclip", "protocol_attention": "naclip"})


@scenario("another precision", 2, r"there is one of scenes-cosmos \(bf16\)")
def _(bench):
    bench.again(provenance={"precision": "bf16"})


@scenario("the other weights", 2, r"there is one of scenes-cosmos \(student\)")
def _(bench):
    bench.again(model={"weights": "student"})


@scenario("random weights", 2, "is of random weights")
def _(bench):
    bench.again(model={"random": True, "weights_sha256": None})


@scenario("a folder without results", 2, "no results")
def _(bench):
    empty = bench.new.parent / "empty"
    empty.mkdir()
    return ["check", empty, "--baseline", bench.baseline]


@scenario("an empty folder beside good results", 2, "no results")
def _(bench):
    empty = bench.new.parent / "empty"
    empty.mkdir()
    return ["check", bench.new, empty, "--baseline", bench.baseline]


@scenario("no result", 2, "Missing argument 'RESULT...'")
def _(bench):
    return ["check", "--baseline", bench.baseline]


@scenario("no baseline option", 2, "Missing option '--baseline'")
def _(bench):
    return ["check", bench.new]


@scenario("an unknown option", 2, "No such option")
def _(bench):
    return bench.command("--lenient")


@scenario("a reason without --update", 2, "go with --update")
def _(bench):
    return bench.command("--reason", "so")


@scenario("a data set that was not run", 2, r"scenes-seg \(scenes\): the baseline has it")
def _(bench):
    bench.file("seg").unlink()


@scenario("a model that was not run", 2, "scenes-clip on .*: the baseline has it")
def _(bench):
    bench.edit_baseline(0, model="scenes-clip")
    bench.file("cls").unlink()


@scenario("a renamed model", 2, "there is one of scenes-cosmos-2")
def _(bench):
    bench.file("cls").unlink()
    store(bench.new, "cls", model={"spec": "scenes-cosmos-2"})


@scenario("a result that the baseline lacks", 2, "scenes-clip on .* is not in the baseline")
def _(bench):
    store(bench.new, "cls", model={"spec": "scenes-clip"})


@scenario("edited code under --strict", 2, "is of edited code .dirty.")
def _(bench):
    bench.again(provenance={"dirty": True})
    return bench.command("--strict")


@scenario("an unknown state of the code under --strict", 2, "is of edited code .dirty.")
def _(bench):
    bench.again(provenance={"dirty": None})
    return bench.command("--strict")


@scenario("an unknown commit under --strict", 2, "does not state its commit")
def _(bench):
    bench.again(provenance={"commit": None})
    return bench.command("--strict")


@scenario("a regression", 1, "regression shown: [0-9]+ of 37 metrics")
def _(bench):
    bench.again("retrieval", 0.4, 2)


@scenario("an improvement that hides a regression elsewhere", 1, "regression shown")
def _(bench):
    bench.again("cls", 0.9, 2)
    bench.again("seg", 0.95, 2)
    bench.again("select", 0.2, 2)


@scenario("a regression beside something undecided", 1, "regression shown")
def _(bench):
    bench.again("retrieval", 0.4, 2)
    bench.file("seg").unlink()


@scenario("a summary that cannot be written", 2, "cannot write the report")
def _(bench):
    return bench.command("--summary", bench.new)


@pytest.mark.parametrize("name", SCENARIOS)
def test_it_never_passes(command, bench, name):
    change, status, message = SCENARIOS[name]
    arguments = change(bench) or bench.command()
    ended = command(*arguments)
    assert ended.status == status, ended
    flat = " ".join((ended.out + ended.err).split())
    assert re.search(message, flat), flat
    if status == 2:
        assert re.search("^cosmos-eval: ", ended.err, re.MULTILINE), ended.err


def test_there_are_enough_scenarios():
    assert len(SCENARIOS) >= 25
