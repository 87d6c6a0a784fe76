"""Result files: what is written is read back, whole or not at all."""

import errno
import fcntl
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from threading import Barrier, Event

import numpy as np
import pytest
from support.rows import make_row, write_result

from cosmos_core.utils.files import write_atomically
from cosmos_eval.results.checked import read_results
from cosmos_eval.results.filenames import file_stem
from cosmos_eval.results.gate.baseline import Baseline
from cosmos_eval.results.record import ResultRow, json_schema
from cosmos_eval.results.store import (
    read_files,
    read_result,
    read_samples,
    record_is_unchanged,
    result_paths,
    samples_of,
)
from cosmos_eval.tasks import Metric
from cosmos_eval.types import Samples, UsageError

TESTS = Path(__file__).parents[2]

SAMPLES = {"label": np.array([0, 1, 1]), "logits": np.array([[0.5, 0.25]], np.float32)}


@pytest.mark.parametrize(
    ("kind", "name"), [(ResultRow, "schema.json"), (Baseline, "gate/baseline.schema.json")]
)
def test_the_schemas_in_the_package_are_those_of_the_code(kind, name):
    stored = files("cosmos_eval.results").joinpath(name).read_text("utf-8")
    assert stored == json_schema(kind), f"write json_schema({kind.__name__}) to {name}"


def test_a_result_comes_back_as_it_was(tmp_path):
    path = write_result(tmp_path / "new" / "folder", make_row(task="cook"), SAMPLES)
    (row,) = read_results(path.parent)
    assert row.metrics == {"acc1": 0.25, "acc5": 0.75}
    assert row.per_class == {"apple": {"recall": 0.5}, "boat": {"recall": None}}
    with np.load(path.parent / row.samples, allow_pickle=False) as stored:
        samples = {name: stored[name].tolist() for name in stored}
    assert samples == {"label": [0, 1, 1], "logits": [[0.5, 0.25]]}
    assert sorted(p.suffix for p in path.parent.iterdir()) == [".json", ".npz"]


def test_samples_come_back_and_others_do_not_pass_for_them(tmp_path):
    path = write_result(tmp_path, make_row(task="cook"), SAMPLES)
    for name, array in read_samples(path).items():
        np.testing.assert_array_equal(array, SAMPLES[name])
    archive = tmp_path / read_result(path).samples
    other = write_result(tmp_path / "other", make_row(task="cook"), {"label": np.array([1, 1, 1])})
    archive.write_bytes((other.parent / read_result(other).samples).read_bytes())
    with pytest.raises(UsageError, match=r"\.npz is not what was stored with .*\.json"):
        read_samples(path)
    archive.unlink()
    with pytest.raises(UsageError, match=r"its samples .*\.npz cannot be read"):
        read_samples(path)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"dataset": "my set"}, {"dataset": "my-set"}),
        ({"model": {"name": "big model"}}, {"model": {"name": "big-model"}}),
    ],
)
def test_a_result_of_another_name_is_not_replaced(tmp_path, first, second):
    """Both names are the same in file names."""
    path = write_result(tmp_path, make_row(task="cook", **first), SAMPLES)
    content = path.read_bytes()
    with pytest.raises(UsageError, match=r"holds the result of .* another --output") as raised:
        write_result(tmp_path, make_row(task="cook", **second), SAMPLES)
    assert "\n" not in str(raised.value)
    assert path.read_bytes() == content
    assert len(list(tmp_path.glob("*.json"))) == len(list(tmp_path.glob("*.npz"))) == 1


def test_a_result_of_a_newer_version_is_not_replaced(tmp_path):
    path = write_result(tmp_path, make_row(task="cook"), SAMPLES)
    record = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(record | {"schema_version": 3, "seasoning": "salt"}), "utf-8")
    content_by_path = {file: file.read_bytes() for file in tmp_path.iterdir()}
    message = rf"{path} is a result of version 3, .*, or choose another --output$"
    with pytest.raises(UsageError, match=message):
        write_result(tmp_path, make_row(task="cook"), {"label": np.array([1, 1, 1])})
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == content_by_path


# Hashed by hand: sha256sum of {"a":1,"provenance":{"limit":null},"schema_version":2}
HASH = "2f1971722d32ae7ef4e254c80fbad80b23af6dd985d956a3796200c3e2f1fde4"


