"""A user's own models: a Python file's `load` or an object, and faults of either."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from support.encoders import load, refusal
from support.user_models import MODEL

import cosmos_eval
from cosmos_eval.embedding.cache import spaces
from cosmos_eval.models.encoder import DenseEncoder
from cosmos_eval.models.specs import parse_model_spec, with_complete_paths
from cosmos_eval.results.identity import model_sha256
from cosmos_eval.results.store import read_record
from cosmos_eval.runner.execute import existing_results
from cosmos_eval.runner.plan import jobs_of, make_plan, open_datasets
from cosmos_eval.runner.run import Worker, run_all
from cosmos_eval.types import EncoderInfo, RunOptions, UsageError

TOWERS = """
import torch
from cosmos_eval import TwoTower

towers = torch.nn.Linear(3, 4)
model = TwoTower(
    encode_image=lambda images: towers(images.mean((2, 3))),
    encode_text=lambda tokens: towers(tokens.float()),
    transform=lambda image: torch.tensor(image.getpixel((0, 0))).float()[:, None, None],
    tokenize=lambda texts: torch.tensor([[len(text), 1, 1] for text in texts]),
    name="towers",
)
"""

# Features are mean colours. The texts of red pictures are red, and those of blue ones are BLUE.
COLOURS = """
import torch
from cosmos_eval import TwoTower

BLUE = {blue}
model = TwoTower(
    encode_image=lambda images: images.mean((2, 3)),
    encode_text=lambda tokens: tokens.float(),
    transform=lambda image: torch.tensor(image.getpixel((0, 0))).float()[:, None, None],
    tokenize=lambda texts: torch.tensor([BLUE if "blue" in text else [1, 0, 0] for text in texts]),
    name="{name}",
    weights={{"blue": torch.tensor(BLUE)}},
)
"""


@pytest.fixture
def write_model(tmp_path: Path):
    """Return a function that writes the file of a model and returns the model's spec."""

    def write(text: str = MODEL, shift: str = "0") -> str:
        (tmp_path / "mine.py").write_text(text.replace("SHIFT", shift))
        return f"python:{tmp_path / 'mine.py'}"

    return write


@pytest.fixture
def photos(tmp_path: Path, save_colour) -> str:
    """Write a data set of a red and a blue picture, each the only one of its class."""
    for colour in ("red", "blue"):
        save_colour(tmp_path / "photos" / colour / "1.png", colour)
    (tmp_path / "photos.yaml").write_text("kind: cls\nfolder: photos\n")
    return str(tmp_path / "photos.yaml")


def test_the_record_says_which_file_it_was(write_model, tmp_path, photos):
    text = write_model()
    info = load(text).info
    digest = hashlib.sha256((tmp_path / "mine.py").read_bytes()).hexdigest()
    assert info == EncoderInfo(text, "means", None, "0" * 64, False, "fp32", "cpu", digest)
    plan = make_plan(datasets=[photos], models=[text])
    (result,) = run_all(plan, output=tmp_path / "out")
    record = read_record(result.path)
    assert record["model"]["spec"] == text
    assert record["model"]["code_sha256"] == digest
    assert record["provenance"]["precision"] == "fp32"


def test_versions_of_a_file_never_share_embeddings(write_model, tmp_path, photos):
    folder = tmp_path / "kept"

    def measure(shift: str) -> list[str]:
        plan = make_plan(
            datasets=[photos],
            models=[write_model(shift=shift)],
            options=RunOptions(cache=str(folder)),
        )
        notes: list[str] = []
        for _ in run_all(plan, lambda _, step: notes.append(step.note)):
            pass
        return [note for note in notes if "already" in note]

    assert measure("0") == []
    assert len(spaces(folder)) == 3  # images, texts and facts
    assert measure("1") == []
    assert len(spaces(folder)) == 6
    assert sorted(measure("0")) == [
        "2 of 2 images were embedded already",
        "2 of 2 prompts were embedded already",
    ]


def test_a_changed_file_is_measured_again(write_model, tmp_path, photos):
    plan = make_plan(datasets=[photos], models=[write_model()])
    for result in run_all(plan, output=tmp_path / "out"):
        path = result.path
    (existing,) = existing_results(plan, tmp_path / "out").values()
    assert existing.row is not None
    write_model(shift="1")
    (existing,) = existing_results(plan, tmp_path / "out").values()
    expected = f"{path} was measured with other code than {tmp_path / 'mine.py'} has now"
    assert str(existing.error) == expected


