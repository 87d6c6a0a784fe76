"""The public names: completion and types, features of a user's inputs, bars."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import venv
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.stats import binomtest
from support.models import store
from support.pages import blocks
from support.rows import PROVENANCE, make_row

import cosmos_core
import cosmos_eval
from cosmos_eval.embedding.cache import embeddings_folder, spaces
from cosmos_eval.tasks import find_protocol
from cosmos_eval.types import UsageError

ROOT = Path(__file__).parents[2]
OWN_MODEL = f"python:{ROOT / 'examples' / 'own_model.py'}"
RED, GREEN, BLUE = np.eye(3, dtype=np.float32)


def test_completion_shows_the_public_names_without_importing_torch():
    code = """
import sys, cosmos_core, cosmos_eval
for package in (cosmos_core, cosmos_eval):
    assert dir(package) == sorted(package.__all__)
assert not {"torch", "numpy"} & {*sys.modules}
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    for package in (cosmos_core, cosmos_eval):
        assert all(hasattr(package, name) for name in dir(package))


def test_embed_images_and_texts(colour_encoder, save_colour, tmp_path):
    path = save_colour(tmp_path / "red.png", "red")
    without_suffix = save_colour(tmp_path / "blue.png", "blue").rename(tmp_path / "blue")
    picture = Image.new("RGBA", (8, 6), (0, 255, 0, 255))
    images = cosmos_eval.embed(
        colour_encoder, iter([path, str(path), picture, str(without_suffix)])
    )
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images, [RED, RED, GREEN, BLUE])
    texts = cosmos_eval.embed(colour_encoder, ["a blue car", "green", "a blue car"])
    np.testing.assert_array_equal(texts, [BLUE, GREEN, BLUE])
    for single in (path, picture, "a red car"):
        assert cosmos_eval.embed(colour_encoder, single).shape == (1, 3)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "no images or texts to embed"),
        (["lost.jpg"], "image not found: lost.jpg"),
        (["a car", 7], "input 1 must be a path, a PIL image or a text, not int"),
        (["a car", " "], "input 1 must be a path, a PIL image or a text, not blank text"),
        ([np.zeros((2, 2, 3))], "input 0 must be a path, a PIL image or a text, not ndarray"),
        (["a car", Path("b.jpg")], "1 images and 1 texts, the first 'a car': embed them in two"),
        ([Image.new("F", (2, 2))], "input 0 cannot be read as an image: its white is not defined"),
    ],
)
def test_inputs_that_cannot_be_embedded_are_usage_errors(colour_encoder, inputs, message):
    with pytest.raises(UsageError, match=message):
        cosmos_eval.embed(colour_encoder, inputs)


def test_embed_checks_models_and_warns_of_cut_texts(colour_encoder, monkeypatch):
    with pytest.raises(UsageError, match="arch, weights, device and precision go with a named"):
        cosmos_eval.embed(colour_encoder, "red", precision="bf16")
    with pytest.raises(UsageError, match=r"dict is not a cosmos_eval.Encoder"):
        cosmos_eval.embed({}, "red")
    overlong = colour_encoder.overlong

    def overlong_by_one_more(texts):
        return overlong(texts) + 1

    monkeypatch.setattr(colour_encoder, "overlong", overlong_by_one_more)
    monkeypatch.setattr(colour_encoder, "trims_text", False)
    with pytest.warns(UserWarning, match="2 of 2 texts did not fit the model's context"):
        cosmos_eval.embed(colour_encoder, ["red", "green"])


def test_features_of_a_named_model_are_cached(save_colour, tmp_path, monkeypatch):
    monkeypatch.setenv("COSMOS_EVAL_CACHE", str(tmp_path / "cache"))
    paths = [save_colour(tmp_path / f"{colour}.png", colour) for colour in ("red", "blue")]

    def n_cached() -> int:
        return sum(space.embeddings for space in spaces(embeddings_folder()))

    expected = cosmos_eval.embed(OWN_MODEL, paths, cache=False)
    assert n_cached() == 0
    for _ in range(2):
        features = cosmos_eval.embed(OWN_MODEL, paths[::-1])[::-1]
        assert n_cached() == 2
        assert features.tolist() == expected.tolist()


@pytest.fixture
def apples(save_colour, tmp_path, monkeypatch) -> dict[str, str]:
    """Return a mapping that describes four apples, one of them in the folder of another colour."""
    for folder, name, colour in (
        ("red", "a", "red"),
        ("red", "b", "red"),
        ("red", "c", "green"),
        ("green", "d", "green"),
    ):
        save_colour(tmp_path / "photos" / folder / f"{name}.png", colour)
    monkeypatch.chdir(tmp_path)
    return {"kind": "cls", "name": "apples", "folder": "photos"}