@pytest.mark.parametrize(
    ("record", "unchanged"),
    [
        ({"provenance": {"limit": None, "record_sha256": HASH}}, True),
        ({"provenance": {"record_sha256": HASH, "limit": None}, "schema_version": 2}, True),
        ({"provenance": {"limit": 5, "record_sha256": HASH}}, False),
        ({"provenance": {"limit": None, "record_sha256": HASH}, "a": 2}, False),
        ({"provenance": {"limit": None, "record_sha256": HASH}, "a": math.nan}, False),
        ({"provenance": {"limit": None, "record_sha256": 5}}, False),
        ({"provenance": {"limit": None}}, False),
        ({"provenance": [HASH]}, False),
        ({}, False),
        ({"provenance": {"limit": None}, "schema_version": 1}, None),
        ({"provenance": {"limit": None}, "schema_version": True}, False),
        ({"provenance": {"limit": None, "record_sha256": HASH}, "schema_version": 1}, False),
        ({"provenance": {"limit": None, "record_sha256": HASH}, "schema_version": True}, False),
    ],
)
def test_the_hash_that_a_record_holds_of_itself(record, unchanged):
    assert record_is_unchanged({"a": 1, "schema_version": 2, **record}) is unchanged


def test_frequent_mistakes_are_stored_where_there_are_any(tmp_path):
    pairs = [{"true": "apple", "predicted": "boat", "images": 3}]
    with_pairs = write_result(tmp_path / "a", make_row(confusion_pairs=pairs), SAMPLES)
    assert read_result(with_pairs).confusion_pairs == pairs
    without = write_result(tmp_path / "b", make_row(), SAMPLES)
    assert "confusion_pairs" not in json.loads(without.read_text())
    assert read_result(without).confusion_pairs == ()


def test_the_same_result_gives_the_same_bytes(tmp_path):
    first = write_result(tmp_path / "a", make_row(), SAMPLES)
    second = write_result(tmp_path / "b", make_row(metrics={"acc5": 0.75, "acc1": 0.25}), SAMPLES)
    assert first.read_bytes() == second.read_bytes()
    samples = read_result(first).samples
    assert (tmp_path / "a" / samples).read_bytes() == (tmp_path / "b" / samples).read_bytes()


def test_floats_are_exact_and_numpy_scalars_plain(tmp_path):
    row = make_row(metrics={"acc1": np.float32(0.1), "acc5": np.float64(1 / 3)})
    metrics = json.loads(write_result(tmp_path, row, {}).read_text())["metrics"]
    assert metrics == {"acc1": 0.10000000149011612, "acc5": 1 / 3}


@pytest.mark.parametrize("value", [math.nan, math.inf, np.float32("nan")])
def test_a_metric_that_is_not_a_number_is_refused(tmp_path, value):
    with pytest.raises(UsageError, match=r"scenes-cosmos on scenes-cls: acc1 is (nan|inf)"):
        write_result(tmp_path, make_row(metrics={"acc1": value}), SAMPLES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"metrics": {"acc1": 71.0}}, "acc1"),
        ({"task": "retrieval", "metrics": {"image_to_text_mean_rank": 0.5}}, "rank"),
        ({"metrics": {}}, "metrics"),
        ({"task": "a cook"}, "task"),
        ({"n_samples": 0}, "n_samples"),
        ({"confusion_pairs": [{"true": "a", "predicted": "b"}]}, "confusion_pairs"),
        ({"intervals": {"acc1": {"low": 0.1, "high": 0.2}}}, "intervals"),
        ({"model": {"weights_sha256": None}}, "weights_sha256"),
        ({"provenance": {"precision": "fp8"}}, "precision"),
    ],
)
def test_a_record_that_departs_from_the_schema_is_refused(tmp_path, changes, field):
    with pytest.raises(UsageError, match=rf"\$\.[^:]*{field}.*: "):
        write_result(tmp_path, make_row(**changes), SAMPLES)
    assert list(tmp_path.iterdir()) == []


def test_random_weights_need_no_hash(tmp_path):
    row = make_row(model={"random": True, "weights_sha256": None})
    assert read_result(write_result(tmp_path, row, SAMPLES)).model["random"] is True


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 1}', '{"metrics": NaN}'])
def test_a_file_that_is_not_a_result_is_named(tmp_path, text):
    write_result(tmp_path, make_row(), SAMPLES)
    (tmp_path / "odd.json").write_text(text)
    with pytest.raises(UsageError, match=r"odd\.json: "):
        read_results(tmp_path)


def test_a_folder_without_results_is_an_error(tmp_path):
    with pytest.raises(UsageError, match=r"no results .* in .*nowhere: run"):
        read_results(tmp_path / "nowhere")