def test_in_a_suite_a_file_is_relative_to_the_suite(tmp_path):
    assert with_complete_paths("python:mine.py", tmp_path) == f"python:{tmp_path / 'mine.py'}"
    (tmp_path / "a b.pt").touch()
    text = with_complete_paths("python:mine.py?file=a%20b.pt&width=2", tmp_path)
    assert text == f"python:{tmp_path}/mine.py?file={tmp_path}/a%20b.pt&width=2"


ARGUMENTS = (
    MODEL.replace("SHIFT", "shift")
    .replace(
        "def __init__(self, device, precision):",
        """
    def __init__(self, device, precision, weights, shift):
        globals().update(shift=shift)""",
    )
    .replace(
        "def load(device, precision):",
        """
def load(device, precision, *, weights, shift=0):""",
    )
    .replace("Mean(device, precision)", "Mean(device, precision, weights, shift)")
)


def test_arguments_of_the_function_are_part_of_the_model(write_model, tmp_path, photos):
    file = tmp_path / "a.bin"
    file.write_bytes(b"1")
    texts = [f"{write_model(ARGUMENTS)}?weights={file}&shift={shift}" for shift in (0, 1)]
    options = RunOptions(cache=str(tmp_path / "kept"))
    plan = make_plan(datasets=[photos], models=texts, options=options)
    results = list(run_all(plan, output=tmp_path / "out"))
    assert len({result.path for result in results}) == len({model_sha256(r.row) for r in results})
    assert results[1].row.model["spec"] == texts[1]
    assert len(spaces(tmp_path / "kept")) == 6  # images, texts and facts of each
    for existing in existing_results(plan, tmp_path / "out").values():
        assert existing.error is None
    file.write_bytes(b"2")
    for existing in existing_results(plan, tmp_path / "out").values():
        assert "was measured with other code than" in str(existing.error)


def test_values_of_arguments():
    values = "a=1&b=-2.5e3&c=true&d=none&e=x%26y%3Dz+1&f=%222%22&g=[1]&h="
    spec = parse_model_spec(f"python:{__file__}?{values}")
    assert spec.name == __file__
    assert spec.arguments == {
        "a": 1,
        "b": -2500.0,
        "c": True,
        "d": None,
        "e": "x&y=z+1",
        "f": "2",
        "g": "[1]",
        "h": "",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("?width", r"'width' is not an argument of a function; use python:FILE\.py\?NAME=VALUE"),
        ("?2=3", "'2=3' is not an argument"),
        ("?a=1&a=2", "'a=2' is not an argument"),
        ("?width=2", r"load\('cpu', 'fp32', width=2\) failed: TypeError: .* argument 'width'"),
    ],
)
def test_wrong_arguments_are_refused(write_model, text, message):
    assert re.search(message, refusal(write_model() + text))


def test_a_model_takes_no_arguments(write_model):
    assert "no function `load` to take arguments" in refusal(write_model("model = 3") + "?width=2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def lod(device, precision): ...", r"has no function `load\(device, precision\)`"),
        ("load = 3", r"mine\.py has no function `load"),
        ("import no_such_module", r"mine\.py failed: ModuleNotFoundError: No mod"),
        ("def load(:", r"mine\.py failed: SyntaxError: "),
        ("def load(device): ...", r"load\('cpu', 'fp32'\) failed: TypeError: load\(\) takes 1"),
        ("def load(d, p): raise OSError('no weights')", r"fp32'\) failed: OSError: no weights"),
        ("def load(d, p): raise KeyError", r"fp32'\) failed: KeyError \(--debug"),
        ("def load(d, p): return 3", r"Encoder: it has no info, preprocessing, tokenizer,"),
        (
            MODEL.replace("def overlong", "def toolong"),
            r"it has no overlong; make a cosmos",
        ),
        (MODEL.replace('"0" * 64', "None"), r"`info.weights_sha256` is missing, and"),
        (MODEL.replace('"0" * 64, False', "None, True"), r"gives no `weights_sha256`: hash"),
        (MODEL.replace('"0" * 64', '"me"'), r"must be the 64 hexadecimal digits"),
        (MODEL.replace('"means", None', '"means", "teacher"'), r"`weights` is for COSMOS ch"),
        (MODEL.replace("precision, device)\n", "'bf16', device)\n"), r"model of precision bf16"),
        (MODEL.replace("EncoderInfo(", "tuple, ("), r"`info` is tuple, not"),
        (MODEL.replace("(images[:, :, 0, 0] + SHIFT + 0.5, dim=1)", "(images)"), r"\(2, D\)"),
        (MODEL.replace("(tokens.float(), dim=1)", "(tokens.float()) * 2"), r"length \d.*normalise"),
        (MODEL.replace("tokens.float()", "tokens.double()"), r"`encode_text` returns torch.f"),
        (
            MODEL.replace("tokens.float(), dim=1)", "tokens.float()[:, :2], dim=1)"),
            r"other dimensions: \[2, 3\]",
        ),
        (MODEL.replace("(images[", "(torch.ones(1, requires_grad=True) * images["), "a gradient"),
        (MODEL.replace("len(texts), dtype", "1, dtype"), r"`overlong` returns \(1,\), not 2 rows"),
        (MODEL.replace("tokenizer = {}", "tokenizer = {'of': torch}"), "TypeError: Object of type"),
    ],
)
def test_a_file_without_a_valid_model_is_refused(write_model, text, message):
    line = refusal(write_model(text))
    assert re.search(message, line)
    assert "mine.py" in line


