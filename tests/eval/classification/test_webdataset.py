"""Sets in CLIP Benchmark's webdataset layout, described by a YAML file; ImageNetV2's folders."""

from __future__ import annotations

import gc
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.shards import encoded, tar_of

from cosmos_eval.data.class_names import class_names, read_prompt_names, templates_of
from cosmos_eval.data.classification import open_data
from cosmos_eval.protocols.classification import CLASSIFICATION
from cosmos_eval.tasks import classification, find_protocol
from cosmos_eval.types import ClassificationProtocol, RunOptions, UsageError


def sample(number: int, colour: str, suffix: str, form: str) -> list[tuple[str, bytes]]:
    """An image, and the number of its class, which is the sample's."""
    image = encoded(Image.new("RGB", (8, 6), colour), form)
    return [(f"s{number:07}.{suffix}", image), (f"s{number:07}.cls", str(number).encode())]


@pytest.fixture
def protocol(tmp_path: Path) -> ClassificationProtocol:
    """Write two archives: a red image, then a green one and a red one with the label blue."""
    folder = tmp_path / "wds_colours"
    (folder / "test").mkdir(parents=True)
    (folder / "classnames.txt").write_text("red_one\ngreen\nblue\n")
    templates = folder / "zeroshot_classification_templates.txt"
    templates.write_text("a {c} photo.\nthe {c} one.\n")
    (folder / "test/nshards.txt").write_text("2\n")
    (folder / "test/0.tar").write_bytes(tar_of(sample(0, "red", "webp", "WEBP")))
    members = [*sample(1, "lime", "jpg", "JPEG"), *sample(2, "red", "png", "PNG")]
    (folder / "test/1.tar").write_bytes(tar_of(members))
    (tmp_path / "colours.yaml").write_text("{kind: cls, layout: webdataset, folder: wds_colours}")
    protocol = find_protocol(str(tmp_path / "colours.yaml"))
    assert isinstance(protocol, ClassificationProtocol)
    return protocol


def test_samples_are_clip_benchmarks(protocol):
    from clip_benchmark.datasets.builder import build_wds_dataset

    data = open_data(protocol, RunOptions())
    with warnings.catch_warnings():
        # CLIP Benchmark does not say whether to shuffle, and does not close the archives.
        warnings.simplefilter("ignore")
        folder = f"{protocol.root}/wds_colours"
        dataset = build_wds_dataset("colours", transform=np.asarray, data_dir=folder)
        expected = list(dataset)
        gc.collect()
    assert class_names(protocol, data) == ("red_one", "green", "blue") == tuple(dataset.classes)
    assert templates_of(protocol, data) == ("a {} photo.", "the {} one.")
    assert data.labels.tolist() == [label for _, label in expected]
    for image, (pixels, _) in zip(data.images, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(image.decode(image.read())), pixels)
    assert data.names == ("test/0.tar:s0000000", "test/1.tar:s0000001", "test/1.tar:s0000002")


def test_an_archive_is_measured(protocol, colour_encoder):
    result = classification.TASK.measure_one(colour_encoder, protocol, RunOptions())
    assert result.metrics["acc1"] == pytest.approx(2 / 3)
    assert result.per_class["blue"] == {"recall": 0.0, "images": 1}
    assert result.confusion_pairs == [{"true": "blue", "predicted": "red_one", "images": 1}]


def test_prompts_of_the_yaml_file_come_first(protocol):
    names = {"red_one": "red", "green": "green", "blue": "blue"}
    protocol = replace(protocol, class_names=names, templates=("{}",))
    data = open_data(protocol, RunOptions())
    assert class_names(protocol, data) == ("red", "green", "blue")
    assert templates_of(protocol, data) == ("{}",)
    wrong_names = {"red_one": "a", "greene": "b"}
    with pytest.raises(UsageError, match=r"class green of .* has no name .* nearest: greene"):
        open_data(replace(protocol, class_names=wrong_names), RunOptions())


def test_names_of_several_classes_are_told_apart_in_reports_only(protocol):
    folder = Path(str(protocol.root)) / "wds_colours"
    (folder / "classnames.txt").write_text("missile\ngreen\nmissile\n")
    data = open_data(protocol, RunOptions())
    assert data.classes == ("missile (0)", "green", "missile (2)")
    assert class_names(protocol, data) == ("missile", "green", "missile")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("classnames.txt", None, r"cannot read .*classnames\.txt, which CLIP .*: no such file"),
        ("classnames.txt", "red\n", r"1\.tar:s0000001\.cls holds '1', which is not a class"),
        ("classnames.txt", "red\n\nblue\n", "has a blank line"),
        ("zeroshot_classification_templates.txt", "a photo\n", r"must hold '\{c\}' exactly once"),
        ("zeroshot_classification_templates.txt", '{"red": ["a"]}', "each class are not supported"),
        ("test/nshards.txt", "many", "must hold the number of archives, not 'many'"),
        ("test/nshards.txt", "3", r"2\.tar is not there"),
    ],
)
def test_a_fault_of_an_archive_is_named(protocol, name, content, message):
    path = Path(str(protocol.root)) / "wds_colours" / name
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=message) as raised:
        classification.TASK.open_data(protocol, RunOptions())
    assert "\n" not in str(raised.value)


def test_imagenetv2s_folders_are_sorted_as_numbers(tmp_path, save_colour):
    protocol = CLASSIFICATION["imagenetv2"]
    picture = save_colour(tmp_path / "one.jpeg", "red")
    folder = tmp_path / "imagenetv2-matched-frequency-format-val"
    for number in range(1000):
        (folder / str(number)).mkdir(parents=True)
        (folder / str(number) / "a.jpeg").hardlink_to(picture)
    options = RunOptions(data_root=str(tmp_path), limit=1000)
    data = open_data(protocol, options)
    assert data.classes == tuple(str(number) for number in range(1000))
    assert data.names[2] == "2/a.jpeg"
    assert class_names(protocol, data) == read_prompt_names("imagenet1k")
    with pytest.raises(UsageError, match="has 1000 of 10000 images of"):
        open_data(protocol, replace(options, limit=None))
    folder = folder.rename(tmp_path / "ImageNetV2-matched-frequency")
    assert open_data(protocol, options).names == data.names
    (folder / "7").rename(folder / "n07")
    with pytest.raises(UsageError, match="are not the 1000 numbers 0 to 999 of imagenet1k-numb"):
        open_data(protocol, options)
