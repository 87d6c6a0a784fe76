"""`cosmos-eval run --suite`: missing results are measured, failures are reported."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from cosmos_eval import models as encoders
from cosmos_eval.results.checked import read_results

RUN = ("run", "--device", "cpu", "--no-cache", "--output", "out", "--suite")


def results(folder: Path) -> dict[str, int]:
    """When every result file was written, by its name."""
    return {path.name: os.stat(path).st_mtime_ns for path in (folder / "out").glob("*.json")}


@pytest.fixture
def loaded(monkeypatch) -> list[str]:
    """The models that have been loaded, as they are."""
    names: list[str] = []
    load = encoders.load_encoder

    def noting(spec, **how):
        names.append(spec.text)
        return load(spec, **how)

    monkeypatch.setattr(encoders, "load_encoder", noting)
    return names


def test_only_what_is_missing_is_measured(command, own_suite, tmp_path, loaded):
    done = command(*RUN, str(own_suite), "--json")
    assert done.status == 0, done.err
    printed = json.loads(done.out)
    order = [(row["model"]["spec"], row["dataset"]) for row in printed]
    assert order == [(model, name) for model in loaded for name in ("cold", "warm")]
    assert done.err.splitlines()[-1] == "measured 4, there already 0, failed 0"

    before = results(tmp_path)
    lost, *_, damaged = sorted(before)
    (tmp_path / "out" / lost).unlink()
    (tmp_path / "out" / damaged).write_text("{}")
    loaded.clear()
    done = command(*RUN, str(own_suite), "--json")
    assert done.status == 0
    after = results(tmp_path)
    unchanged = {name for name in before if after[name] == before[name]}
    assert unchanged == before.keys() - {lost, damaged}
    assert done.err.count("there already: out/") == 2
    assert f"out/{damaged}: not a result: " in done.err
    assert done.err.splitlines()[-1] == "measured 2, there already 2, failed 0"
    again = json.loads(done.out)
    assert [row["metrics"] for row in again] == [row["metrics"] for row in printed]

    loaded.clear()
    assert command(*RUN, str(own_suite)).status == 0
    assert loaded == []
    assert results(tmp_path) == after


def test_the_score_is_printed_where_results_count(command, own_suite):
    assert "Suite" not in command(*RUN, str(own_suite)).out
    own_suite.write_text(own_suite.read_text() + "score: {metric: acc1}\nleft_out: {hot: lost}\n")
    done = command(*RUN, str(own_suite))
    assert done.err.splitlines()[-1] == "measured 0, there already 4, failed 0"
    assert "Suite suite (%)" in done.out
    assert done.out.count("2 of 3") == 2 + 1  # both models, and the note
    assert "Suite" not in command(*RUN, str(own_suite), "--limit", "3").out


def test_a_result_without_its_own_samples_is_measured_again(command, own_suite, tmp_path):
    command(*RUN, str(own_suite))
    swapped = sorted((tmp_path / "out").glob("*.npz"))
    swapped[0].write_bytes(swapped[1].read_bytes() + b"0")
    done = command(*RUN, str(own_suite))
    assert "is not what was stored" in done.err
    assert done.err.splitlines()[-1] == "measured 1, there already 3, failed 0"


def test_other_precision_or_limit_is_another_result(command, own_suite, tmp_path):
    command(*RUN, str(own_suite))
    for option in (["--limit", "1"], ["--precision", "amp"]):
        for expected in ("measured 4, there already 0", "measured 0, there already 4"):
            assert expected in command(*RUN, str(own_suite), *option).err
    assert len(results(tmp_path)) == 12
    assert sum("__amp" in name for name in results(tmp_path)) == 4


def test_other_settings_of_a_data_set_are_measured_again(command, own_suite, tmp_path):
    command(*RUN, str(own_suite))
    before = results(tmp_path)
    cold = own_suite.parent / "cold.yaml"
    cold.write_text(cold.read_text().replace("a {}", "the {}") + "source: here\n")
    warm = own_suite.parent / "warm.yaml"
    warm.write_text(warm.read_text() + "source: there\n")  # decides no number
    done = command(*RUN, str(own_suite))
    assert done.err.count(" was measured with other settings than cold has now") == 2
    assert done.err.splitlines()[-1] == "measured 2, there already 2, failed 0"
    after = results(tmp_path)
    assert {name for name in before if after[name] != before[name]} == {
        name for name in before if "__cold__" in name
    }
    assert command(*RUN, str(own_suite)).err.count("there already: ") == 4


def test_all_missing_data_are_reported_before_anything_is_loaded(command, own_suite, loaded):
    shutil.copytree(own_suite.parent / "warm", own_suite.parent / "hot")
    hot = (own_suite.parent / "warm.yaml").read_text().replace("warm", "hot")
    (own_suite.parent / "hot.yaml").write_text(hot)
    own_suite.write_text(own_suite.read_text().replace("warm.yaml", "warm.yaml, hot.yaml"))
    for name in ("cold", "warm"):
        (own_suite.parent / name).rename(own_suite.parent / f"{name}-lost")
    done = command(*RUN, str(own_suite))
    assert (done.status, done.out, loaded) == (2, "", [])
    cold, warm, last = done.err.splitlines()
    assert cold.startswith("failed: 2 models on cold (user): cold: expected ")
    assert warm.startswith("failed: 2 models on warm (user): warm: expected ")
    assert last.startswith("cosmos-eval: 2 of 3 data sets cannot be measured on")


def test_a_suite_without_any_data_is_one_line(command, own_suite, loaded):
    for name in ("cold", "warm"):
        (own_suite.parent / name).rename(own_suite.parent / f"{name}-lost")
    done = command(*RUN, str(own_suite))
    assert (done.status, done.out, loaded) == (2, "", [])
    (line,) = done.err.splitlines()
    beginning = "cosmos-eval: none of 2 data sets can be measured on (--dry-run lists them); "
    assert line.startswith(f"{beginning}the first error: cold: expected ")
    done = command(*RUN, str(own_suite), "--keep-going")
    assert (done.status, done.err.count("failed: 2 models on ")) == (1, 2)


def test_one_missing_data_set_ends_the_run_or_is_left_out(command, own_suite, tmp_path, loaded):
    (own_suite.parent / "cold").rename(own_suite.parent / "lost")
    done = command(*RUN, str(own_suite))
    assert (done.status, done.out, loaded) == (2, "", [])
    assert done.err.startswith("cosmos-eval: cold: expected ")
    assert len(done.err.splitlines()) == 1
    done = command(*RUN, str(own_suite), "--keep-going")
    assert done.status == 1
    assert done.err.count("failed: ") == 1
    assert done.err.splitlines()[-1] == "measured 2, there already 0, failed 2"
    assert {row.dataset for row in read_results(tmp_path / "out")} == {"warm"}


def test_data_that_break_in_the_middle(command, own_suite, tmp_path):
    (own_suite.parent / "cold/blue/a.png").write_bytes(b"no image")
    done = command(*RUN, str(own_suite))
    assert (done.status, done.out, results(tmp_path)) == (2, "", {})
    assert "cosmos-eval: cannot decode image" in done.err
    done = command(*RUN, str(own_suite), "--keep-going", "--json")
    assert done.status == 1
    assert [row["dataset"] for row in json.loads(done.out)] == ["warm", "warm"]
    assert done.err.count("cannot decode image") == 2
    assert done.err.splitlines()[-1] == "measured 2, there already 0, failed 2"


def test_a_model_that_cannot_be_loaded_is_tried_once(command, own_suite, tmp_path, loaded):
    broken = own_suite.parent / "broken.pt"
    broken.write_bytes(b"no checkpoint")
    text = own_suite.read_text()
    own_suite.write_text(text.replace("models: [", "models: [cosmos:broken.pt, "))
    done = command(*RUN, str(own_suite))
    assert (done.status, done.out, results(tmp_path)) == (2, "", {})
    assert len(loaded) == 1
    done = command(*RUN, str(own_suite), "--keep-going")
    assert done.status == 1
    assert len(loaded) == 4
    assert done.err.count(f"failed: cosmos:{broken} on ") == 2
    assert done.err.splitlines()[-1] == "measured 4, there already 0, failed 2"


def test_a_result_of_another_name_stops_the_run_before_anything_is_loaded(
    command, own_suite, tmp_path, loaded
):
    """`my set` and `my-set` are the same in file names."""
    model = own_suite.read_text().split("[")[1].split(",")[0]
    cold = own_suite.parent / "cold.yaml"
    arguments = [*RUN[:-1], f"--dataset={cold}", "--model", model]
    text = cold.read_text()
    cold.write_text(f"name: my set\n{text}")
    assert command(*arguments).status == 0
    before = results(tmp_path)
    loaded.clear()
    cold.write_text(f"name: my-set\n{text}")
    for options in ((), ("--dry-run",)):
        done = command(*arguments, *options)
        assert (done.status, loaded, results(tmp_path)) == (2, [], before)
        (line,) = done.err.splitlines()
        assert "holds the result of " in line
        assert " on my set (user), which has the same file name as " in line


def test_keep_going_is_no_advice_if_the_only_model_cannot_be_loaded(command, own_suite):
    broken = own_suite.parent / "broken.pt"
    broken.write_bytes(b"no checkpoint")
    done = command(*RUN, str(own_suite), "--model", f"cosmos:{broken}")
    assert (done.status, done.out) == (2, "")
    assert "--keep-going" not in done.err


def test_keep_going_serves_runs_without_a_suite(command, own_suite, tmp_path):
    (own_suite.parent / "cold/blue/a.png").write_bytes(b"no image")
    named = [f"--dataset={own_suite.parent / name}.yaml" for name in ("cold", "warm")]
    model = own_suite.read_text().split("[")[1].split(",")[0]
    arguments = [*RUN[:-1], *named, "--model", model]
    for _ in range(2):  # existing results are measured again: they were requested
        done = command(*arguments, "--keep-going")
        assert done.status == 1
        assert done.err.splitlines()[-1] == "measured 1, there already 0, failed 1"
    assert command(*arguments).status == 2


@pytest.mark.parametrize("option", ["--task=seg", "--dataset=voc20", "--protocol=cosmos"])
def test_a_suite_says_which_data_are_measured(command, own_suite, option):
    done = command(*RUN, str(own_suite), option)
    assert done.status == 2
    assert "leave --task, --dataset and --protocol out" in done.err
