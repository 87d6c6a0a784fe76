"""Bad input ends with one line and status 2, and nothing is written."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from support import user_models

MODEL = user_models.MODEL.replace("SHIFT", "0").replace(
    "class Mean:", "import sys\nclass Mean:\n    calls = 0"
)
NAMES = ("red/1.png", "red/2.png", "blue/1.png", "blue/2.png")
COCO = {
    "images": [{"id": number, "file_name": name} for number, name in enumerate(NAMES)],
    "annotations": [{"image_id": n, "caption": name} for n, name in enumerate(NAMES)],
}
for number, note in enumerate(COCO["annotations"]):
    note["id"] = number


@pytest.fixture
def run(command, tmp_path: Path, save_colour):
    """Measure a model of the user's own on what a YAML file describes."""
    for number, name in enumerate(NAMES):
        save_colour(tmp_path / "photos" / name, ("red", "blue")[number // 2])
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "good.yaml").write_text("kind: cls\nfolder: photos\n")

    def measure(dataset: str = "good.yaml", model: str = "python:model.py"):
        return command(
            *("run", "--dataset", dataset, "--model", model, "--device", "cpu", "--no-cache"),
            *("--output", "out"),
        )

    return measure


def assert_refused(ended, *words: str) -> None:
    assert (ended.status, ended.out) == (2, "")
    *notes, error = ended.err.splitlines()
    assert error.startswith("cosmos-eval: ")
    assert not any(line.startswith("wrote") for line in notes)
    for word in words:
        assert word in error
    assert not Path("out").exists()


def test_what_the_others_differ_from_is_measured(run):
    ended = run()
    assert ended.status == 0
    assert len(list(Path("out").iterdir())) == 2


def first_30_characters(value: str) -> str:
    return value[:30]


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("kind: cls\nfolder: 2020-99-99\n", "bad.yaml: line 2: '2020-99-99' cannot be read"),
        ("kind: " + "[" * 1000, "bad.yaml: is not YAML"),
        ("kind: cls\nfolder: " + "x" * 300, "File name too long"),
        ("kind: retrieval\nimages: photos\nannotations: " + "x" * 300, "File name too long"),
        ('kind: cls\nfolder: "a\\0b"\n', "which is not there"),
        ('kind: cls\nfolder: photos\nname: "\\ud800"\n', "cannot be read as str"),
        ("kind: cls\nfolder: good.yaml\n", "good.yaml is not a folder"),
        ("kind: cls\nlayout: webdataset\nfolder: many\n", "nshards.txt must hold the number"),
        ("kind: retrieval\narchives: photos/red/*.pipe\n", "pipe or a device"),
        ("kind: cls\nfolder: odd\n", "its name is not UTF-8"),
    ],
    ids=first_30_characters,
)
def test_data_sets(run, yaml, message):
    Path("many/test").mkdir(parents=True)
    Path("many/classnames.txt").write_text("a\nb\n")
    Path("many/test/nshards.txt").write_text("999999999")
    os.mkfifo("photos/red/a.pipe")
    shutil.copytree("photos/blue", os.fsdecode(b"odd/caf\xe9"))
    Path("bad.yaml").write_text(yaml)
    assert_refused(run("bad.yaml"), message)


def test_a_device_among_the_images(run):
    os.mkfifo("photos/red/a.png")
    assert_refused(run(), "photos/red/a.png: is a pipe or a device")


def test_a_path_that_is_not_utf_8_is_no_fault(run, command):
    folder = os.fsdecode(b"caf\xe9")
    shutil.copytree("photos", f"{folder}/photos")
    shutil.copy("good.yaml", f"{folder}/good.yaml")
    assert run(f"{folder}/good.yaml").status == 0
    shutil.move("out", f"{folder}/out")
    for name, *options in (["leaderboard"], ["verify"], ["export", "--output", "out.csv"]):
        assert command(name, f"{folder}/out", *options).status == 0
    assert "caf\\xe9/out" in Path("out.csv").read_text("utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": [{"id": "a", "file_name": NAMES[0]}, *COCO["images"][1:]]}, "str (1), int (7)"),
        ({"images": [{"id": True, "file_name": NAMES[0]}, *COCO["images"][1:]]}, "bool (1)"),
        ({"images": [{"id": None, "file_name": NAMES[0]}, *COCO["images"][1:]]}, "NoneType (1)"),
        ({"images": [{"id": 0, "file_name": "x" * 300}, *COCO["images"][1:]]}, "name too long"),
    ],
)
def test_ids_and_names_of_captions(run, change, message):
    Path("captions.json").write_text(json.dumps({**COCO, **change}))
    Path("bad.yaml").write_text("kind: retrieval\nimages: photos\nannotations: captions.json\n")
    assert_refused(run("bad.yaml"), message)


