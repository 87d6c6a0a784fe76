"""Sets of ImageNet's classes: subsets of a list, archives as they unpack, ids without names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

import open_clip
import pytest
from PIL import Image
from support.class_sets import WORDNET_IDS
from support.fuzzed_images import measure, prepare_images
from support.fuzzing import run_command

from cosmos_eval.data.class_names import class_names
from cosmos_eval.data.classification import open_data
from cosmos_eval.protocols import find_known, protocols_of_dataset
from cosmos_eval.protocols.classification import CLASS_LISTS, ROBUSTNESS
from cosmos_eval.runner.doctor import examine
from cosmos_eval.tasks import find_protocol
from cosmos_eval.types import ClassificationProtocol, Protocol, RunOptions, UsageError, no_progress

NAME_OF = dict(zip(WORDNET_IDS, open_clip.IMAGENET_CLASSNAMES, strict=True))
PICTURES = 3  # of each class


def write_folders(root: Path, classes: Iterable[str]) -> None:
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for index in range(PICTURES):
            Image.new("RGB", (6, 4), (number, index, 0)).save(root / name / f"{index}.png")


def described(folder: Path, text: str) -> ClassificationProtocol:
    (folder / "own.yaml").write_text(f"kind: cls\nfolder: photos\n{text}")
    protocol = find_protocol(str(folder / "own.yaml"))
    assert isinstance(protocol, ClassificationProtocol)
    return protocol


def prompted(protocol: ClassificationProtocol) -> dict[str, str]:
    """Return the name in prompts of every class on the disk."""
    data = open_data(protocol, RunOptions())
    assert len(data.images) == PICTURES * len(data.classes)
    return dict(zip(data.classes, class_names(protocol, data), strict=True))


def doctor_faults(protocol: Protocol, options: RunOptions) -> tuple[str, ...]:
    return examine(protocol, options, no_progress, decode=False).faults


def test_a_subset_of_the_wordnet_ids_has_their_names(tmp_path):
    write_folders(tmp_path / "photos", ["n01443537", "n02099712", "n12267677"])
    protocol = described(tmp_path, "class_list: imagenet1k\n")
    names = {"n01443537": "goldfish", "n02099712": "Labrador Retriever", "n12267677": "acorn"}
    assert prompted(protocol) == names
    assert doctor_faults(protocol, RunOptions()) == ()


def test_a_subset_of_the_numbers_has_their_names(tmp_path):
    write_folders(tmp_path / "photos", ["988", "1", "208"])
    protocol = described(tmp_path, "class_list: imagenet1k-numbers\n")
    assert prompted(protocol) == {"1": "goldfish", "208": "Labrador Retriever", "988": "acorn"}


def test_an_id_that_the_list_lacks_is_named(tmp_path):
    write_folders(tmp_path / "photos", ["n01443537", "n99999999"])
    protocol = described(tmp_path, "class_list: imagenet1k\n")
    with pytest.raises(UsageError, match="not of this set: n99999999"):
        open_data(protocol, RunOptions())


@pytest.mark.parametrize(
    ("classes", "remedy"),
    [
        (["n01443537", "n02099712"], "by `class_list: imagenet1k`"),
        (["n01443537", "n00000001"], "name them by `class_names: {'n00000001': NAME, ...}`"),
        (["0", "1", "9"], "by `class_list: imagenet1k-numbers`"),
        (["7", "1000"], "name them by `class_names: {'1000': NAME, ...}`"),
    ],
)
def test_classes_without_names_are_refused_with_the_remedy(classes, remedy, tmp_path):
    prepare_images(tmp_path)
    write_folders(tmp_path / "ids", classes)
    (tmp_path / "set.yaml").write_text("kind: cls\nfolder: ids\n")
    run = run_command(measure("set.yaml", tmp_path), tmp_path, seconds=0)
    assert run.status == 2
    (line,) = (text for text in run.err.splitlines() if text.startswith("cosmos-eval: "))
    (fault,) = doctor_faults(find_protocol(str(tmp_path / "set.yaml")), RunOptions())
    for text in (line, fault):
        assert f"{len(classes)} classes are called by" in text
        assert remedy in text


def test_names_may_be_numbers_if_they_are_given(tmp_path):
    write_folders(tmp_path / "photos", ["0", "1"])
    protocol = described(tmp_path, "class_names: {'0': '0', '1': '1'}\n")
    assert prompted(protocol) == {"0": "0", "1": "1"}
    assert doctor_faults(protocol, RunOptions()) == ()


def test_one_id_among_names_is_refused(tmp_path):
    write_folders(tmp_path / "photos", ["n01443537", "n02099712"])
    protocol = described(tmp_path, "class_names: {n01443537: goldfish}\n")
    with pytest.raises(UsageError, match=r"class n02099712 of .* has no name in class_names"):
        open_data(protocol, RunOptions())


@pytest.mark.parametrize("name", ["imagenet-a", "imagenet-r"])
def test_imagenet_a_and_r_are_read_by_name(name, tmp_path):
    listed = files("timm").joinpath(f"data/_info/{name.replace('-', '_')}_synsets.txt").read_text()
    classes = sorted(listed.split())
    assert len(classes) == CLASS_LISTS[name].n_classes == 200
    write_folders(tmp_path / name, classes)
    (tmp_path / name / "README.txt").write_text("As the archive has it.\n")
    protocol = find_known(name)
    assert isinstance(protocol, ClassificationProtocol)
    options = RunOptions(data_root=str(tmp_path), limit=200)
    data = open_data(protocol, options)
    assert class_names(protocol, data) == tuple(NAME_OF[wordnet_id] for wordnet_id in classes)
    faults = doctor_faults(protocol, RunOptions(data_root=str(tmp_path)))
    assert "has 600 of " in faults[0]
    (tmp_path / name / classes[0]).rename(tmp_path / name / "n99999999")
    with pytest.raises(UsageError, match=f"the 200 WordNet ids of {name}; missing: {classes[0]}"):
        open_data(protocol, options)


def test_imagenet_sketch_is_read_by_name(tmp_path):
    pictures = tmp_path / "sketch"
    for wordnet_id in WORDNET_IDS:
        (pictures / wordnet_id).mkdir(parents=True)
        (pictures / wordnet_id / "sketch_0.JPEG").touch()
    protocol = find_known("imagenet-sketch")
    assert isinstance(protocol, ClassificationProtocol)
    options = RunOptions(data_root=str(tmp_path), limit=1000)
    data = open_data(protocol, options)
    assert class_names(protocol, data) == tuple(open_clip.IMAGENET_CLASSNAMES)
    (pictures / WORDNET_IDS[3] / "sketch_0.JPEG").unlink()
    (pictures / WORDNET_IDS[3]).rmdir()
    with pytest.raises(UsageError, match="999 class folders, which are not the 1000 WordNet ids"):
        open_data(protocol, options)


# Three classes, of which ImageNet has two, as the mappings of ObjectNet 1.0 write them.
LABEL_OF = {"air_freshener": "Air freshener", "t_shirt": "T-shirt", "banana": "Banana"}
SHARED = {"T-shirt": "jersey, T-shirt, tee shirt", "Banana": "banana"}


def write_objectnet(root: Path) -> Path:
    folder = root / "objectnet-1.0"
    write_folders(folder / "images", LABEL_OF)
    mappings = {
        "folder_to_objectnet_label.json": json.dumps(LABEL_OF),
        "objectnet_to_imagenet_1k.json": json.dumps(SHARED),
        "pytorch_to_imagenet_2012_id.json": json.dumps({"608": 1, "954": 0}),
        "imagenet_to_label_2012_v2": "banana\njersey, T-shirt, tee shirt\n",
    }
    (folder / "mappings").mkdir()
    for name, text in mappings.items():
        (folder / "mappings" / name).write_text(text)
        (root / name).write_text(text)  # where CLIP Benchmark copies them
    return folder


def objectnet(root: Path) -> ClassificationProtocol:
    (root / "objectnet.yaml").write_text("kind: cls\nfolder: objectnet-1.0\nlayout: objectnet\n")
    protocol = find_protocol(str(root / "objectnet.yaml"))
    assert isinstance(protocol, ClassificationProtocol)
    return protocol


def test_objectnet_is_read_as_clip_benchmark_reads_it(tmp_path):
    from clip_benchmark.datasets.objectnet import ObjectNetDataset

    write_objectnet(tmp_path)
    protocol = objectnet(tmp_path)
    expected = ObjectNetDataset(str(tmp_path), transform=None)
    assert prompted(protocol) == {"banana": "banana", "t_shirt": "t-shirt"}
    data = open_data(protocol, RunOptions())
    assert list(class_names(protocol, data)) == expected.classes
    images = tmp_path / "objectnet-1.0/images"
    assert [str(images / name) for name in data.names] == [path for path, _ in expected.samples]
    expected_labels = [expected[number][1] for number in range(len(expected.samples))]
    assert data.labels.tolist() == expected_labels


def test_missing_classes_of_objectnet_are_named(tmp_path):
    folder = write_objectnet(tmp_path)
    faults = doctor_faults(find_known("objectnet"), RunOptions(data_root=str(tmp_path)))
    assert "has 2 classes, not the 113; get the whole set from https://objectnet.dev" in faults[0]
    (folder / "mappings/objectnet_to_imagenet_1k.json").unlink()
    (fault,) = doctor_faults(find_known("objectnet"), RunOptions(data_root=str(tmp_path)))
    assert "cannot read" in fault
    assert "objectnet_to_imagenet_1k.json" in fault


def test_lists_of_subsets_are_those_of_timm():
    for name in ("imagenet-a", "imagenet-r"):
        path = files("timm").joinpath(f"data/_info/{name.replace('-', '_')}_synsets.txt")
        joined = "\n".join(sorted(path.read_text().split()))
        assert hashlib.sha256(joined.encode()).hexdigest() == CLASS_LISTS[name].classes_sha256


def test_these_sets_have_only_the_protocol_of_clip_benchmark():
    sizes = {"imagenet-a": 7500, "imagenet-r": 30000, "imagenet-sketch": 50889, "objectnet": 18574}
    assert {name: protocol.n_images for name, protocol in ROBUSTNESS.items()} == sizes
    for name in ROBUSTNESS:
        assert list(protocols_of_dataset(name)) == ["clip-benchmark"]
