"""Planted copies of evaluation images in training shards are found, others are not."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from support.sharing import together

from cosmos_core.data.scenes.scene import split_scenes
from cosmos_eval.data.sources import ImageFile
from cosmos_eval.models import load_encoder
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.runner.overlap import find_overlap
from cosmos_eval.types import RunOptions

SCENES = 12


def unchanged(image: Image.Image) -> Image.Image:
    return image


def half_size(image: Image.Image) -> Image.Image:
    return image.resize((64, 64))


def darker(image: Image.Image) -> Image.Image:
    return image.point([value * 3 // 4 for value in range(256)] * 3)


def middle(image: Image.Image) -> Image.Image:
    return image.crop((6, 6, 122, 122))


COPIES: Mapping[str, Callable[[Image.Image], Image.Image]] = {
    "same": unchanged,
    "half": half_size,
    "mirrored": ImageOps.mirror,
    "darker": darker,
    "middle": middle,
}


def encoded(image: Image.Image, quality: int = 60) -> bytes:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=quality)
    return content.getvalue()


def write_tar(path: Path, files: Mapping[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


@pytest.fixture(scope="module")
def scenes_of_test_split() -> list[Image.Image]:
    return [Image.fromarray(scene.image) for scene in split_scenes("test", SCENES)]


@pytest.fixture(scope="module")
def training_scenes() -> list[bytes]:
    return [encoded(Image.fromarray(scene.image)) for scene in split_scenes("train", 90)]


@pytest.fixture
def photos(tmp_path: Path, scenes_of_test_split: list[Image.Image]) -> Path:
    """A classification set of twelve scenes of one class, which only classification refuses."""
    folder = tmp_path / "photos" / "scene"
    folder.mkdir(parents=True)
    for number, scene in enumerate(scenes_of_test_split):
        scene.save(folder / f"{number:02}.png")
    (tmp_path / "photos.yaml").write_text("kind: cls\nfolder: photos\ntemplates: ['{}']\n")
    return folder


@pytest.fixture
def shards(photos: Path, training_scenes: list[bytes], tmp_path: Path) -> list[Path]:
    """Ninety scenes of the training split in three tars; copies of the first five in the second."""
    files = [{f"{n:03}.jpg": s for n, s in enumerate(training_scenes[i::3])} for i in range(3)]
    for number, (name, change) in enumerate(COPIES.items()):
        with Image.open(photos / f"{number:02}.png") as image:
            files[1][f"{name}.jpg"] = encoded(change(image.convert("RGB")), 40)
    files[1] |= {"broken.jpg": b"no image", "same.json": b"{}"}
    paths = [tmp_path / f"{number:03}.tar" for number in range(3)]
    for path, content in zip(paths, files, strict=True):
        write_tar(path, content)
    return paths


def test_planted_copies_are_found(command, shards, photos, tmp_path) -> None:
    arguments = [f"{tmp_path}/{{000..002}}.tar", "--dataset", tmp_path / "photos.yaml"]
    ended = command("overlap", *arguments, "--json")
    assert ended.status == 0, ended.err
    overlap = json.loads(ended.out)
    copies = {(match["key"], match["image"]): match["copy"] for match in overlap["matches"]}
    expected = {(name, f"scene/{number:02}.png") for number, name in enumerate(COPIES)}
    assert {*copies} == expected
    assert {match["shard"] for match in overlap["matches"]} == {str(shards[1])}
    assert copies["mirrored", "scene/02.png"] == "whole, mirrored"
    assert copies["middle", "scene/04.png"] == "middle 90%"
    assert (overlap["images"], overlap["training_images"]) == (SCENES, 96)
    assert overlap["unreadable"] == 1
    assert overlap["found"] == sorted(image for _, image in expected)
    printed = command("overlap", *arguments)
    line = "5 of 12 images of photos have a near-duplicate among 96 training images"
    assert line in printed.out
    assert "note: 1 training images cannot be decoded" in printed.err


def test_the_same_file_is_found_among_few_images(command, tmp_path) -> None:
    """There are three files, of which one shows nothing, and one is a copy of another."""
    folder = tmp_path / "photos" / "scene"
    folder.mkdir(parents=True)
    (scene,) = split_scenes("test", 1)
    picture, white = (encoded(Image.fromarray(scene.image)), encoded(Image.new("RGB", (64, 64))))
    for name, content in {"a": picture, "b": white, "c": picture}.items():
        (folder / f"{name}.jpg").write_bytes(content)
    (tmp_path / "photos.yaml").write_text("kind: cls\nfolder: photos\ntemplates: ['{}']\n")
    write_tar(tmp_path / "seen.tar", {"1.jpg": white, "2.jpg": picture})
    ended = command("overlap", tmp_path / "seen.tar", "--dataset", "photos.yaml", "--json")
    assert ended.status == 0, ended.err
    overlap = json.loads(ended.out)
    assert {(match["key"], match["image"], match["copy"]) for match in overlap["matches"]} == {
        ("1", "scene/b.jpg", "the same file"),
        ("2", "scene/a.jpg", "the same file"),
        ("2", "scene/c.jpg", "the same file"),
    }
    assert len(overlap["matches"]) == 3
    assert overlap["flat"] == 1
    for image in ("a", "c"):
        (folder / f"{image}.jpg").unlink()
    ended = command("overlap", tmp_path / "seen.tar", "--dataset", "photos.yaml", "--json")
    assert [match["image"] for match in json.loads(ended.out)["matches"]] == ["scene/b.jpg"]


def test_metrics_without_the_copied_images(command, shards, photos, tmp_path) -> None:
    """They follow from the stored labels and predictions of the other seven images."""
    for number in range(SCENES):  # four classes that no model knows
        target = photos.parent / "abcd"[number % 4]
        target.mkdir(exist_ok=True)
        (image,) = photos.parent.glob(f"*/{number:02}.png")
        image.rename(target / image.name)
    photos.rmdir()
    dataset = ["--dataset", tmp_path / "photos.yaml"]
    ended = command("run", *dataset, "--model", "scenes-clip", "--output", tmp_path / "out")
    assert ended.status == 0, ended.err
    tars, results = f"{tmp_path}/*.tar", ["--results", tmp_path / "out"]
    overlap = json.loads(command("overlap", tars, *dataset, *results, "--json").out)
    names = [f"{'abcd'[n % 4]}/{n:02}.png" for n in range(SCENES)]
    assert overlap["found"] == sorted(names[:5])
    (path,) = (tmp_path / "out").glob("*.npz")
    with np.load(path) as samples:
        hits = samples["labels"] == samples["top5"][:, 0]
    hits_without_copies = [
        hit for name, hit in zip(sorted(names), hits, strict=True) if name not in overlap["found"]
    ]
    (acc1,) = [metric for metric in overlap["metrics"] if metric["metric"] == "acc1"]
    assert (acc1["all"], acc1["without"]) == (hits.mean(), np.mean(hits_without_copies))
    assert acc1["low"] <= acc1["without"] <= acc1["high"]
    printed = command("overlap", tars, *dataset, *results)
    assert "without [95%]" in printed.out
    assert "find about half of the near-duplicates" in printed.err
    assert "find about half of the near-duplicates" in overlap["note"]
    ended = command("overlap", tars, "--dataset", "scenes-cls", *results)
    assert ended.status == 2
    assert "no complete result of scenes-cls" in ended.err

    # Another image of the same name
    (tmp_path / "photos" / names[5]).write_bytes((tmp_path / "photos" / names[6]).read_bytes())
    ended = command("overlap", tars, *dataset, *results)
    assert ended.status == 2
    assert "was measured on other images or labels than are there now" in ended.err


def test_rows_without_meaning_are_left_out(command, training_scenes, tmp_path) -> None:
    """The share of captions cut is no quality of the images; without a match, nothing changes."""
    stored = Path(__file__).parents[3] / "results"
    (scene,) = split_scenes("test", 1)
    write_tar(tmp_path / "seen.tar", {"a.jpg": encoded(Image.fromarray(scene.image))})
    write_tar(tmp_path / "other.tar", {"b.jpg": training_scenes[0]})
    words = ("--dataset", "scenes-retrieval", "--results", stored)
    ended = command("overlap", "seen.tar", *words)
    assert ended.status == 0, ended.err
    assert "scenes-clip       scenes        image_to_text_R@1" in ended.out
    assert "captions_cut" not in ended.out
    metrics = json.loads(command("overlap", "seen.tar", *words, "--json").out)["metrics"]
    assert "captions_cut" in {metric["metric"] for metric in metrics}

    ended = command("overlap", "other.tar", *words)
    line = "0 of 500 images of scenes-retrieval have a near-duplicate among 1 training images\n"
    assert ended.out == line
    assert "note: no metric changes, since no image was found; perceptual hashes" in ended.err


def test_copies_are_found_by_the_embeddings_of_a_model(command, shards, photos, tmp_path) -> None:
    """A copy upside down has another hash. The cosines are those of the model's features."""
    with Image.open(photos / "07.png") as image:
        turned = image.convert("RGB").rotate(180)
    copy = encoded(turned, 90)
    write_tar(tmp_path / "turned.tar", {"turned.jpg": copy, "broken.png": b""})
    find_overlap_with_tar = ["overlap", "turned.tar", "--dataset", "photos.yaml", "--json"]
    assert json.loads(command(*find_overlap_with_tar).out)["matches"] == []
    encoder = load_encoder(parse_model_spec("scenes-clip"))
    sources = [ImageFile(path) for path in sorted(photos.parent.glob("*/*.png"))]
    pixels = [encoder.transform(source.decode(source.read())) for source in sources]
    pixels.append(encoder.transform(Image.open(io.BytesIO(copy)).convert("RGB")))
    features = encoder.encode_image(torch.stack(pixels))
    cosines = (features[:-1] @ features[-1]).numpy()
    threshold = float(np.sort(cosines)[-2:].mean())  # only one image is above it
    ended = command(*find_overlap_with_tar, "--model", "scenes-clip", "--cosine", threshold)
    assert ended.status == 0, ended.err
    (match,) = json.loads(ended.out)["matches"]
    assert match["image"] == f"scene/{int(cosines.argmax()):02}.png"
    assert (match["key"], match["copy"], match["distance"]) == ("turned", "embedding", None)
    assert match["cosine"] == pytest.approx(cosines.max(), abs=1e-4)
    assert command(*find_overlap_with_tar, "--model", "scenes-clap").status == 2