def test_an_object_is_measured_as_it_is(colour_encoder, tmp_path, photos):
    result = cosmos_eval.evaluate(colour_encoder, photos)
    assert result.metrics["acc1"] == 1.0
    assert result.model["spec"] == "colours"
    assert "code_sha256" not in result.model
    with pytest.raises(UsageError, match="arch, weights, auxiliary, device, precision go"):
        cosmos_eval.evaluate(colour_encoder, photos, precision="bf16")
    with pytest.raises(UsageError, match=r"dict is not a cosmos_eval\.Encoder"):
        cosmos_eval.evaluate({}, photos)


def test_an_object_without_patches_does_not_segment(colour_encoder, tmp_path, save_colour):
    save_colour(tmp_path / "images" / "1.jpg", "red")
    save_colour(tmp_path / "masks" / "1.png", "blue", "L")
    text = "kind: seg\nimages: images\nmasks: masks\nclasses: [a, b]\nignore_index: 29\n"
    (tmp_path / "seg.yaml").write_text(text)
    assert not isinstance(colour_encoder, DenseEncoder)
    with pytest.raises(UsageError, match="colours has no patches to compare a text with"):
        cosmos_eval.evaluate(colour_encoder, str(tmp_path / "seg.yaml"))


def test_a_name_is_in_the_record_the_file_and_the_table(command, write_model, tmp_path, photos):
    (tmp_path / "other.py").write_text(MODEL.replace("SHIFT", "1"))
    for path in ("mine.py", "other.py"):
        write_model()
        run = ("run", "--model", f"python:{tmp_path / path}", "--name", "our model")
        options = ("--dataset", photos, "--output", "out", "--json", "--no-cache")
        completed = command(*run, *options)
        (record,) = json.loads(completed.out)
        assert record["model"]["name"] == "our model"
        assert "wrote out/our-model__photos__user.json" in completed.err
    kept = "of another model of this name, is kept as out/our-model__photos__user__"
    assert kept in completed.err
    leaderboard = command("leaderboard", "out", "--format", "json")
    rows = json.loads(leaderboard.out)
    assert {row["model"].partition(" (")[0] for row in rows} == {"our model"}
    assert "2 models are called our model: their code differ" in leaderboard.err


@pytest.mark.parametrize("second_name", ["colours", "other colours"])
def test_a_run_compares_models_of_one_name_by_their_samples(command, tmp_path, photos, second_name):
    """The first model calls both pictures red; the second one is right.

    One picture in which they differ proves nothing: their samples tie, also under two names.
    """
    (tmp_path / "first.py").write_text(COLOURS.format(name="colours", blue=[1, 0, -2]))
    (tmp_path / "second.py").write_text(COLOURS.format(name=second_name, blue=[0, 0, 1]))
    models = ("--model", "python:first.py", "--model", "python:second.py")
    measured = command("run", *models, "--dataset", photos, "--output", "out")
    stored = command("leaderboard", "out")
    for printed in (measured.out, stored.out):
        scores = re.findall(r"^(?:other )?colours .*(50|100)\.0([*†‡]?)", printed, re.MULTILINE)
        assert sorted(scores) == [("100", "*"), ("50", "†")], printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--name", "a"], r"--name is given 1 times for \d models: give one per --model"),
        (["--model", "scenes-clip", "--name", "a", "--name", "b"], "given 2 times for 1 models"),
        (["--model", "scenes-clip", "--name", " "], "name ' ': use 1 to 100 printable characters"),
        (["--model", "scenes-clip", "--name", "a" * 101], "aaa': use 1 to 100 printable"),
        (
            ["--model", "scenes-clip", "--name", "a", "--model", "scenes-cosmos", "--name", "a"],
            "a is given twice",
        ),
    ],
)
def test_wrong_names_are_refused(command, words, message):
    completed = command("run", *words)
    assert (completed.status, completed.out) == (2, "")
    assert re.search(message, completed.err)


