"""The public names: completion and types, features of a user's inputs, bars."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
    odd = save_colour(tmp_path / "blue.png", "blue").rename(tmp_path / "blue")
    picture = Image.new("RGBA", (8, 6), (0, 255, 0, 255))
    images = cosmos_eval.embed(
        colour_encoder, (one for one in (path, str(path), picture, str(odd)))
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
def test_what_cannot_be_embedded(colour_encoder, inputs, message):
    with pytest.raises(UsageError, match=message):
        cosmos_eval.embed(colour_encoder, inputs)


def test_embed_checks_models_and_warns_of_cut_texts(colour_encoder, monkeypatch):
    with pytest.raises(UsageError, match="arch, weights, device and precision go with a named"):
        cosmos_eval.embed(colour_encoder, "red", precision="bf16")
    with pytest.raises(UsageError, match=r"dict is not a cosmos_eval.Encoder"):
        cosmos_eval.embed({}, "red")
    overlong = type(colour_encoder).overlong
    monkeypatch.setattr(
        colour_encoder, "overlong", lambda texts: overlong(colour_encoder, texts) + 1
    )
    monkeypatch.setattr(colour_encoder, "trims_text", False)
    with pytest.warns(UserWarning, match="2 of 2 texts did not fit the model's context"):
        cosmos_eval.embed(colour_encoder, ["red", "green"])


def test_features_of_a_named_model_are_cached(save_colour, tmp_path, monkeypatch):
    monkeypatch.setenv("COSMOS_EVAL_CACHE", str(tmp_path / "cache"))
    paths = [save_colour(tmp_path / f"{colour}.png", colour) for colour in ("red", "blue")]

    def cached() -> int:
        return sum(space.embeddings for space in spaces(embeddings_folder()))

    found = [cosmos_eval.embed(OWN_MODEL, paths, cache=False)]
    assert cached() == 0
    for _ in range(2):
        found.append(cosmos_eval.embed(OWN_MODEL, paths[::-1])[::-1])
        assert cached() == 2
    assert found[0].tolist() == found[1].tolist() == found[2].tolist()


@pytest.fixture
def apples(save_colour, tmp_path, monkeypatch) -> dict[str, str]:
    """A mapping that describes four apples, one of which is in the folder of another colour."""
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