def test_boxes_of_any_size(run):
    record = {"image_path": NAMES[0], "true_caption": "a", "false_caption": "b", "attributes": "c"}
    box = {"bbox_x": 0, "bbox_y": 0, "bbox_w": 10**12, "bbox_h": 4}
    Path("a.json").write_text(json.dumps([{**record, **box}]))
    Path("bad.yaml").write_text("kind: select\nimages: photos\nannotations: a.json\nlayout: aro\n")
    assert_refused(run("bad.yaml"), "the box is too large")


def late(method: str, statement: str) -> str:
    """The model with a method that does something else once data are measured.

    A model that is loaded encodes a picture and texts twice, and transforms the picture 9 times.
    """
    loading = {"transform": 9, "tokenize": 1}.get(method, 2)
    body = (
        f"\n        given, self.calls = \\1, self.calls + 1"
        f"\n        if self.calls > {loading}: {statement}"
    )
    return re.sub(rf"    def {method}\(self, (\w+)\):", rf"\g<0>{body}", MODEL)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys; sys.exit()", "model.py failed: SystemExit"),
        ("raise BaseException('x')", "model.py failed: BaseException: x"),
        (MODEL.replace("return Mean(", "sys.exit(0), ("), "failed: SystemExit: 0"),
        (MODEL.replace("    preprocessing = {}", "    preprocessing = property(sys.exit)"), "Exit"),
        (late("encode_image", "sys.exit(0)"), "encode_image failed: SystemExit: 0"),
        (late("encode_text", "sys.exit(0)"), "encode_text failed: SystemExit: 0"),
        (late("transform", "raise GeneratorExit"), "transform failed: GeneratorExit"),
        (late("encode_image", "raise ValueError('x')"), "encode_image failed: ValueError: x"),
        (late("encode_image", "return None"), "`encode_image` returns NoneType"),
        (late("encode_image", "return torch.eye(7)[:1]"), "for 2 inputs"),
        (late("encode_image", "return torch.eye(7)[:len(given)]"), "other dimensions: [3, 7]"),
        (
            late("encode_image", "return torch.ones(len(given), 3) / 0"),
            "features that are not finite",
        ),
        (late("encode_text", "return torch.eye(3).bool()"), "`encode_text` returns"),
        (late("transform", "return 3"), "`transform` returns int"),
        (late("tokenize", "return [1]"), "`tokenize` returns list"),
        (
            MODEL + "class Fixed(Mean):\n    info = property(lambda self: EncoderInfo('a', 'b', "
            "None, '0' * 64, False, 'fp32', 'cpu'), lambda self, value: None)\nMean = Fixed\n",
            "its `info` cannot be set",
        ),
    ],
    ids=range(16),
)
def test_models_of_the_users_own(run, code, message):
    Path("model.py").write_text(code)
    assert_refused(run(), "model.py", message)


def test_names_of_models(run):
    for name in ("cosmos:", "python:", "openclip:ViT-B-32/", "openclip:"):
        assert_refused(run(model=name + "x" * 5000), "File name too long")
    odd = os.fsdecode(b"caf\xe9.py")
    shutil.copy("model.py", odd)
    assert_refused(run(model=f"python:{odd}"), "its name is not UTF-8")


@pytest.mark.parametrize(
    ("arguments", "first_slow_step"),
    [
        (
            "run --dataset good.yaml --model python:model.py --output out",
            "cosmos_eval.runner.plan.open_datasets",
        ),
        (
            "tune --dataset scenes-seg --split scenes --budget 1 --output out "
            "--model python:model.py",
            "cosmos_eval.runner.tune.make_search",
        ),
        (
            "overlap good.yaml --dataset good.yaml --model python:model.py",
            "cosmos_eval.runner.plan.open_dataset",
        ),
        ("report results --output page.html", "cosmos_eval.reporting.write.result_paths"),
    ],
    ids=["run", "tune", "overlap", "report"],
)
def test_a_device_is_refused_before_slow_steps(
    run, command, monkeypatch, arguments, first_slow_step
):
    def fail(*_: object, **options: object) -> None:
        raise AssertionError("the data are read first")

    monkeypatch.setattr(first_slow_step, fail)
    ended = command(*arguments.split(), "--device", "cud")
    assert_refused(ended, "device 'cud' cannot be used (", "; try cpu")


def test_folders_that_are_no_model(run):
    Path("empty").mkdir()
    assert_refused(run(model="hf:empty"), "'hf:empty' cannot be loaded: no config.json")
    Path("empty/config.json").write_text('{"model_type": "own", "auto_map": {}}')
    assert_refused(run(model="hf:empty"), "config.json asks to run code (auto_map)")
