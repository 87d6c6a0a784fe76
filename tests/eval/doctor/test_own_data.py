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
from cosmos_eval.tasks import TASKS, find_protocol, task_for
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
    """Write the files of every kind of data set.

    The third image in `cut`, and the image of the tar in `tars/cut`, are cut off.
    """
    images = [picture() for _ in range(4)]
    write_images(tmp_path, images)
    write_captions(tmp_path)
    write_labels_and_queries(tmp_path)
    write_boxes(tmp_path)
    write_webdataset(tmp_path / "tars/whole", images[0])
    write_webdataset(tmp_path / "tars/cut", images[0][:200])
    return tmp_path


def write_images(root: Path, images: list[bytes]) -> None:
    """Write folders of images and of classes, label maps and depth maps, and lists of pairs."""
    (root / "masks").mkdir()
    (root / "depth").mkdir()
    for i, image in enumerate(images):
        write(root / f"images/{i}.jpg", image)
        write(root / f"cut/{i}.jpg", image[:-60] if i == 2 else image)
        write(root / f"photos/{'cat' if i < 2 else 'dog'}/{i}.jpg", image)
        write(root / f"one/cat/{i}.jpg", image)
        write(root / f"pictures/{i}.jpg", image)
        write(root / f"colours/{i}.png", picture("PNG"))
        label = Image.fromarray(RNG.integers(0, 3, (12, 16), dtype=np.uint8))
        label.putpixel((0, 0), 2)
        label.save(root / f"masks/{i}.png")
        Image.fromarray(np.full((12, 16), 1000, np.uint16)).save(root / f"depth/{i}.png")
        for split in ("train", "test"):
            for class_name in ("cat", "dog"):
                write(root / f"{split}/{class_name}/{i}.jpg", picture())
    for name in ("images", "pictures", "cut"):
        pairs = "".join(f"{name}/{i}.jpg depth/{i}.png\n" for i in range(4))
        write(root / f"{name}.txt", pairs)


def write_captions(root: Path) -> None:
    """Write lists of captions: a right one, others with odd columns, separators and names of
    files, and one of another split."""
    rows = "".join(f"{i}.jpg,picture {i}\n" for i in range(4))
    write(root / "captions.csv", f"image,caption\n{rows}")
    write(root / "columns.csv", f"file,text\n{rows}")
    write(root / "semicolons.csv", f"image,caption\n{rows}".replace(",", ";"))
    write(root / "bare.csv", f"image,caption\n{rows}".replace(".jpg", ""))
    karpathy = {"filename": "0.jpg", "split": "val", "sentences": [{"raw": "a"}]}
    write(root / "karpathy.json", json.dumps({"images": [karpathy]}))


def write_labels_and_queries(root: Path) -> None:
    write(root / "labels.csv", "image,labels\n0.jpg,cat|dog\n1.jpg,cat\n2.jpg,\n3.jpg,dog\n")
    write(root / "commas.csv", 'image,labels\n0.jpg,"cat, dog"\n1.jpg,cat\n2.jpg,dog\n')
    write(root / "items.csv", "image,caption,negative\n0.jpg,a,b\n2.jpg,c,d\n")
    cue = {"cue": "west", "candidates": ["0", "1", "2"], "associations": ["0"]}
    write(root / "cues.jsonl", json.dumps(cue))
    write(root / "ratings.csv", "image,caption,rating\n0.jpg,a,1\n2.jpg,b,2\n")
    query = {"image": "0.jpg", "positives": ["1.jpg"], "negatives": ["2.jpg", "3.jpg"]}
    write(root / "queries.jsonl", json.dumps(query))


def write_boxes(root: Path) -> None:
    boxes = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 16, "height": 12} for i in range(4)],
        "annotations": [
            {"image_id": i, "category_id": i % 2, "bbox": [1, 2, 8, 6]} for i in range(4)
        ],
        "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
    }
    write(root / "boxes.json", json.dumps(boxes))


def write_webdataset(root: Path, image: bytes) -> None:
    """Write a tar of one image, with the answers to all questions about faces."""
    files = {"0.jpg": image, "0.cls": "1", "0.npy": array(0, 1, 1, 0), "0.txt": "a cat"}
    write_tar(root / "test" / "0.tar", files)
    write(root / "test" / "nshards.txt", "1")
    names = [f"{question}:{n}" for question in QUESTIONS for n in range(20)]
    write(root / "classnames.txt", "\n".join(names))
    templates = "".join(f"{question}:a photo of {{c}}\n" for question in QUESTIONS)
    write(root / "zeroshot_classification_templates.txt", templates)


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
    diagnosis = examined(folder, KINDS[kind])
    assert (diagnosis.whole, diagnosis.faults) == (True, ())
    assert diagnosis.images == diagnosis.expected == diagnosis.decoded == IMAGES.get(kind, 4)
    assert diagnosis.n_classes == CLASSES.get(kind)
    of_user = {text.split("\n")[0].removeprefix("kind: ") for text in KINDS.values()}
    assert of_user == set(TASKS)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("cls", "probe", "ood")])
def test_images_that_cannot_be_decoded_are_named(kind, folder):
    text = KINDS[kind].replace("/whole", "/cut").replace(": images", ": cut")
    diagnosis = examined(folder, text)
    (fault,) = diagnosis.faults
    assert fault.startswith("cannot decode image ")
    assert diagnosis.decoded == diagnosis.images - 1
    protocol = find_protocol(described(folder, text))
    options = RunOptions()
    assert examine(protocol, options, no_progress, decode=False).decoded is None


@pytest.mark.parametrize("kind", ["cls", "ood"])
def test_files_that_are_left_out_for_their_suffix_are_counted(kind, folder):
    assert not examined(folder, KINDS[kind]).note
    for name in ("cat/a.avif", "dog/b.AVIF", "dog/README", "dog/.DS_Store"):
        write(folder / "photos" / name, "")
    diagnosis = examined(folder, KINDS[kind])
    assert diagnosis.whole
    assert diagnosis.note == (
        "3 files in class folders are left out for the suffix, which no readable image format "
        "has: .avif (2), no suffix (1)"
    )


def test_a_measurement_notes_files_that_are_left_out(folder, colour_encoder):
    for name in ("a.avif", "notes.txt"):
        write(folder / "photos" / "cat" / name, "")
    protocol = find_protocol(described(folder, KINDS["cls"]))
    notes = task_for(protocol).measure_one(colour_encoder, protocol, RunOptions()).notes
    (note,) = [note for note in notes if "left out for the suffix" in note]
    assert note.endswith("which no readable image format has: .avif (1)")


def test_captions_that_are_measured_are_counted(folder):
    rows = "".join(f"{i}.jpg,picture {i}\n{i}.jpg,another {i}\n" for i in range(4))
    write(folder / "captions.csv", f"image,caption\n{rows}")
    diagnosis = examined(folder, KINDS["retrieval"])
    assert (diagnosis.captions, diagnosis.expected_captions) == (8, 8)
    diagnosis = examined(folder, KINDS["retrieval"] + "\ncaptions_per_image: 1")
    assert (diagnosis.captions, diagnosis.expected_captions) == (4, 4)


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
    # "{kind}..." stands for the text of a kind and more lines, "{kind:old=new}" for a replacement.
    kind, _, change = text.partition("}")[0].removeprefix("{").partition(":")
    if kind in KINDS and change:
        text = KINDS[kind].replace(*change.split("="))
    elif kind in KINDS:
        text = KINDS[kind] + text[len(kind) + 2 :]
    expected = fault.replace("{folder}", str(folder))
    diagnosis = examined(folder, text)
    assert expected in diagnosis.faults[0]
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
