"""Data of one's own, of every kind: the doctor counts them, and reports all that a run refuses."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cosmos_eval.cli.app import main
from cosmos_eval.runner.doctor import Diagnosis, examine
from cosmos_eval.runner.plan import make_plan, open_datasets
from cosmos_eval.tasks import TASKS, find_protocol
from cosmos_eval.types import RunOptions, UsageError, no_progress

RNG = np.random.default_rng(0)
QUESTIONS = ("race", "gender", "age", "toxic")


def picture(form: str = "JPEG") -> bytes:
    content = io.BytesIO()
    pixels = RNG.integers(0, 255, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content, format=form)
    return content.getvalue()


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def write_tar(path: Path, files: Mapping[str, str | bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def array(*numbers: int) -> bytes:
    content = io.BytesIO()
    np.save(content, np.array(numbers))
    return content.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four images, a cut one in `cut` and in `tars/cut`, and what each kind needs beside them."""
    images = [picture() for _ in range(4)]
    for i, image in enumerate(images):
        write(tmp_path / f"images/{i}.jpg", image)
        write(tmp_path / f"cut/{i}.jpg", image[:-60] if i == 2 else image)
        write(tmp_path / f"photos/{'cat' if i < 2 else 'dog'}/{i}.jpg", image)
        write(tmp_path / f"one/cat/{i}.jpg", image)
        label = Image.fromarray(RNG.integers(0, 3, (12, 16), dtype=np.uint8))
        label.putpixel((0, 0), 2)
        (tmp_path / "masks").mkdir(exist_ok=True)
        label.save(tmp_path / f"masks/{i}.png")
        (tmp_path / "depth").mkdir(exist_ok=True)
        Image.fromarray(np.full((12, 16), 1000, np.uint16)).save(tmp_path / f"depth/{i}.png")
        write(tmp_path / f"pictures/{i}.jpg", image)
        write(tmp_path / f"colours/{i}.png", picture("PNG"))
        for split in ("train", "test"):
            for of in ("cat", "dog"):
                write(tmp_path / f"{split}/{of}/{i}.jpg", picture())
    for name in ("images", "pictures", "cut"):
        pairs = "".join(f"{name}/{i}.jpg depth/{i}.png\n" for i in range(4))
        write(tmp_path / f"{name}.txt", pairs)
    rows = "".join(f"{i}.jpg,picture {i}\n" for i in range(4))
    write(tmp_path / "captions.csv", f"image,caption\n{rows}")
    write(tmp_path / "columns.csv", f"file,text\n{rows}")
    write(tmp_path / "semicolons.csv", f"image,caption\n{rows}".replace(",", ";"))
    write(tmp_path / "bare.csv", f"image,caption\n{rows}".replace(".jpg", ""))
    karpathy = {"filename": "0.jpg", "split": "val", "sentences": [{"raw": "a"}]}
    write(tmp_path / "karpathy.json", json.dumps({"images": [karpathy]}))
    write(tmp_path / "labels.csv", "image,labels\n0.jpg,cat|dog\n1.jpg,cat\n2.jpg,\n3.jpg,dog\n")
    write(tmp_path / "commas.csv", 'image,labels\n0.jpg,"cat, dog"\n1.jpg,cat\n2.jpg,dog\n')
    write(tmp_path / "items.csv", "image,caption,negative\n0.jpg,a,b\n2.jpg,c,d\n")
    boxes = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 16, "height": 12} for i in range(4)],
        "annotations": [
            {"image_id": i, "category_id": i % 2, "bbox": [1, 2, 8, 6]} for i in range(4)
        ],
        "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
    }
    write(tmp_path / "boxes.json", json.dumps(boxes))
    cue = {"cue": "west", "candidates": ["0", "1", "2"], "associations": ["0"]}
    write(tmp_path / "cues.jsonl", json.dumps(cue))
    write(tmp_path / "ratings.csv", "image,caption,rating\n0.jpg,a,1\n2.jpg,b,2\n")
    query = {"image": "0.jpg", "positives": ["1.jpg"], "negatives": ["2.jpg", "3.jpg"]}
    write(tmp_path / "queries.jsonl", json.dumps(query))
    names = [f"{of}:{n}" for of in QUESTIONS for n in range(20)]
    templates = "".join(f"{of}:a photo of {{c}}\n" for of in QUESTIONS)
    for name, image in (("whole", images[0]), ("cut", images[0][:200])):
        where = tmp_path / "tars" / name
        files = {"0.jpg": image, "0.cls": "1", "0.npy": array(0, 1, 1, 0), "0.txt": "a cat"}
        write_tar(where / "test" / "0.tar", files)
        write(where / "test" / "nshards.txt", "1")
        write(where / "classnames.txt", "\n".join(names))
        write(where / "zeroshot_classification_templates.txt", templates)
    return tmp_path


