"""The files in examples/ do what they say, by the commands that people type."""

from __future__ import annotations

import itertools
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from support.packages import forget_tasks, install

from cosmos_eval.cli.app import main
from cosmos_eval.models import load_encoder
from cosmos_eval.models.encoder import DenseEncoder
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.tasks import TASKS

EXAMPLES = Path(__file__).parents[1] / "examples"
OWN_MODEL = "python:own_model.py"
TASK = "image-retrieval"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the examples with their pictures, and beside it what an installer would write."""
    folder = tmp_path_factory.mktemp("copy") / "examples"
    shutil.copytree(EXAMPLES, folder, ignore=shutil.ignore_patterns("pictures"))
    runpy.run_path(str(folder / "make_pictures.py"))["main"](folder / "pictures", 40)
    stated = r'\[project\.entry-points\."cosmos_eval\.tasks"\]\n(.*) = "(.*)"\n'
    match = re.search(stated, (folder / "own_task" / "pyproject.toml").read_text("utf-8"))
    assert match
    install(folder.parent / "site", "image-retrieval-task", {match[1]: match[2]})
    return folder


def run(*words: str, status: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*words])
    assert (ended.value.code or 0) == status


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The copy as the current folder; own_task is not installed."""
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def own_task(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The same with own_task installed."""
    for path in (here.parent / "site", here / "own_task"):
        monkeypatch.syspath_prepend(path)
    forget_tasks("image_retrieval")
    yield
    monkeypatch.undo()
    forget_tasks("image_retrieval")


def test_the_documentation_shows_the_example():
    code = (EXAMPLES / "two_tower.py").read_text("utf-8").split("\n", 1)[1]
    assert f"```python\n{code}```" in (EXAMPLES.parent / "docs/models.md").read_text("utf-8")
    assert len(code.splitlines()) <= 15


def test_pair_scorer(here, tmp_path, capsys):
    """FLAIR's pooling, its heads one by one: a text attends to patches and to an empty token."""
    module = runpy.run_path("pair_scorer.py")
    model, pooling = module["model"], module["pooling"]
    torch.manual_seed(0)
    for parameter in pooling.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    patches, texts = torch.randn(2, 5, 128), torch.randn(3, 128)
    q, k, v = (
        torch.nn.functional.linear(norm(x), weight, bias)
        for norm, x, weight, bias in zip(
            (pooling.ln_q, pooling.ln_k, pooling.ln_v),
            (texts, patches, patches),
            pooling.attn.in_proj_weight.chunk(3),
            pooling.attn.in_proj_bias.chunk(3),
            strict=True,
        )
    )
    for image, text in itertools.product(range(2), range(3)):
        heads = []
        for head in range(8):
            own = slice(16 * head, 16 * head + 16)
            logits = k[image, :, own] @ q[text, own] / 4
            weights = torch.cat([logits, torch.zeros(1)]).softmax(dim=0)[:-1]
            heads.append(weights @ v[image, :, own])
        pooled = pooling.attn.out_proj(torch.cat(heads))
        expected = torch.cosine_similarity(pooled, texts[text], dim=0)
        pair_score = model.pair_scores((patches,), (texts,))[image, text]
        torch.testing.assert_close(pair_score, expected)
    options = ["--model", "python:pair_scorer.py", "--dataset", "scenes-retrieval", "--limit", "12"]
    run("run", *options, "--protocol", "scenes-pairs100", "--output", str(tmp_path))
    result = record(tmp_path, "*.json")
    assert result["protocol"] == "scenes-pairs100"
    assert result["provenance"]["pair_score"] == "text_conditioned"
    run("verify", str(tmp_path))
    spoilt = (
        Path("pair_scorer.py").read_text("utf-8").replace("texts, dim=-1)", "texts, dim=-1).T[:1]")
    )
    Path("spoilt.py").write_text(spoilt)
    capsys.readouterr()
    run("run", "--model", "python:spoilt.py", *options[2:], "--protocol", "scenes-pairs", status=2)
    assert "`pair_scores` returns (1, 2) for 2 images and 2 texts" in capsys.readouterr().err


def record(results: Path, pattern: str) -> dict[str, Any]:
    (path,) = results.glob(pattern)
    return json.loads(path.read_text("utf-8"))


def test_own_model_and_own_dataset(here, tmp_path):
    run("run", "--dataset", "own_dataset.yaml", "--model", OWN_MODEL, "--output", str(tmp_path))
    result = record(tmp_path, "*.json")
    assert (result["task"], result["n_samples"], len(result["per_class"])) == ("cls", 40, 10)
    assert result["model"]["spec"] == OWN_MODEL
    assert len(result["model"]["code_sha256"]) == 64
    run("verify", str(tmp_path))


def test_what_own_model_sees(here):
    encoder = load_encoder(parse_model_spec(OWN_MODEL))
    assert isinstance(encoder, DenseEncoder)
    black, red, blue = 0, 3, 7  # in the order of the file

    texts = encoder.encode_text(encoder.tokenize(["Red, red and a blue ball.", "a ball"]))
    assert texts[0, [red, blue]].tolist() == pytest.approx([2 / 5**0.5, 1 / 5**0.5])
    assert texts[1].tolist() == pytest.approx([11**-0.5] * 11)
    # A word that the model does not know takes a token, so that dropping it is not a cut.
    texts = ["red " * 64, "red " * 65, "a ball.", "ball " * 64 + ".", "ball " * 65]
    assert encoder.overlong(texts).tolist() == [False, True, False, False, True]

    picture = Image.new("RGB", (128, 128), (210, 50, 45))
    picture.paste((20, 20, 20), (64, 0, 128, 128))
    pixels = encoder.transform(picture)[None]
    assert encoder.encode_image(pixels)[0, [black, red]].tolist() == pytest.approx([0.5**0.5] * 2)
    patches = encoder.encode_patches(pixels, "csa")
    assert patches.shape == (1, 16, 16, 11)
    assert patches.argmax(dim=3)[0, 7].tolist() == [red] * 8 + [black] * 8


def test_own_auxiliary(here, tmp_path):
    name = "python:own_auxiliary.py"
    arguments = ["run", "--task", "seg", "--limit", "2", "--output", str(tmp_path)]
    run(*arguments, "--model", "scenes-clip", "--attention", "proxy", "--auxiliary", name)
    stated = record(tmp_path, "scenes-clip*.json")["provenance"]["auxiliary"]
    assert (stated["spec"], stated["patch_size"], stated["weights_sha256"]) == (name, 8, None)
    assert len(stated["code_sha256"]) == 64
    run("verify", str(tmp_path))


@pytest.fixture(scope="module")
def results(folder: Path) -> Path:
    """Results of own_task for a bundled model and for own_model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for path in (folder.parent / "site", folder / "own_task"):
            patch.syspath_prepend(path)
        forget_tasks("image_retrieval")
        data = ["--task", TASK, "--dataset", "own_task/pictures.yaml"]
        run("run", *data, *models("scenes-cosmos", OWN_MODEL), "--output", "results-of-task")
    forget_tasks("image_retrieval")
    return folder / "results-of-task"


def models(*names: str) -> list[str]:
    return [word for name in names for word in ("--model", name)]


def test_own_task_is_measured_and_verified(own_task, results, capsys):
    cosmos = record(results, "scenes-cosmos*.json")
    colours = record(results, "shares-of-11-colours*.json")
    assert (cosmos["task"], cosmos["dataset"], cosmos["n_samples"]) == (TASK, "pictures", 40)
    assert cosmos["provenance"]["packages"]["image-retrieval-task"] == "0.1"
    name = "image_to_image_R@1"
    assert 0.1 < cosmos["metrics"][name] > colours["metrics"][name]
    assert cosmos["intervals"][name]["method"] == "wilson"
    run("verify", str(results))
    assert "2 results: 2 verified" in capsys.readouterr().out


def test_own_task_is_listed_ranked_and_compared(own_task, results, capsys):
    run("list", "tasks")
    assert "image-retrieval-task 0.1" in capsys.readouterr().out
    run("leaderboard", str(results), "--format", "md")
    assert "| pictures image to image R@1 |" in capsys.readouterr().out
    both = [str(results)] * 2
    run("compare", *both, *models("scenes-cosmos", OWN_MODEL), "--json")
    (test,) = json.loads(capsys.readouterr().out)["tests"]
    assert (test["metric"], test["test"]) == ("image_to_image_R@1", "exact McNemar")
    run("data", "doctor", "own_task/pictures.yaml")
    assert "checked for image-retrieval: folders of classes" in capsys.readouterr().out


def test_own_task_fails_in_a_line(own_task, here, tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    apples = tmp_path / "apples" / "apple" / "1.jpg"
    apples.parent.mkdir(parents=True)
    apples.touch()
    for text, message in (
        (f"queries: {here}/pictures/test", "mine.yaml: `gallery` is missing"),
        ("queries: a\ngallery: b\nsize: 3", "mine.yaml: unknown key `size`; nearest known:"),
        ("queries: a\ngallery: b", f"mine: expected {tmp_path}/a, which is not there"),
        (f"queries: {here}/pictures/test\ngallery: apples", "no gallery of ['ball', "),
    ):
        file.write_text(f"kind: {TASK}\n{text}\n")
        run("run", "--dataset", str(file), status=2)
        assert message in capsys.readouterr().err


def test_results_of_own_task_without_it(here, results, capsys):
    run("leaderboard", str(results), "--format", "md")
    assert "image_to_image_R@1" in capsys.readouterr().out
    expected_message = (
        f"unknown task '{TASK}'; nearest: retrieval; others are brought by packages, which must"
    )
    run("verify", str(results), status=2)
    assert capsys.readouterr().out.count(expected_message) == 2
    run("run", "--dataset", "own_task/pictures.yaml", status=2)
    assert (
        f"`kind` cannot be '{TASK}': give one of {', '.join(TASKS)}; others are brought by "
        "packages, which must be installed\n"
    ) in capsys.readouterr().err


def test_nothing_that_reads_results_imports_torch(here, results):
    """In a process of its own, with the package on the path as an environment would have it."""
    commands: Sequence[Sequence[str]] = (["list", "tasks"], ["leaderboard", str(results)])
    program = (
        "import json, sys\nfrom cosmos_eval.cli.app import app\n"
        "for words in json.loads(sys.argv[1]):\n    app(words, standalone_mode=False)\n"
        "sys.exit('torch' in sys.modules)"
    )
    paths = [here.parent / "site", here / "own_task", EXAMPLES.parent]
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps([*commands, ["verify", str(results)]])],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 verified" in done.stdout
