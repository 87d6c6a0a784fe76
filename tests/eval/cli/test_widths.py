"""Tables in 80 columns: no number and no name of a metric is cut or broken."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path

import pytest
from PIL import Image
from support.segmenting import write_halves

from cosmos_eval.tasks import known_tasks

ROOT = Path(__file__).parents[3]
RESULTS = str(ROOT / "results")
MODELS = ("--model", "scenes-cosmos", "--model", "scenes-clip")
CHECKED = [
    f"{RESULTS}/scenes-cosmos__scenes-{name}__scenes.json"
    for name in ("cls", "retrieval", "seg", "select")
]
COMMANDS = (
    *(("list", "models"), ("list", "datasets"), ("list", "suites")),
    ("list", "models", "--search", "laion2b"),
    ("leaderboard", RESULTS, "--published", "--facts", "--ranks", "--decimals", "2"),
    ("leaderboard", RESULTS, "--transpose", "--no-intervals"),
    ("reproduce", RESULTS),
    ("compare", RESULTS, RESULTS, *MODELS),
    ("audit", RESULTS, "--no-data"),
    ("check", *CHECKED, "--baseline", str(ROOT / "benchmarks" / "baselines" / "scenes.json")),
    ("data", "doctor", "scenes-retrieval", "scenes-cls", "scenes-seg"),
    ("run", "--dry-run", "--no-cache"),
    ("cache", "info"),
)
NUMBER = re.compile(r"[<>+±-]?\[?[+-]?\d[\d.,e+/x%-]*\]?")
NAMES = {name for task in known_tasks().values() for name in task.by_name}


def words(text: str) -> set[str]:
    """Return the numbers, intervals and names of metrics in a text, not the words of notes."""
    stripped_words = {word.strip(",;") for word in text.split()}
    return {word for word in stripped_words if NUMBER.fullmatch(word) or word in NAMES}


def first_two_words(arguments) -> str:
    return " ".join(arguments[:2])


def require_whole(command, arguments, monkeypatch):
    """Compare what a command prints in 80 columns with what it prints in 1000."""
    monkeypatch.setenv("COLUMNS", "1000")
    ended = command(*arguments)
    expected = words(ended.out)
    assert ended.out, ended.err
    monkeypatch.setenv("COLUMNS", "80")
    text = command(*arguments).out
    assert "…" not in text
    tables = re.split(r"(?m)^(?:baseline:|checked for|\d+ of \d+ images)", text)[0]  # sentences
    assert max(map(len, tables.splitlines())) <= 80
    assert expected - words(text) == set()


@pytest.mark.parametrize("arguments", COMMANDS, ids=first_two_words)
def test_no_number_and_no_metric_is_cut(arguments, command, monkeypatch):
    require_whole(command, arguments, monkeypatch)


@pytest.fixture
def colour_models(tmp_path: Path) -> dict[str, str]:
    """Write two models of colours in a deep folder, and data sets; return the models by name.

    The second model takes one shade of red for pink. One of the twelve images of the classification
    set has this shade. There are two segmentation sets, a test set and a training set.
    """
    folder = tmp_path / "models" / ("a-folder-with-a-rather-long-name/" * 3)
    folder.mkdir(parents=True)
    source = (ROOT / "examples" / "own_model.py").read_text("utf-8")
    other = source.replace('"pink": (235, 150, 180)', '"pink": (190, 70, 60)')
    for name, text in (("first.py", source), ("second.py", other)):
        (folder / name).write_text(text, "utf-8")
    colours = {"red": (210, 50, 45), "green": (70, 150, 60), "blue": (70, 130, 210)}
    for name, colour in colours.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(4):
            shown = (192, 70, 60) if (name, number) == ("red", 3) else colour
            Image.new("RGB", (40, 30), shown).save(tmp_path / "photos" / name / f"{number}.png")
    (tmp_path / "photos.yaml").write_text("kind: cls\nfolder: photos\ntemplates: ['{}']\n")
    write_halves(tmp_path / "test", 210)
    write_halves(tmp_path / "training", 200)
    (tmp_path / "space.yaml").write_text(
        "prompts: [{left: [red], right: [blue]}, {left: [blue], right: [red]}]\nattention: [csa]"
    )
    return {name: f"python:{folder / name}.py" for name in ("first", "second")}


def run_arguments(colour_models: dict[str, str]) -> list[str]:
    sets = ("--dataset", "photos.yaml", "--dataset", "test/halves.yaml")
    return ["run", *models_of(colour_models), *sets]


def models_of(colour_models: dict[str, str]) -> list[str]:
    """The options that name both models, whose files give them one name."""
    models = ["--model", colour_models["first"], "--model", colour_models["second"]]
    names = [
        f"a-model-with-a-rather-long-name-that-is-the-{name}-of-both" for name in colour_models
    ]
    return [*models, "--name", names[0], "--name", names[1]]


@pytest.mark.slow
def test_commands_that_measure_cut_nothing_either(command, colour_models, monkeypatch):
    require_whole(command, run_arguments(colour_models), monkeypatch)
    search = ["--dataset", "test/halves.yaml", "--split", "training/halves.yaml", "--budget", "2"]
    search += ["--space", "space.yaml", "--output", "tuned"]
    require_whole(command, ["tune", *models_of(colour_models), *search], monkeypatch)
    picture, shard = "test/images/one.png", "a-shard-of-many-training-images-with-a-long-name.tar"
    with tarfile.open(shard, "w") as tar:
        tar.add(picture, "a-key-of-a-training-image-with-a-long-name.png")
    require_whole(command, ["overlap", shard, "--dataset", "test/halves.yaml"], monkeypatch)
    classes = ["--dataset", "test/halves.yaml", "--classes", "red,blue"]
    require_whole(
        command, ["segment", picture, "--model", colour_models["first"], *classes], monkeypatch
    )
    require_whole(command, ["attend", picture, "--text", "red", "--text", "blue"], monkeypatch)
    monkeypatch.setenv("COLUMNS", "80")
    ended = command("convert", "scenes-clip", "--output", "converted")
    assert (ended.status, "…" in ended.out + ended.err) == (0, False)


def test_a_width_that_is_not_a_positive_number_is_unknown(command, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    expected = command("list", "formats").out
    assert len(expected.splitlines()) > 1
    for columns in ("0", "-5", "wide", ""):
        monkeypatch.setenv("COLUMNS", columns)
        assert command("list", "formats").out == expected


@pytest.mark.slow
def test_run_prints_the_table_of_the_leaderboard(command, colour_models):
    """The second model has 11 of 12 right, which proves nothing: it is tied with the first."""
    printed = command(*run_arguments(colour_models))
    assert printed.status == 0, printed.err
    assert re.search("91.7[^\\n]*†", printed.out), printed.out
    assert command("leaderboard", "runs/eval").out == printed.out