def test_several_processes_find_the_same(shards, photos) -> None:
    images = {path.name: ImageFile(path) for path in sorted(photos.iterdir())}
    alone = find_overlap(images, shards, RunOptions())
    assert len(alone.matches) == len(COPIES)

    def act(distributed):
        return find_overlap(images, shards, RunOptions(distributed=distributed))

    assert together(2, act) == [alone, alone]


def test_images_that_show_nothing_are_counted(shards, photos, tmp_path) -> None:
    Image.new("RGB", (40, 30), "grey").save(photos / "plain.png")
    images = {path.name: ImageFile(path) for path in sorted(photos.iterdir())}
    plain = {f"{n}.jpg": encoded(Image.new("RGB", (50, 50), "grey")) for n in range(3)}
    write_tar(tmp_path / "plain.tar", plain)
    overlap = find_overlap(images, [tmp_path / "plain.tar"], RunOptions())
    assert (overlap.flat, overlap.training_images, overlap.matches) == (1, 3, ())


@pytest.mark.parametrize(
    ("shards_named", "message"),
    [
        ("none.tar", "no such shard: none.tar"),
        ("pipe:cat 000.tar", "is a stream: fetch it"),
        ("{000..002.tar::{1", "cannot be expanded"),
        ("photos", "no such shard: photos"),
        ("cut.tar", "cut.tar: "),
    ],
)
def test_bad_input(command, shards, tmp_path, shards_named, message) -> None:
    (tmp_path / "cut.tar").write_bytes(shards[0].read_bytes()[:-9000])
    ended = command("overlap", shards_named, "--dataset", "photos.yaml")
    assert (ended.status, ended.out, len(ended.err.splitlines())) == (2, "", 1)
    assert message in ended.err


def test_correlation_rejects_images_that_only_have_the_same_hash(monkeypatch, photos) -> None:
    from cosmos_eval.runner import overlap

    images = {path.name: ImageFile(path) for path in sorted(photos.iterdir())[:3]}

    def equal_hashes(pictures):
        return np.zeros(len(pictures), np.uint64)

    monkeypatch.setattr(overlap, "perceptual_hashes", equal_hashes)
    shard = photos.parent / "one.tar"
    write_tar(shard, {"a.png": (photos / "00.png").read_bytes()})
    matches = find_overlap(images, [shard], RunOptions()).matches
    assert [match.image for match in matches] == ["00.png"]