def test_a_new_result_replaces_the_former_with_its_samples(tmp_path):
    write_result(tmp_path, make_row(task="cook"), SAMPLES)
    row = make_row(task="cook", metrics={"acc1": 0.5})
    write_result(tmp_path, row, {"label": np.arange(9)})
    (row,) = read_results(tmp_path)
    assert row.metrics == {"acc1": 0.5}
    assert [p.name for p in tmp_path.glob("*.npz")] == [row.samples]


def test_a_pipe_is_written_and_stays_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="No such device"):  # nobody reads it
        write_atomically(pipe, b"x")
    with ThreadPoolExecutor(1) as pool, open(os.open(pipe, os.O_RDWR), "rb") as reader:
        writing = pool.submit(write_atomically, pipe, bytes(200_000))  # more than a pipe holds
        assert len(reader.read(200_000)) == 200_000
        writing.result()
    assert pipe.is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def numbered(number: int) -> tuple[ResultRow, Samples]:
    """A result, always of the same name, whose metrics and samples hold its number.

    Its task is not installed, so that its samples may be anything.
    """
    return make_row(task="cook", metrics={"acc1": number / 64}), {"x": np.full(3, number)}


def test_of_two_writers_of_one_result_one_wins_with_its_samples(tmp_path):
    """Each round, two threads at once write the same result with different samples."""
    barrier = Barrier(2)

    def write(number: int) -> None:
        barrier.wait()
        write_result(tmp_path, *numbered(number))

    with ThreadPoolExecutor(2) as pool:
        for first in range(0, 30, 2):
            list(pool.map(write, (first, first + 1)))
            (path,) = tmp_path.glob("*.json")
            number = read_result(path).metrics["acc1"] * 64
            assert number in (first, first + 1)
            assert read_samples(path)["x"].tolist() == [number] * 3
            assert len(list(tmp_path.iterdir())) == 2  # the loser's samples are gone


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    """Threads take turns after a tenth of a millisecond, and meet in more places."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(interval)


def test_readers_see_whole_results_while_one_is_replaced(tmp_path, frequent_switches):
    path = write_result(tmp_path, *numbered(0))
    finished = Event()

    def write() -> None:
        for number in range(1, 16):
            write_result(tmp_path, *numbered(number))
        finished.set()

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        seen = set()
        while not finished.is_set() and not writing.done():
            stored = read_files(path)
            (number,) = set(samples_of(path, stored)["x"].tolist())
            assert stored.row.metrics["acc1"] == number / 64
            seen.add(number)
        writing.result()
    assert len(seen) > 1


WRITER = """
import sys
from pathlib import Path
import numpy as np
from support.rows import make_row, write_result

for count in range(1_000_000):
    number = (3 * count + int(sys.argv[2])) % 64
    row = make_row(task="cook", metrics={"acc1": number / 64})
    write_result(Path(sys.argv[1]), row, {"x": np.full(3, number), "count": np.array(count)})
    print(number, flush=True)
