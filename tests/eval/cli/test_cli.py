"""The command line: what it imports, how it ends, what it prints where."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from support.results import SAMPLES, store_result
from support.rows import MODEL, PROVENANCE, make_row, write_result

import cosmos_eval
from cosmos_eval.cli import run
from cosmos_eval.runner import execute
from cosmos_eval.runner.plan import Pair, Result
from cosmos_eval.types import CosmosEvalError

# Runs commands in a fresh process and prints on standard error what each printed and imported.
SPY = """
import contextlib, io, json, sys
from cosmos_eval.cli.app import main
heavy = {"torch", "mmseg", "mmcv", "mmengine", "open_clip", "torchvision", "scipy", "pandas"}
for words in json.loads(sys.argv[1]):
    printed, status = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        try:
            main(words)
        except SystemExit as ended:
            status = ended.code
    report = status or 0, bool(printed.getvalue()), sorted(heavy & set(sys.modules))
    print(json.dumps(report), file=sys.stderr)
"""


DATACOMP = "run --dry-run --suite datacomp-38 --model openclip:ViT-B-32/openai"
DOCTOR = "data doctor --suite datacomp-38"  # status 1: no data are there
# SciPy takes a third of the time of a dry run; benchmarks/startup.py measures the whole.
WITHOUT_SCIPY = (
    "--help",
    "run --dry-run --suite paper-classification",
    DATACOMP,
)
LIGHT = (
    *WITHOUT_SCIPY,
    DOCTOR,
    "run --help",
    "run --dry-run",
    "run --dry-run --dataset voc20 --data-root . --json",
    "run --dry-run --suite paper-classification --executor ray",
    "run --dry-run --suite scenes --limit 9 --keep-going",
    "list suites",
    "list models",
    "list datasets --json",
    "list protocols",
    "leaderboard --published",
    "verify --help",
    "attend --help",
    "convert --help",
    "report --help",
    "data doctor --help",
    "data prepare --help",
)


def write_plain(folder: Path) -> None:
    write_result(folder, make_row(), {})


def test_light_commands_import_no_heavy_package(tmp_path):
    write_plain(tmp_path / "runs" / "eval")
    commands = json.dumps([words.split() for words in LIGHT])
    done = subprocess.run(
        [sys.executable, "-c", SPY, commands],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    reports = dict(zip(LIGHT, map(json.loads, done.stderr.splitlines()), strict=True))
    for words, (status, has_printed, imported) in reports.items():
        assert (status, has_printed) == (int(words == DOCTOR), True), words
        allowed = set() if words in WITHOUT_SCIPY else {"scipy", "pandas"}
        assert set(imported) <= allowed, words


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rum"], "No such command 'rum'"),
        (["run", "--modle", "x"], "No such option"),
        (["run", "--task", "segm"], "unknown task 'segm'; nearest: seg"),
        (["run", "--limit", "0"], "--limit"),
        (["run", "--limit", "few"], "--limit"),
        (["run", "--model", "scenes-cosmo"], "unknown model 'scenes-cosmo'; .*scenes-cosmos"),
        (["run", "--dataset", "voc2"], "unknown data set 'voc2'; nearest: .*voc20"),
        (["run", "--dataset", "mine.yaml"], "mine.yaml: no such file"),
        (["run", "--dataset", "voc20"], "--data-root"),
        (["run", "--model", "cosmos:none.pt"], "none.pt"),
        (["list", "planets"], "'planets' is not one of"),
        (["leaderboard", "nowhere"], "no results .* in nowhere"),
        (["leaderboard", "--format", "pdf"], r"'--format': 'pdf' is not one of .*'json'\. \(see"),
        (["leaderboard", "--format", "latex"], r"'latex' is not one of .*\. Did you mean 'tex'\?"),
        (["list", "datasset"], r"'datasset' is not one of .*\. Did you mean 'datasets'\?"),
    ],
)
def test_usage_errors_are_one_line_and_status_2(command, arguments, message):
    code, out, err = command(*arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert re.search(rf"^cosmos-eval: .*{message}", err)


def test_a_folder_in_place_of_a_data_set_says_what_to_write(command, tmp_path, save_colour):
    """The file that the message describes is the one that measures the folder."""
    for colour in ("red", "blue"):
        save_colour(tmp_path / "data" / "photos" / colour / "1.png", colour)
    code, out, err = command("run", "--dataset", "data/photos", "--model", "scenes-clip")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "write the lines `kind: cls` and `folder: data/photos` to photos.yaml" in err
    (tmp_path / "photos.yaml").write_text("kind: cls\nfolder: data/photos\n")
    code, out, _ = command("run", "--dataset", "photos.yaml", "--model", "scenes-clip", "--json")
    assert code == 0
    assert json.loads(out)[0]["dataset"] == "photos"


@pytest.mark.parametrize("group", [[], ["plot"], ["data"], ["cache"]])
def test_a_group_without_a_command_prints_its_help(command, group):
    code, out, err = command(*group)
    assert (code, err) == (0, "")
    usage = " ".join([*group, "[OPTIONS] COMMAND [ARGS]"])
    assert re.search(rf"Usage: .*{re.escape(usage)}", out)
    assert command(*group, "--help") == (code, out, err)


@pytest.mark.parametrize("words", [[], ["run"], ["data", "doctor"]])
def test_h_is_short_for_help(command, words):
    assert command(*words, "-h") == command(*words, "--help")


def test_the_version_is_printed(command):
    assert command("--version") == (0, f"cosmos-eval {cosmos_eval.__version__}\n", "")


def test_debug_shows_the_traceback_wherever_it_stands(command):
    for arguments in (["--debug", "leaderboard", "x"], ["leaderboard", "x", "--debug"]):
        code, _, err = command(*arguments)
        assert code == 2
        assert "Traceback" in err
        assert "cosmos-eval: no results" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (CosmosEvalError("a worker died"), 1, "a worker died"),
        (RuntimeError("two\nlines"), 1, "RuntimeError: two lines"),
        (ImportError("libGL.so.1: cannot open"), 1, "a system library is missing"),
        (ImportError("no module"), 1, "ImportError"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
            1,
            "CUDA out of memory: use a smaller --batch-size",
        ),
    ],
)
def test_failures_are_one_line_too(command, monkeypatch, tmp_path, error, status, message):
    def fail(*_, **__):
        raise error
        yield

    monkeypatch.setattr(execute, "execute", fail)
    code, out, err = command("run")
    assert (code, out, len(err.splitlines())) == (status, "", 1)
    assert f"cosmos-eval: {message}" in err
    assert not (tmp_path / "runs").exists()


def test_frequent_mistakes_are_printed_beside_the_table(capsys):
    pairs = [
        {"true": true, "predicted": "boat", "images": images}
        for true, images in (("apple", 7), ("car", 5), ("fish", 5), ("tree", 1))
    ]
    row = make_row(confusion_pairs=pairs)
    results = [Result(Pair("scenes-cosmos", "scenes-cls", "scenes"), row)]
    run.print_results(results, as_json=False)
    expected = "scenes-cls (scenes): apple as boat (7), car as boat (5), fish as boat (5)\n"
    assert capsys.readouterr().err == f"most confused by scenes-cosmos on {expected}"


def test_a_dry_run_shows_every_measurement_and_writes_nothing(command, tmp_path):
    arguments = ["--dataset", "voc20", "--dataset", "scenes-cls", "--data-root", str(tmp_path)]
    code, out, err = command("run", "--dry-run", "--json", *arguments)
    plan = json.loads(out)
    assert (code, err) == (0, "")
    expected = {(m, d) for m in ("scenes-cosmos", "scenes-clip") for d in ("voc20", "scenes-cls")}
    assert expected <= {(item["model"], item["dataset"]) for item in plan}
    assert {item["data"] for item in plan if item["dataset"] == "voc20"} == {str(tmp_path)}
    assert list(tmp_path.iterdir()) == []


def test_lists_have_models_data_sets_and_protocols_as_json(command):
    models, datasets, protocols = (
        json.loads(command("list", kind, "--json").out)
        for kind in ("models", "datasets", "protocols")
    )
    names = {item["model"] for item in models}
    assert {"scenes-cosmos", "scenes-clip", "cosmos:vitb16_merged30m"} <= names
    (voc20,) = (item for item in datasets if item["dataset"] == "voc20")
    assert (voc20["task"], voc20["protocol"]) == ("seg", "cosmos")
    listed = {item["protocol"]: item["datasets"].split(", ") for item in protocols}
    assert "scenes-seg" in listed["scenes"]
    assert {item["protocol"] for item in datasets} <= listed.keys()
    assert "scenes-retrieval-small" in command("list", "datasets").out


def test_searches_of_lists(command):
    """All tags of OpenCLIP, with facts of their sources and numbers of OpenCLIP's own tables."""
    rows = json.loads(command("list", "models", "--search", "openclip", "--json").out)
    by_model = {row["model"]: row for row in rows}
    tags = {f"openclip:{arch}/{tag}" for arch, tag in open_clip.list_pretrained()}
    assert tags < by_model.keys()
    assert by_model["openclip:ViT-B-32/laion2b_s34b_b79k"] == {
        "model": "openclip:ViT-B-32/laion2b_s34b_b79k",
        "kind": "OpenCLIP",
        "training data": "LAION-2B",
        "samples seen": "34B",
        "published": "acc1 66.6 on imagenet1k; 46 data sets",
    }
    assert by_model["openclip:ViT-H-14-378-quickgelu/dfn5b"]["published"].startswith("acc1 84.4 on")
    assert by_model["openclip:ViT-H-14/metaclip_altogether"]["training data"] == ""
    assert by_model["openclip:EVA02-E-14-plus/laion2b_s9b_b144k"]["samples seen"] == "9B"
    (row,) = json.loads(command("list", "models", "--search", "SCENES-cos", "--json").out)
    assert (row["model"], row["published"]) == ("scenes-cosmos", "")
    rows = json.loads(command("list", "datasets", "--search", "food101", "--json").out)
    names = ["food101", "food101-probe", "coop/food101", "wds/food101"]
    assert [row["dataset"] for row in rows] == names
    done = command("list", "models", "--search", "no such thing")
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "no row contains 'no such thing'" in done.err