def test_a_name_may_have_brackets(command, photos):
    """Settings follow in other brackets."""
    models = ["--model", "scenes-clip", "--name", "ours (B/16)"]
    for options in ([], ["--precision", "bf16"]):
        completed = command("run", *models, "--dataset", photos, "--output", "out", *options)
        assert completed.status == 0
        assert "ours (B/16)" in completed.out
    completed = command("leaderboard", "out", "--models", "ours (B/16)*", "--format", "json")
    assert {entry["model"] for entry in json.loads(completed.out)} == {
        "ours (B/16)",
        "ours (B/16) (bf16)",
    }
    completed = command(
        "compare", "out", "--model", "ours (B/16)", "--model", "ours (B/16) (bf16)", "--json"
    )
    assert completed.status == 0
    assert json.loads(completed.out)["b"] == "ours (B/16) (bf16)"


def test_two_towers_are_called_as_their_file_says(command, tmp_path, photos):
    """The name is in tables, file names and `--models`. The path is provenance."""
    (tmp_path / "mine.py").write_text(TOWERS)
    arguments = ["run", "--model", "python:mine.py", "--dataset", photos, "--output", "out"]
    completed = command(*arguments)
    assert "wrote out/towers__photos__user.json" in completed.err
    assert "towers" in completed.out
    assert "mine.py" not in completed.out
    record = read_record(tmp_path / "out" / "towers__photos__user.json")
    assert (record["model"]["name"], record["model"]["spec"]) == ("towers", "python:mine.py")
    completed = command("leaderboard", "out", "--models", "tow*", "--format", "json")
    assert [entry["model"] for entry in json.loads(completed.out)] == ["towers"]

    completed = command(*arguments, "--name", "another name")
    assert "wrote out/another-name__photos__user.json" in completed.err


def test_a_result_under_the_name_of_a_file_is_not_measured_again(tmp_path, photos):
    """Models with other arguments are other models, also under the same name."""
    lines = TOWERS.replace("model = TwoTower(", "def load(d, p, width=1): return TwoTower(")
    (tmp_path / "mine.py").write_text(lines)
    texts = [f"python:{tmp_path}/mine.py{query}" for query in ("", "?width=2", "?width=3")]
    plan = make_plan(datasets=[photos], models=texts)
    assert existing_results(plan, tmp_path / "out") == {}
    for _ in run_all(make_plan(datasets=[photos], models=texts[:2]), output=tmp_path / "out"):
        pass
    results = existing_results(plan, tmp_path / "out")
    specs = {pair.model: result.row.model["spec"] for pair, result in results.items()}
    assert specs == {text: text for text in texts[:2]}
    assert {result.row.model["name"] for result in results.values()} == {"towers"}
    assert all(result.error is None for result in results.values())

    other_options = replace(plan, options=replace(plan.options, precision="bf16"))
    assert existing_results(other_options, tmp_path / "out") == {}
    (tmp_path / "mine.py").write_text(f"{lines}# edited\n")
    for result in existing_results(plan, tmp_path / "out").values():
        assert "was measured with other code than" in str(result.error)


@pytest.mark.parametrize("name", [" a", "a\\nb"])
def test_a_name_in_a_file_that_tables_cannot_show_is_refused(write_model, name):
    message = refusal(write_model(TOWERS.replace('"towers"', f'"{name}"')))
    assert "mine.py: `model`: name" in message
    assert "use 1 to 100 printable characters" in message


def test_a_worker_loads_a_model_again_for_another_precision(photos, tmp_path):
    file = tmp_path / "towers.py"
    file.write_text(TOWERS)
    worker, plan = Worker(), make_plan(datasets=[photos], models=[f"python:{file}"])
    (job,) = jobs_of(plan, open_datasets(plan))
    for precision in ("fp32", "bf16", "fp32"):
        options = replace(job.options, precision=precision)
        (result,) = worker.run(job._replace(options=options))
        assert result.row.provenance["precision"] == precision