"""


def test_processes_that_write_and_are_killed_leave_a_whole_result(tmp_path):
    """Of three processes that write the same result, each is killed after some of its writes."""
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    writers = [
        subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, env=environment)
        for n in range(3)
    ]
    for writes, writer in enumerate(writers, start=5):
        with writer:
            lines = [writer.stdout.readline() for _ in range(writes)]
            writer.kill()
            assert lines[-1].strip().isdigit()
    (path,) = tmp_path.glob("*.json")
    number = read_result(path).metrics["acc1"] * 64
    assert read_samples(path)["x"].tolist() == [number] * 3
    write_result(tmp_path, *numbered(1))  # nobody holds the lock
    assert read_samples(path)["x"].tolist() == [1, 1, 1]


def test_without_a_lock_no_samples_are_removed(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    for number in (1, 2):
        path = write_result(tmp_path, *numbered(number))
    assert read_samples(path)["x"].tolist() == [2, 2, 2]
    assert len(list(tmp_path.glob("*.npz"))) == 2


@pytest.mark.parametrize("name", ["other.npz", "../x.npz", "{stem}.0123456.npz", "{stem}.json", 5])
def test_only_samples_of_this_result_are_removed(tmp_path, name):
    path = write_result(tmp_path, *numbered(1))
    name = name.format(stem=path.stem) if isinstance(name, str) else name
    foreign = [path.with_name("other.npz"), path.with_name(f"{path.stem}.01234567.npz")]
    for file in foreign:
        file.write_bytes(b"somebody else's")
    path.write_text(json.dumps({**json.loads(path.read_text()), "samples": name}))
    write_result(tmp_path, *numbered(2))
    assert all(file.read_bytes() == b"somebody else's" for file in foreign)
    assert read_samples(path)["x"].tolist() == [2, 2, 2]


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UsageError, match=r"cannot write results to .*/out: No space left on dev"):
        write_result(tmp_path / "out", make_row(), SAMPLES)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("step", [1, 2])
def test_a_killed_run_leaves_the_former_result(tmp_path, monkeypatch, step):
    write_result(tmp_path, make_row(task="cook"), SAMPLES)
    replace, calls = Path.replace, []

    def killed(self, target):
        calls.append(target)
        if len(calls) == step:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    row = make_row(task="cook", metrics={"acc1": 0.5})
    with pytest.raises(KeyboardInterrupt):
        write_result(tmp_path, row, {"label": np.arange(9)})
    (row,) = read_results(tmp_path)
    assert row.metrics["acc1"] == 0.25
    with np.load(tmp_path / row.samples) as stored:
        assert stored["label"].tolist() == [0, 1, 1]
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_file_names_are_safe_and_tell_results_apart():
    assert file_stem(make_row()) == "scenes-cosmos__scenes-cls__scenes"
    with_its_usual_attention = make_row(
        provenance={"attention": "naclip", "protocol_attention": "naclip"}
    )
    assert file_stem(with_its_usual_attention) == file_stem(make_row())
    odd = [
        make_row(model={"spec": "cosmos:../../etc/x y.pt"}),
        make_row(model={"spec": "cosmos:..-..-etc-x-y.pt"}),
        make_row(model={"spec": "openclip:ViT-B-32/" + "a" * 300}),
        make_row(dataset="..", protocol="user"),
        make_row(model={"weights": "student"}),
        make_row(provenance={"limit": 10}),
        make_row(provenance={"precision": "bf16"}),
        make_row(provenance={"precision": "amp"}),
        make_row(provenance={"attention": "vanilla"}),
        make_row(provenance={"attention": "csa", "protocol_attention": "naclip"}),
        make_row(),
    ]
    stems = [file_stem(row) for row in odd]
    assert len(set(stems)) == len(odd)
    assert all(re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{,158}", stem) for stem in stems)


def test_hidden_files_of_killed_runs_are_no_results(tmp_path):
    path = write_result(tmp_path / "one", make_row(task="cook"), SAMPLES)
    row = make_row(task="cook", protocol="other")
    nested = write_result(tmp_path / "more" / "two", row, SAMPLES)
    hidden = [".0123.tmp", ".x.json", ".partial/x.json", "more/.0123.tmp"]
    for name in hidden:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{")
    assert result_paths(tmp_path) == [nested, path]
    assert len(read_results(tmp_path)) == 2


FACTS = {
    **dict.fromkeys(["parameters", "image_parameters", "text_parameters"], 9),
    **dict.fromkeys(["image_gflops", "text_gflops", "patch_size", "embedding_size"]),
    "image_size": [32, 48],
    "context_length": 77,
    "training_data": "a",
    "samples_seen": None,
}


def test_facts_come_back_and_others_are_refused(tmp_path):
    path = write_result(tmp_path, make_row(model={"facts": FACTS}), SAMPLES)
    assert read_result(path).model["facts"] == FACTS
    for change, place in (
        ({"parameters": "9"}, "facts.parameters: Input should be a valid integer"),
        ({"image_size": [32]}, "facts.image_size: List should have at least 2 items"),
        ({"image_gflops": -1.0}, "facts.image_gflops: Input should be greater than 0"),
        ({"colour": 1}, "facts.colour: Extra inputs"),
    ):
        record = json.loads(path.read_text())
        record["model"]["facts"] |= change
        path.with_name("other.json").write_text(json.dumps(record))
        with pytest.raises(UsageError, match=rf"other\.json: \$\.model\.{place}.*") as raised:
            read_result(path.with_name("other.json"))
        assert "\n" not in str(raised.value)


def test_values_of_metrics_are_those_of_their_units(tmp_path):
    assert Metric("r", unit="number").fault(-0.5) == ""
    assert Metric("x", unit="ratio").fault(-0.5) == (
        "-0.5 is not a ratio, which is 0 or more; the unit of other metrics is declared as `number`"
    )
    # Of a task that is not installed here, whose units are unknown.
    row = make_row(task="correlation", metrics={"r": -0.5}, intervals={})
    assert read_result(write_result(tmp_path, row, SAMPLES)).metrics == {"r": -0.5}
    with pytest.raises(UsageError, match=r"acc1.*-0\.5 is not a fraction"):
        write_result(tmp_path, make_row(metrics={"acc1": -0.5}, intervals={}), SAMPLES)
