"""Baselines that must never pass: each a change of one that does, and the message."""

import json
import os

import pytest
from support.bench import Scenarios, require_failure
from support.models import seal

SCENARIOS = Scenarios()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as a baseline"),
        (b'{"schema_version": 2, "results": [', "cannot be read as a baseline"),
        (b"\xff\xfe\x00", "cannot be read as a baseline"),
        (b"[" * 200_000, "cannot be read as a baseline"),
        (b"[]", "line.json: "),
    ],
    ids=range(5),
)
def test_a_file_that_is_not_a_baseline_never_passes(command, bench, content, message):
    bench.baseline.write_bytes(content)
    require_failure(command(*bench.command()), 2, message)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"schema_version": 3}, r"line.json: \$.schema_version: "),
        ({"schema_version": True}, r"\$.schema_version: "),
        ({"schema_version": 1}, "it says version 1, but has what version 2 brought"),
        ({"results": []}, r"line.json: \$.results: "),
        ({"written": {"by": "me"}}, "written"),
        ({"tolerance": 0.5}, "line.json was edited: it has another content than baseline_sh"),
        ({"tolerance": 1.0}, r"\$.tolerance"),
    ],
)
def test_an_edited_baseline_never_passes(command, bench, fields, message):
    bench.edit(bench.baseline, **fields)
    require_failure(command(*bench.command()), 2, message)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"metrics": {"acc1": 0.1}}, "acc1 is 0.1, but its samples give"),
        ({"samples": {"file": "../../x.npz", "sha256": "0" * 64}}, "results.0.samples.file: "),
        ({"metrics": {"acc1": 1e308 * 10}}, "results.*metrics"),
    ],
)
def test_an_edited_entry_with_a_new_hash_never_passes(command, bench, fields, message):
    bench.edit_baseline(0, **fields)
    # JSON has no word for infinity, but 1e999 is read as one.
    bench.baseline.write_text(bench.baseline.read_text().replace("Infinity", "1e999"))
    require_failure(command(*bench.command()), 2, message)


@SCENARIOS.add("missing baseline", 2, "no baseline .*line.json: write it with --update")
def _(bench):
    bench.baseline.unlink()


@SCENARIOS.add("baseline is a folder", 2, "cannot be read as a baseline")
def _(bench):
    bench.baseline.unlink()
    bench.baseline.mkdir()


@SCENARIOS.add("baseline has one result twice", 2, "two results of scenes-cosmos on scenes-cls")
def _(bench):
    results = json.loads(bench.baseline.read_text())["results"]
    bench.edit(bench.baseline, results=[*results, results[0]])
    seal(bench.baseline)


@SCENARIOS.add("a tolerance beyond what --update allows", 2, r"\$.tolerance: .*, not 0.51")
def _(bench):
    bench.edit(bench.baseline, tolerance=0.51)
    seal(bench.baseline)


@SCENARIOS.add("an edited metric of the baseline", 2, "line.json was edited")
def _(bench):
    text = bench.baseline.read_text()
    value = json.loads(text)["results"][0]["metrics"]["acc1"]
    assert f'"acc1": {value}' in text
    bench.baseline.write_text(text.replace(f'"acc1": {value}', '"acc1": 0.1'))


@SCENARIOS.add("a baseline whose samples were taken out", 2, "line.json was edited")
def _(bench):
    results = json.loads(bench.baseline.read_text())["results"]
    bench.edit(bench.baseline, results=[{**entry, "samples": None} for entry in results])


@SCENARIOS.add("a baseline without its hash", 2, "line.json was edited")
def _(bench):
    document = json.loads(bench.baseline.read_text())
    del document["baseline_sha256"]
    bench.baseline.write_text(json.dumps(document))


@SCENARIOS.add(
    "a baseline of version 1 by its label only",
    2,
    "it says version 1, but has what version 2 brought",
)
def _(bench):
    document = json.loads(bench.baseline.read_text())
    del document["baseline_sha256"]
    bench.baseline.write_text(json.dumps({**document, "schema_version": 1}))


@SCENARIOS.add("no samples in version 1", 2, "a result without samples, in a baseline of version 1")
def _(bench):
    bench.relabel()
    results = json.loads(bench.baseline.read_text())["results"]
    bench.edit(bench.baseline, results=[{**results[0], "samples": None}, *results[1:]])


@SCENARIOS.add("an edited metric in version 1", 2, "acc1 is 0.1, but its samples give")
def _(bench):
    bench.relabel()
    results = json.loads(bench.baseline.read_text())["results"]
    bench.edit(bench.baseline, results=[{**results[0], "metrics": {"acc1": 0.1}}, *results[1:]])


@SCENARIOS.add("a pipe as the baseline", 2, "is a pipe or a device, not a file")
def _(bench):
    bench.baseline.unlink()
    os.mkfifo(bench.baseline)


@SCENARIOS.add("a pipe as the baseline's samples", 2, "is a pipe or a device, not a file")
def _(bench):
    (path,) = bench.baseline.with_suffix("").glob("*cls*")
    path.unlink()
    os.mkfifo(path)


@SCENARIOS.add("NaN in the baseline", 2, "NaN is no number")
def _(bench):
    text = bench.baseline.read_text().replace('"tolerance": 0.0', '"tolerance": NaN')
    bench.baseline.write_text(text)


@SCENARIOS.add("baseline has a metric that the result lacks", 2, "samples do not give acc9")
def _(bench):
    metrics = json.loads(bench.baseline.read_text())["results"][0]["metrics"]
    bench.edit_baseline(0, metrics={**metrics, "acc9": 0.5})


@SCENARIOS.add("baseline's samples are missing", 2, "the baseline's samples .*no such file")
def _(bench):
    for path in bench.baseline.with_suffix("").glob("*cls*"):
        path.unlink()


@SCENARIOS.add("baseline's samples were edited", 2, "not what the baseline was written with")
def _(bench):
    for path in bench.baseline.with_suffix("").glob("*cls*"):
        path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_scenario_never_passes(command, bench, name):
    SCENARIOS[name].check(command, bench)
