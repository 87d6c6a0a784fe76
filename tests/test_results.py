"""The committed results, and tables of them in documents."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cosmos_eval import read_results
from cosmos_eval.cli.app import main
from cosmos_eval.results.verify import verify_all

ROOT = Path(__file__).parents[1]
RESULTS = read_results(ROOT / "results")


@pytest.mark.parametrize(
    ("script", "document", "name"),
    [
        ("localisation_table.py", "docs/attention.md", "localisation table"),
        ("localisation_table.py --forms", "docs/attention.md", "table of forms"),
        ("localisation_table.py --trainings TRAININGS", "docs/attention.md", "table of trainings"),
        ("pairs_table.py", "docs/pair-scores.md", "pairs table"),
    ],
)
def test_documents_show_what_the_results_say(script, document, name):
    trainings = str(ROOT / "benchmarks" / "study" / "trainings")
    name_of_script, *options = script.replace("TRAININGS", trainings).split()
    program = str(ROOT / "benchmarks" / name_of_script)
    command = [sys.executable, program, str(ROOT / "results"), *options]
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    shown = (ROOT / document).read_text("utf-8")
    assert f"<!-- {name} -->\n\n{table}\n<!-- end of {name} -->" in shown


def printed(capsys, command):
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(command))
    assert not ended.value.code
    return capsys.readouterr().out


def test_a_page_shows_what_the_leaderboard_prints(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs/limits.md").read_text("utf-8")
    (command,) = re.findall(r"(?m)`cosmos-eval (leaderboard results --format md .*)`:$", page)
    table = printed(capsys, command)
    assert f"<!-- scenes table -->\n\n{table}\n<!-- end of scenes table -->" in page


def test_the_readme_has_the_differences_of_methods(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    readme = (ROOT / "README.md").read_text("utf-8")
    (command,) = re.findall(r"(?m)^`cosmos-eval (compare benchmarks/study/trainings .*)`:$", readme)
    shown = set()
    for test in json.loads(printed(capsys, f"{command} --json"))["tests"]:
        ends = (test["difference"], test["interval"]["low"], test["interval"]["high"])
        text = "{:+.2f} [{:+.2f}, {:+.2f}]".format(*(100 * end for end in ends))
        if text in readme:
            shown.add((test["dataset"], test["protocol"].partition("-")[0], test["metric"]))
    assert shown >= {
        ("scenes-cls", "scenes", "acc1"),
        ("scenes-retrieval", "scenes", "image_to_text_R@1"),
        ("scenes-retrieval", "scenes", "text_to_image_R@1"),
        ("scenes-seg", "scenes", "mIoU"),
        ("scenes-seg", "tuned", "mIoU"),
    }


def test_the_readme_has_the_difference_of_dense_features():
    attention = (ROOT / "docs/attention.md").read_text("utf-8")
    table = attention.partition("<!-- table of trainings -->")[2]
    (interval,) = re.findall(r"(?m)^\| scenes-seg, mIoU \|.*?\| \+([^|]*\]) \|", table)
    readme = " ".join((ROOT / "README.md").read_text("utf-8").split())
    assert f"by {interval.replace('+', '')} points of mIoU ([Attention]" in readme


def test_every_figure_follows_from_the_stored_samples():
    verdicts = list(verify_all([ROOT / "results"]))
    assert len(verdicts) == len(RESULTS)
    assert [verdict for verdict in verdicts if verdict.outcome != "verified"] == []


@pytest.mark.parametrize("dataset", ["scenes-retrieval", "scenes-cls", "scenes-seg"])
@pytest.mark.parametrize("small", ["", "-small"])
def test_cosmos_is_above_clip_beyond_the_intervals(dataset, small):
    cosmos, clip = (
        next(
            r
            for r in RESULTS
            if (r.model["spec"], r.dataset, r.protocol) == (model, dataset + small, "scenes")
        )
        for model in ("scenes-cosmos", "scenes-clip")
    )
    for metric in ("image_to_text_R@1", "text_to_image_R@1", "acc1", "mIoU", "mIoU_things"):
        if metric in cosmos.metrics:
            assert cosmos.intervals[metric]["low"] > clip.intervals[metric]["high"]