def test_a_mapping_or_a_protocol_in_place_of_a_name(colour_encoder, apples):
    row = cosmos_eval.evaluate(colour_encoder, apples)
    assert (row.dataset, row.protocol, row.n_samples) == ("apples", "user", 4)
    assert row.metrics["acc1"] == 3 / 4
    protocol = find_protocol(apples)
    assert cosmos_eval.evaluate(colour_encoder, protocol).metrics == row.metrics
    assert apples == {"kind": "cls", "name": "apples", "folder": "photos"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": None}, "the mapping of a data set: `name`, which results call .* is missing"),
        ({"kind": "clss"}, "the mapping of a data set: `kind` cannot be 'clss': give one of"),
        ({"folders": "a"}, "the mapping of a data set: unknown key `folders`"),
    ],
)
def test_a_mapping_that_describes_no_data_set(colour_encoder, apples, changes, message):
    with pytest.raises(UsageError, match=message):
        cosmos_eval.evaluate(colour_encoder, apples | changes)


def test_bars_are_shown_on_request(colour_encoder, save_colour, tmp_path, capsys):
    save_colour(tmp_path / "photos/red/a.png", "red")
    save_colour(tmp_path / "photos/blue/b.png", "blue")
    path = tmp_path / "photos.yaml"
    path.write_text("kind: cls\nfolder: photos\ntemplates: ['{}']\n")
    for shown in (False, True):
        row = cosmos_eval.evaluate(colour_encoder, str(path), progress=shown)
        assert row.metrics["acc1"] == 1
        printed = capsys.readouterr()
        assert ("ColourEncoder on photos: images" in printed.err) is shown
        assert printed.out == ""
        cosmos_eval.embed(colour_encoder, "red", progress=shown)
        assert ("colours: texts" in capsys.readouterr().err) is shown


USER = """
import cosmos_core
import cosmos_eval

cosmos_eval.evaluate("scenes-cosmos", "scenes-cls", limit="ten")
cosmos_eval.embed(7, "a cat")
cosmos_core.create_model("ViT-B-16", 7)
"""