def test_leaderboard_formats(command, tmp_path):
    write_plain(tmp_path / "runs" / "eval")
    names = ("table", "md", "csv", "tex", "html", "json")
    forms = {name: command("leaderboard", "--format", name)[1] for name in names}
    assert "scenes-cosmos  25.0 +25.0/-12.5" in forms["table"]
    assert "| scenes-cosmos | 25.0 +25.0/-12.5 |" in forms["md"]
    assert forms["csv"].startswith("model,task,dataset,protocol,metric,value")
    assert r"\toprule" in forms["tex"]
    assert forms["html"].startswith("<!DOCTYPE html>")
    assert json.loads(forms["json"])[0]["source"] == "measured"
    assert "cosmos:vitb16_cc3m" in command("leaderboard", "--published", "--format", "md")[1]


def test_leaderboard_with_ties_by_samples(command, tmp_path):
    """Retrieval of the same three images by two models: one image differs, which proves nothing."""
    worse = {**SAMPLES["retrieval"], "image_to_text_rank": np.array([2, 3, 5])}
    for spec, samples in (("a", SAMPLES["retrieval"]), ("b", worse)):
        provenance = {**PROVENANCE, "hashes": {"sample_list": "1" * 64}}
        model = {**MODEL, "spec": spec}
        store_result(tmp_path / spec, "retrieval", samples, model=model, provenance=provenance)
    tied = "| b | 0.0{} "
    assert tied.format("†") in command("leaderboard", ".", "--format", "md")[1]
    forced = command("leaderboard", ".", "--format", "md", "--ties", "intervals")[1]
    assert tied.format("‡") in forced


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path):
    write_plain(tmp_path / "runs" / "eval")
    script = f"{sys.executable} -m cosmos_eval leaderboard --published --format csv | head -n 1"
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("model,")
    assert done.stderr == ""