KINDS = {
    "cls": "kind: cls\nfolder: photos",
    "wds": "kind: cls\nlayout: webdataset\nfolder: tars/whole",
    "multilabel": "kind: multilabel\nfolder: images\nannotations: labels.csv",
    "faces": "kind: faces\nfolder: tars/whole",
    "retrieval": "kind: retrieval\nimages: images\nannotations: captions.csv",
    "tars": "kind: retrieval\narchives: tars/whole/test/*.tar",
    "select": "kind: select\nlayout: items\nimages: images\nannotations: items.csv",
    "assoc": "kind: assoc\nimages: images\nannotations: cues.jsonl",
    "ratings": "kind: ratings\nimages: images\nannotations: ratings.csv",
    "ranking": "kind: ranking\nimages: images\nannotations: queries.jsonl",
    "seg": "kind: seg\nimages: images\nmasks: masks\nclasses: [sky, cat, dog]",
    "loc": "kind: loc\nimages: images\nmasks: masks\nclasses: [background, cat, dog]",
    "ood": "kind: ood\ninside: photos\noutside: train",
    "boxes": "kind: boxes\nimages: images\nannotations: boxes.json",
    "probe": "kind: probe\ntrain: train\ntest: test\nshots: [1, 2]",
    "seg-probe": "kind: seg-probe\nimages: images\nmasks: masks\ntrain_images: pictures\n"
    "train_masks: masks\nclasses: [sky, cat, dog]",
    "depth-probe": "kind: depth-probe\ntrain: pictures.txt\ntest: images.txt",
}
IMAGES = {
    "select": 2,
    "assoc": 3,
    "ratings": 2,
    "probe": 16,
    "ood": 12,
    "wds": 1,
    "faces": 1,
    "tars": 1,
}
CLASSES = {
    "cls": 2,
    "wds": 80,
    "multilabel": 2,
    "faces": 80,
    "seg": 3,
    "loc": 3,
    "probe": 2,
    "ood": 2,
    "boxes": 2,
}
IMAGES |= {"seg-probe": 8, "depth-probe": 8}
CLASSES |= {"seg-probe": 3}


def described(folder: Path, text: str) -> str:
    write(folder / "own.yaml", text)
    return str(folder / "own.yaml")


def examined(folder: Path, text: str) -> Diagnosis:
    return examine(find_protocol(described(folder, text)), RunOptions(), no_progress)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_counted(kind, folder):
    found = examined(folder, KINDS[kind])
    assert (found.whole, found.faults) == (True, ())
    assert found.images == found.expected == found.decoded == IMAGES.get(kind, 4)
    assert found.n_classes == CLASSES.get(kind)
    of_user = {text.split("\n")[0].removeprefix("kind: ") for text in KINDS.values()}
    assert of_user == set(TASKS)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("cls", "probe", "ood")])
def test_images_that_cannot_be_decoded(kind, folder):
    text = KINDS[kind].replace("/whole", "/cut").replace(": images", ": cut")
    found = examined(folder, text)
    (fault,) = found.faults
    assert fault.startswith("cannot decode image ")
    assert found.decoded == found.images - 1
    protocol = find_protocol(described(folder, text))
    options = RunOptions()
    assert examine(protocol, options, no_progress, decode=False).decoded is None


def test_several_images_are_named_by_the_first(folder, capsys):
    for i in (0, 1):
        write(folder / f"photos/cat/{i}.jpg", "<html>not found</html>")
    with pytest.raises(SystemExit) as ended:
        main(["data", "doctor", described(folder, KINDS["cls"])])
    assert ended.value.code == 1
    fault = f"own: cannot decode image {folder}/photos/cat/0.jpg: cannot identify image file"
    out = capsys.readouterr().out
    assert fault in out
    assert "WEBP); replace or remove it (and 1 more)\n" in out
    assert "2 of 4" in out


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{cls}\ntemplates: ['a {c}']", "prompt template 'a {c}' must hold '{}' exactly once, for"),
        ("{multilabel}\ntemplates: ['{} {}']", "prompt template '{} {}' must hold '{}' exactly on"),
        ("{seg}\ntemplates: [a photo]", "prompt template 'a photo' must hold '{}' exactly once"),
        (
            "{loc}\ntemplates: openai",
            "unknown template set 'openai'; known: openai-imagenet, and c",
        ),
        (
            "{cls}\ntemplates: a photo of {}",
            "`templates` must be a list, such as ['a photo of {}']",
        ),
        ("{cls}\ntemplates: clip-benchmark/x", "CLIP Benchmark has no templates of 'x'; nearest:"),
        ("kind: cls\nfolder: one", "one has one class, cat: a choice needs two or more"),
        ("{multilabel:labels=commas}", "commas.csv: 'cat, dog' names classes: write 'cat | dog'"),
        ("{retrieval:captions=columns}", "only file, text; name the one that is meant by `image_k"),
        ("{retrieval:captions=semicolons}", "line 1: columns are separated by semicolons: use com"),
        (
            "{retrieval:captions=bare}",
            "/images/0; there is 0.jpg: mend the names, or set `image_su",
        ),
        ("{retrieval:captions.csv=karpathy.json}", "of split 'test', only of val (1): set `split`"),
        ("{assoc}\nimage_suffix: .png", "first: {folder}/images/0.png; there is 0.jpg"),
        (
            "{seg}\nimage_suffix: .png",
            "no image *.png in {folder}/images, only of .jpg: set `image",
        ),
        (
            "{seg:masks: masks=masks: colours}",
            "class indices (PIL mode RGB): save indices, not colours",
        ),
        ("{seg:, dog=}", "(2 classes, ignored: 255): see `classes` and `ignore_index`"),
    ],
)
def test_what_a_run_refuses_is_reported(text, fault, folder):
    kind, _, change = text.partition("}")[0].removeprefix("{").partition(":")
    if kind in KINDS:
        text = (
            KINDS[kind].replace(*change.split("="))
            if change
            else KINDS[kind] + text[len(kind) + 2 :]
        )
    expected = fault.replace("{folder}", str(folder))
    found = examined(folder, text)
    assert expected in found.faults[0]
    with pytest.raises(UsageError) as refused:
        open_datasets(make_plan(datasets=[str(folder / "own.yaml")], models=["scenes-clip"]))
    assert expected in str(refused.value)
    assert "\n" not in str(refused.value)


def test_kinds_are_named(folder):
    for text, message in (
        ("folder: a", "`kind` is missing: give one of retrieval, cls"),
        ("kind: classes", "`kind` cannot be 'classes': give one of"),
    ):
        with pytest.raises(UsageError, match=message):
            find_protocol(described(folder, text))