@pytest.mark.slow
def test_a_wheel_brings_types(tmp_path):
    """A type checker uses them in an environment with nothing but the wheel of this project."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    venv.create(tmp_path / "venv")
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(packages)
    (tmp_path / "user.py").write_text(USER)
    program = str(tmp_path / "venv" / "bin" / "python")
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--python-executable", program, "user.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    faults = [line for line in checked.stdout.splitlines() if ": error: " in line]
    assert [line.partition(": error: ")[2].partition(";")[0] for line in faults] == [
        'Argument "limit" to "evaluate" has incompatible type "str"',
        'Argument 1 to "embed" has incompatible type "int"',
        'Argument 2 to "create_model" has incompatible type "Literal[7]"',
    ]


RESULTS = ROOT / "results"
COSMOS, CLIP = (
    RESULTS / f"{model}__scenes-cls__scenes.json" for model in ("scenes-cosmos", "scenes-clip")
)


def hits_of(result: Path) -> np.ndarray:
    """Whether each image is classified right, from the stored samples of a result."""
    with np.load(result.parent / json.loads(result.read_text())["samples"]) as samples:
        return samples["labels"] == samples["top5"][:, 0]


def test_a_comparison_is_a_table():
    comparison = cosmos_eval.compare(COSMOS, str(CLIP))
    (row,) = comparison.frame.query("metric == 'acc1'").to_dict("records")
    a, b = hits_of(COSMOS), hits_of(CLIP)
    assert (row["dataset"], row["samples"], row["better"]) == ("scenes-cls", len(a), "A")
    assert (row["a"], row["b"]) == (a.mean(), b.mean())
    assert row["difference"] == pytest.approx(a.mean() - b.mean())
    n_only_a = int((a & ~b).sum())
    n_discordant = int((a != b).sum())
    assert row["p_value"] == pytest.approx(binomtest(n_only_a, n_discordant).pvalue)
    assert row["low"] < row["difference"] < row["high"]

    html = comparison._repr_html_()
    assert "<h2>scenes-cosmos (A) and scenes-clip (B)</h2>" in html
    assert f">{100 * a.mean():.2f}</td>" in html
    assert f">{100 * b.mean():.2f}</td>" in html
    models = ["scenes-cosmos", "scenes-clip"]
    with pytest.raises(UsageError, match="no result of model 'scenes-clap'"):
        cosmos_eval.compare(RESULTS, models=["scenes-cosmos", "scenes-clap"])
    with pytest.raises(UsageError, match="without --model"):
        cosmos_eval.compare(RESULTS, models=models, groups=models)


def test_a_leaderboard_is_a_table(tmp_path):
    board = cosmos_eval.leaderboard(COSMOS, CLIP)
    rows = {(row.model, row.metric): row for row in board.frame.itertuples()}
    for path in (COSMOS, CLIP):
        record = json.loads(path.read_text())
        for metric, value in record["metrics"].items():
            row = rows.pop((record["model"]["spec"], metric))
            interval = record["intervals"].get(metric, {"low": None, "high": None})
            assert row.value == value
            if interval["low"] is not None:
                assert (row.low, row.high) == (interval["low"], interval["high"])
    assert rows == {}
    best = board.frame.query("best == 'yes' and metric == 'acc1'")
    assert best.model.tolist() == ["scenes-cosmos"]

    assert f"<b>{100 * hits_of(COSMOS).mean():.1f}</b>" in board._repr_html_()
    chosen = cosmos_eval.leaderboard(RESULTS, datasets="scenes-cls,scenes-cls-*", metrics=["acc*"])
    assert set(chosen.frame.dataset) == {"scenes-cls", "scenes-cls-small"}
    assert set(chosen.frame.metric) == {"acc1", "acc5"}
    published = cosmos_eval.leaderboard(RESULTS, published=True, protocols="clearclip").frame
    assert set(published.source) == {"published"}
    suite = tmp_path / "suite.yaml"
    suite.write_text("datasets: {scenes: [scenes-cls]}\nscore: {metric: acc1}\n")
    means = cosmos_eval.leaderboard(COSMOS, CLIP, suite=str(suite)).frame.query("task == 'suite'")
    assert dict(zip(means.model, means.value, strict=True)) == {
        "scenes-cosmos": hits_of(COSMOS).mean(),
        "scenes-clip": hits_of(CLIP).mean(),
    }
    with pytest.raises(UsageError, match="no results"):
        cosmos_eval.leaderboard(ROOT / "docs")


def test_a_leaderboard_has_the_rows_of_the_command(command, tmp_path):
    suite = tmp_path / "suite.yaml"
    suite.write_text("datasets: {scenes: [scenes-cls]}\nscore: {metric: acc1}\n")
    models = "scenes-*,cosmos:vitb16_merged30m"
    words = ("--suite", suite, "--groups", "--published", "--models", models, "--format", "csv")
    table = pd.read_csv(io.StringIO(command("leaderboard", RESULTS, *words).out))
    frame = cosmos_eval.leaderboard(
        RESULTS, suite=str(suite), groups=True, published=True, models=models
    ).frame
    assert {"cls", "suite"} < set(frame.task)
    assert {"measured", "published"} <= set(frame.source)
    assert frame.trainings.notna().any()
    columns = ["model", "task", "dataset", "protocol", "metric", "value", "source", "tie"]
    pd.testing.assert_frame_equal(
        frame[columns].replace("", None), table[columns], check_dtype=False
    )


def test_a_check_is_a_table(command, tmp_path):
    store(tmp_path / "old", "cls", 0.7)
    words = ("--baseline", "b.json", "--update", "--reason", "the first one")
    assert command("check", "old", *words).status == 0
    report = cosmos_eval.check("old", "b.json")
    assert (report.status, set(report.frame.change)) == (0, {0.0})

    store(tmp_path / "new", "cls", 0.3, 1)
    report = cosmos_eval.check([tmp_path / "new"], tmp_path / "b.json")
    assert report.status == 1
    (row,) = report.frame.query("metric == 'acc1'").to_dict("records")
    (old,), (new,) = ((tmp_path / name).glob("*.json") for name in ("old", "new"))
    assert (row["baseline"], row["new"]) == (hits_of(old).mean(), hits_of(new).mean())
    assert (row["decision"], row["gated"]) == ("regression", True)
    assert f"<h2>{report.verdict}</h2>" in report._repr_html_()
    with pytest.raises(UsageError, match=r"c\.json"):
        cosmos_eval.check("old", "c.json")


def test_a_report_is_the_page_of_the_command(command, tmp_path):
    words = ("--output", "a.html", "--no-pictures", "--no-published")
    assert command("report", RESULTS, *words).status == 0
    written = cosmos_eval.report(RESULTS, "b.html", pictures=False, published=False)
    assert written == Path("b.html")
    assert (tmp_path / "b.html").read_bytes() == (tmp_path / "a.html").read_bytes()
    with pytest.raises(UsageError, match=r"end its name in \.html"):
        cosmos_eval.report(RESULTS, "b.pdf")


def test_a_result_is_shown_as_a_table_by_notebooks(tmp_path):
    provenance = {**PROVENANCE, "notes": ["5% < 10%"]}
    row = make_row(metrics={"acc1": 0.5, "acc5": 0.75}, provenance=provenance)
    html = replace(row, model={**row.model, "name": "<b>"})._repr_html_()
    assert "&lt;b&gt;" in html
    assert "<b>" not in html
    assert re.search(r'<th scope="row">acc1</th>\n<td data-value="[^"]*">50.0', html)
    assert re.search(r'<th scope="row">acc5</th>\n<td data-value="[^"]*">75.0', html)
    assert "<li>5% &lt; 10%</li>" in html


@pytest.mark.parametrize("page", ["results", "comparing", "leaderboard"])
def test_python_examples_of_the_pages_run(page, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    path = ROOT / "docs" / f"{page}.md"
    names: dict[str, object] = {}
    for block in blocks(path, "python"):
        exec(block, names)
    assert "scenes-cls" in capsys.readouterr().out or page == "comparing"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": torch.nn.Linear(2, 2)}, r"Linear is not a cosmos_eval\.Encoder: .*\.TwoTower"),
        ({"model": Path("last.pt")}, "PosixPath is not a cosmos_eval.Encoder"),
        ({"model": "cosmos:none.pt"}, "'cosmos:none.pt': no such file"),
        ({"model": "openclip:ViT-B-32/none.pt"}, "'none.pt' is neither a file nor"),
        ({"dataset": 7}, "a data set must be a name, a YAML file, .* not int"),
        ({"dataset": None}, "a data set must be a name, a YAML file, .* not NoneType"),
        ({"dataset": Path("none.yaml")}, "none.yaml: no such file"),
        ({"limit": 0}, "limit must be a whole number, 1 or more, not 0"),
        ({"limit": "3"}, "limit must be a whole number, 1 or more, not '3'"),
        ({"batch_size": 0}, "batch_size must be a whole number, 1 or more, not 0"),
        ({"workers": -1}, "workers must be a whole number, 0 or more, not -1"),
        ({"precision": "fp8"}, "precision must be one of fp32, .* not 'fp8'"),
        ({"attention": "none"}, "attention must be one of vanilla, .* not 'none'"),
    ],
)
def test_faults_of_users_are_usage_errors(options, message):
    arguments = {"model": "scenes-clip", "dataset": "scenes-cls", "limit": 2, **options}
    model, dataset = arguments.pop("model"), arguments.pop("dataset")
    with pytest.raises(UsageError, match=message):
        cosmos_eval.evaluate(model, dataset, **arguments)


@pytest.mark.parametrize(
    ("function", "arguments", "options", "named"),
    [
        (cosmos_eval.load_results, [7], {}, "a place of results"),
        (cosmos_eval.load_results, [[RESULTS]], {}, "a place of results"),
        (cosmos_eval.load_samples, [7], {}, "result"),
        (cosmos_eval.read_results, [None], {}, "directory"),
        (cosmos_eval.compare, [7], {"models": ["scenes-clip", "scenes-cosmos"]}, "a"),
        (cosmos_eval.compare, [RESULTS, 7], {}, "b"),
        (cosmos_eval.leaderboard, [RESULTS, 7], {}, "a place of results"),
        (cosmos_eval.leaderboard, [RESULTS], {"suite": 7}, "suite"),
        (cosmos_eval.check, [7, "baseline.json"], {}, "results"),
        (cosmos_eval.check, [[RESULTS, 7], "baseline.json"], {}, "a place of results"),
        (cosmos_eval.check, [RESULTS, 7], {}, "baseline"),
        (cosmos_eval.evaluate, ["scenes-clip", "scenes-cls"], {"output": 7}, "output"),
        (cosmos_eval.evaluate, ["scenes-clip", "voc20"], {"data_root": 7}, "data_root"),
        (cosmos_eval.report, [7], {}, "results"),
        (cosmos_eval.Evaluation, [["scenes-cls"]], {"output": 7}, "output"),
        (cosmos_eval.report, [RESULTS, 7], {}, "output"),
        (cosmos_eval.attend, [7, "a ball"], {}, "image"),
    ],
)
def test_values_that_are_not_paths_are_usage_errors(function, arguments, options, named):
    with pytest.raises(UsageError, match=f"^{named} must be a path, as a str .*, not [a-zA-Z]+$"):
        function(*arguments, **options)


def test_missing_checkpoints_and_modules_are_usage_errors_everywhere(save_colour, tmp_path):
    with pytest.raises(UsageError, match=r"none.pt: no such checkpoint"):
        cosmos_core.load_model("none.pt", "ViT-B-16")
    image = save_colour(tmp_path / "red.png", "red")
    with pytest.raises(UsageError, match=r"a model must be a name such as .* not Linear"):
        cosmos_eval.attend(image, "a car", torch.nn.Linear(2, 2))
    with pytest.raises(UsageError, match="images or texts must be one or several, not int"):
        cosmos_eval.embed("scenes-clip", 7)
