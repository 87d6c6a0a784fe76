"""Results stay tied to the data they were measured on, in every task and form of files."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from support.coop import write_split
from support.encoders import load
from support.one_set import (
    COLOURS,
    PHOTOS,
    protocol_of,
    write_depth_map,
    write_faces,
    write_label_map,
    write_photo,
    write_set,
)
from support.rows import make_row
from support.webdatasets import npy, shard, shard_of

from cosmos_eval.results.identity import data_identity
from cosmos_eval.results.settings import column_fields, describe_mismatches, setting_of_result
from cosmos_eval.runner.changed_data import mark_changed_data
from cosmos_eval.runner.execute import existing_results
from cosmos_eval.runner.plan import make_plan
from cosmos_eval.tasks import TASKS, find_protocol, task_for
from cosmos_eval.types import Progress, Protocol, RunOptions

MODEL = f"python:{Path(__file__).parents[3] / 'examples/own_model.py'}"
TASKS_OF_FILES = [task for task in TASKS if task != "faces"]  # whose images are in an archive
IMAGE = "photos/green/0.png"
LABELS_OF_FACE = {"npy": npy([0, 1, 1, 0])}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The set of six images, all of which differ."""
    root = tmp_path / "data"
    write_set(root)
    for index, photo in enumerate(PHOTOS):
        red, green, blue = COLOURS[photo.partition("/")[0]]
        write_photo(root / "photos" / f"{photo}.png", (red - index, green, blue))
        write_photo(root / "train" / f"{photo}.png", (red, green, blue - 10 - index))
    return root


def options_for(root: Path) -> RunOptions:
    return RunOptions(data_root=str(root), workers=0)


def hashes_of(protocol: Protocol, root: Path) -> dict[str, str]:
    """Return the hashes of a data set as it is now."""
    task, options = task_for(protocol), options_for(root)
    return dict(task.data_hashes(protocol, task.open_data(protocol, options), options))


def changed_names(before: Mapping[str, str], after: Mapping[str, str]) -> set[str]:
    """Return the names of the hashes that differ before and after a change of the files.

    Check that comparisons name them all, and that tables have two columns.
    """
    assert before.keys() == after.keys()
    names = {name for name in before if before[name] != after[name]}

    rows = [make_row({"hashes": dict(hashes)}) for hashes in (before, after)]
    mismatches = describe_mismatches(*map(setting_of_result, rows))
    assert {line.split()[0] for line in mismatches} == {f"hashes.{name}" for name in names}
    columns = [(data_identity(row)["content"], column_fields(row)) for row in rows]
    assert (columns[0] != columns[1]) == bool(names)
    return names


@contextmanager
def unnoticed_change(path: Path) -> Iterator[None]:
    """Let a block change a file, but neither its size nor its times."""
    before, content = path.stat(), path.read_bytes()
    yield
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert path.read_bytes() != content


def change_image_unnoticed(root: Path) -> None:
    """Write another image of the same size in bytes, with the same times."""
    with unnoticed_change(root / IMAGE):
        write_photo(root / IMAGE, (60, 68, 150))


def replace_text(path: Path, old: str, new: str) -> None:
    """Replace the first occurrence of a text in a file."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def swap(first: Path, second: Path) -> None:
    """Exchange the names of two files."""
    spare = first.with_suffix(".spare")
    first.rename(spare)
    second.rename(first)
    spare.rename(second)


@pytest.mark.parametrize("task_name", TASKS)
def test_the_hashes_of_the_data_are_those_that_a_measurement_records(task_name, root):
    protocol, options = protocol_of(task_name, root), options_for(root)
    recorded = task_for(protocol).measure_one(load(MODEL), protocol, options).hashes
    hashes = hashes_of(protocol, root)
    assert "content" in hashes
    assert {"sample_list", "samples"} & hashes.keys()
    assert {name: recorded[name] for name in hashes} == hashes


def write_coop(root: Path) -> str:
    """Write images of three splits by CoOp's rules, and return the YAML file."""
    write_split(root)
    return "kind: probe\nsplit_file: split.json\nimages: photos\nshots: [1]\nc_values: [1, 100]\n"


def write_videos(root: Path) -> str:
    """Write two videos of two frames each, and return the YAML file."""
    for name in ("red", "green"):
        for number, colour in enumerate([COLOURS[name], COLOURS["blue"]]):
            write_photo(root / "frames" / name / f"{number}.png", colour)
    (root / "list.csv").write_text("image,caption\nred,red\ngreen,green\n")
    return "kind: retrieval\nimages: frames\nannotations: list.csv\nframes: 2\n"


@pytest.mark.parametrize("write", [write_coop, write_videos])
def test_the_hashes_of_coop_splits_and_videos_are_those_of_a_measurement(write, tmp_path):
    (tmp_path / "set.yaml").write_text(write(tmp_path))
    protocol = find_protocol(str(tmp_path / "set.yaml"))
    recorded = task_for(protocol).measure_one(load(MODEL), protocol, options_for(tmp_path)).hashes
    assert hashes_of(protocol, tmp_path) == recorded


@pytest.mark.parametrize("task_name", TASKS)
def test_other_bytes_of_the_same_size_and_time_are_found(task_name, root):
    protocol = protocol_of(task_name, root)
    before = hashes_of(protocol, root)
    if task_name == "faces":
        with unnoticed_change(root / "faces/test/0.tar"):
            write_faces(root, "yellow")
    else:
        change_image_unnoticed(root)
    assert changed_names(before, hashes_of(protocol, root)) == {"content"}


@pytest.mark.parametrize(
    ("task_name", "file", "old", "new", "changed_hash"),
    [
        ("retrieval", "captions.json", "a green", "a brown", "sample_list"),
        ("multilabel", "labels.csv", "0.png,green", "0.png,red", "content"),
        ("faces", "faces/classnames.txt", "race:red", "race:pink", "class_names"),
        ("select", "items.csv", "white", "black", "sample_list"),
        ("assoc", "cues.jsonl", '"cue": "green"', '"cue": "lime"', "sample_list"),
        ("assoc", "cues.jsonl", '["green/0", ', '["blue/0", ', "sample_list"),
        ("ratings", "ratings.csv", "green,3", "green,4", "sample_list"),
        ("boxes", "boxes.json", "20, 16]", "20, 17]", "content"),
        ("boxes", "boxes.json", '"category_id": 0', '"category_id": 1', "content"),
        ("ranking", "queries.jsonl", '"text": "red"', '"text": "pink"', "sample_list"),
        ("ranking", "queries.jsonl", '"positives": ["red/', '"positives": ["blue/', "sample_list"),
        ("ranking", "queries.jsonl", '"junk": ["green/0', '"junk": ["green/1', "sample_list"),
    ],
)
def test_a_changed_text_of_an_annotation_is_found(task_name, file, old, new, changed_hash, root):
    protocol = protocol_of(task_name, root)
    before = hashes_of(protocol, root)
    replace_text(root / file, old, new)
    assert changed_hash in changed_names(before, hashes_of(protocol, root))


def change_mask(root: Path) -> None:
    write_label_map(root / "masks/green/0.png", split_at=20)


def change_depth(root: Path) -> None:
    write_depth_map(root / "depth/green/0.png", split_at=20)


def change_label_of_face(root: Path) -> None:
    green, other = ("lime", {"npy": npy([1, 1, 1, 0])}), LABELS_OF_FACE
    (root / "faces/test/0.tar").write_bytes(shard_of(green, ("red", other), ("blue", other)))


def change_class_folder(root: Path) -> None:
    (root / IMAGE).rename(root / "photos/red/9.png")


def change_training_labels(root: Path) -> None:
    swap(root / "train/green/0.png", root / "train/red/0.png")


@pytest.mark.parametrize(
    ("task_name", "change", "changed_hashes"),
    [
        ("seg", change_mask, {"content"}),
        ("loc", change_mask, {"content"}),
        ("seg-probe", change_mask, {"content"}),
        ("depth-probe", change_depth, {"content"}),
        ("faces", change_label_of_face, {"content"}),
        ("cls", change_class_folder, {"content", "sample_list"}),
        ("ood", change_class_folder, {"content", "sample_list"}),
        ("probe", change_class_folder, {"content", "sample_list"}),
        ("probe", change_training_labels, {"content"}),
        ("ood", change_training_labels, {"content"}),
    ],
)
def test_changed_maps_and_labels_are_found(task_name, change, changed_hashes, root):
    protocol = protocol_of(task_name, root)
    before = hashes_of(protocol, root)
    change(root)
    assert changed_names(before, hashes_of(protocol, root)) >= changed_hashes


@pytest.mark.parametrize("task_name", TASKS_OF_FILES)
def test_two_images_that_swap_names_are_found(task_name, root):
    protocol = protocol_of(task_name, root)
    before = hashes_of(protocol, root)
    swap(root / IMAGE, root / "photos/green/1.png")  # images of one class, or of one label
    assert changed_names(before, hashes_of(protocol, root)) == {"content"}


@pytest.mark.parametrize("task_name", TASKS_OF_FILES)
def test_files_that_are_encoded_again_count_as_changed(task_name, root):
    protocol = protocol_of(task_name, root)
    before = hashes_of(protocol, root)
    with Image.open(root / IMAGE) as image:
        pixels = image.copy()
    pixels.save(root / IMAGE, compress_level=0)
    assert changed_names(before, hashes_of(protocol, root)) == {"content"}


@pytest.mark.parametrize("task_name", ["cls", "ood", "probe", "seg", "loc", "seg-probe"])
def test_an_added_and_a_removed_image_are_found(task_name, root):
    protocol = protocol_of(task_name, root)
    before = hashes_of(protocol, root)
    write_photo(root / "photos/green/2.png", (5, 200, 5))
    write_label_map(root / "masks/green/2.png", split_at=12)
    with_added_image = hashes_of(protocol, root)
    assert {"content"} < changed_names(before, with_added_image)

    (root / "photos/green/1.png").unlink()
    assert {"content"} < changed_names(with_added_image, hashes_of(protocol, root))


@pytest.mark.parametrize("task_name", TASKS)
def test_a_moved_and_a_linked_folder_count_as_the_same(task_name, root):
    before = hashes_of(protocol_of(task_name, root), root)
    moved, link = root.with_name("moved"), root.with_name("link")
    root.rename(moved)
    link.symlink_to(moved)
    shutil.copytree(moved, root.with_name("copy"))
    for place in (moved, link, root.with_name("copy")):
        assert hashes_of(protocol_of(task_name, place), place) == before


def write_zip(root: Path) -> None:
    """Write the photos, without compression, into photos.zip, as "green-0.png" and so on."""
    with zipfile.ZipFile(root / "photos.zip", "w") as archive:
        for photo in PHOTOS:
            # The entry has a fixed date, so that equal photos give equal archives.
            entry = zipfile.ZipInfo(f"{photo.replace('/', '-')}.png")
            archive.writestr(entry, (root / "photos" / f"{photo}.png").read_bytes())


def test_a_changed_image_of_a_zip_file_is_found(root):
    write_zip(root)
    cues = root / "cues.jsonl"
    cues.write_text(cues.read_text().replace("/", "-"))
    replace_text(root / "assoc.yaml", "images: photos", "images: photos.zip")
    protocol = protocol_of("assoc", root)
    before = hashes_of(protocol, root)
    with unnoticed_change(root / "photos.zip"):
        change_image_unnoticed(root)
        write_zip(root)
    assert changed_names(before, hashes_of(protocol, root)) == {"content"}


def write_captions(root: Path, name: str, caption: str) -> str:
    """Write captions in one of several forms, and return the fields of the YAML file."""
    files = [f"{photo}.png" for photo in PHOTOS]
    captions = [caption, *("a blue one" for _ in files[1:])]
    pairs = list(zip(files, captions, strict=True))
    if name == "coco.json":
        images = [{"id": index, "file_name": file} for index, file in enumerate(files)]
        texts = [{"id": i, "image_id": i, "caption": text} for i, text in enumerate(captions)]
        content = json.dumps({"images": images, "annotations": texts})
    elif name == "c.jsonl":
        content = "".join(f"{json.dumps({'image': f, 'caption': c})}\n" for f, c in pairs)
    else:
        separator = "\t" if name == "c.tsv" else ","
        content = "".join(f"{separator.join(row)}\n" for row in [("image", "caption"), *pairs])
    (root / name).write_text(content)
    return f"images: photos\nannotations: {name}\n"


@pytest.mark.parametrize("name", ["coco.json", "c.jsonl", "c.csv", "c.tsv"])
def test_a_changed_caption_is_found_in_every_form_of_captions(name, root):
    yaml = root / "forms.yaml"
    yaml.write_text("kind: retrieval\n" + write_captions(root, name, "a red one"))
    protocol = find_protocol(str(yaml))
    before = hashes_of(protocol, root)
    with unnoticed_change(root / name):
        write_captions(root, name, "a tan one")
    assert changed_names(before, hashes_of(protocol, root)) == {"sample_list"}


CAPTIONS_YAML = "kind: retrieval\narchives: test/*.tar\n"
CLASSES_YAML = "kind: cls\nlayout: webdataset\nfolder: .\ntemplates: ['a {}']\n"


@pytest.mark.parametrize(
    ("yaml", "extension", "text", "other_text", "hash_of_texts"),
    [
        (CAPTIONS_YAML, "txt", "a red one", "a tan one", "sample_list"),
        (CLASSES_YAML, "cls", "1", "0", "content"),
    ],
)
def test_changed_samples_of_archives_are_found(
    yaml, extension, text, other_text, hash_of_texts, tmp_path
):
    (tmp_path / "test").mkdir()
    (tmp_path / "test/nshards.txt").write_text("1\n")
    (tmp_path / "classnames.txt").write_text("red\ngreen\n")
    (tmp_path / "set.yaml").write_text(yaml)
    archive = tmp_path / "test/0.tar"
    first_sample = ("red", other_text)
    archive.write_bytes(shard(first_sample, ("lime", text), text=extension))
    protocol = find_protocol(str(tmp_path / "set.yaml"))
    before = hashes_of(protocol, tmp_path)

    with unnoticed_change(archive):
        archive.write_bytes(shard(first_sample, ("blue", text), text=extension))
    with_other_image = hashes_of(protocol, tmp_path)
    assert changed_names(before, with_other_image) == {"content"}

    with unnoticed_change(archive):
        archive.write_bytes(shard(first_sample, ("blue", other_text), text=extension))
    assert changed_names(with_other_image, hashes_of(protocol, tmp_path)) == {hash_of_texts}


def test_a_suite_measures_again_what_was_measured_on_other_data(root, command, tmp_path):
    files = ", ".join(f"{task}.yaml" for task in TASKS_OF_FILES)
    (root / "suite.yaml").write_text(f"datasets:\n  user: [{files}]\n")
    arguments = ("run", "--suite", root / "suite.yaml", "--model", MODEL, "--output", "out")
    n_sets = len(TASKS_OF_FILES)
    assert f"measured {n_sets}, there already 0" in command(*arguments).err
    assert f"measured 0, there already {n_sets}" in command(*arguments).err

    # A changed image is found in every task.
    change_image_unnoticed(root)
    plan = make_plan(suite=str(root / "suite.yaml"), models=[MODEL])
    existing = existing_results(plan, tmp_path / "out")
    assert len(existing) == n_sets
    assert all(result.error is None for result in existing.values())
    for pair, result in mark_changed_data(existing, plan).items():
        assert "was measured on other data" in str(result.error), pair
        assert "(content)" in str(result.error), pair


def test_results_that_record_no_hash_of_the_files_stay_with_a_note(root, command, tmp_path):
    (root / "suite.yaml").write_text("datasets:\n  user: [cls.yaml]\n")
    command("run", "--suite", root / "suite.yaml", "--model", MODEL, "--output", "out")
    plan = make_plan(suite=str(root / "suite.yaml"), models=[MODEL])
    ((pair, result),) = existing_results(plan, tmp_path / "out").items()
    hashes = dict(result.row.provenance["hashes"])
    del hashes["content"]
    older_row = replace(result.row, provenance={**result.row.provenance, "hashes": hashes})
    older_results = {pair: result._replace(row=older_row)}

    steps: list[Progress] = []

    def keep_step(title: str, step: Progress) -> None:
        steps.append(step)

    assert mark_changed_data({pair: result}, plan, keep_step)[pair].error is None
    assert not any(step.note for step in steps)
    assert mark_changed_data(older_results, plan, keep_step)[pair].error is None
    (note,) = [step.note for step in steps if step.note]
    assert note == "cls: existing results stay, but their data cannot be compared"


@pytest.fixture
def class_suite(root: Path) -> Path:
    (root / "suite.yaml").write_text("datasets:\n  user: [cls.yaml, retrieval.yaml]\n")
    return root / "suite.yaml"


def test_results_on_changed_missing_and_damaged_data(class_suite, root, command):
    arguments = ("run", "--suite", class_suite, "--model", MODEL, "--output", "out")
    assert command(*arguments).status == 0
    replace_text(root / "captions.json", "a green", "a brown")
    ended = command(*arguments)
    assert "retrieval has now (sample list): measured again" in ended.err
    assert "measured 1, there already 1" in ended.err

    # Data that are not there say nothing about the results.
    (root / "photos").rename(root / "elsewhere")
    ended = command(*arguments)
    assert ended.status == 0
    assert "cls: existing results stay, but their data cannot be compared" in ended.err
    assert "measured 0, there already 2" in ended.err

    # Data that are there and incomplete do.
    (root / "elsewhere").rename(root / "photos")
    (root / IMAGE).unlink()
    ended = command(*arguments)
    assert ended.status == 2
    assert "cls has now (sample list, content): measured again" in ended.err


@pytest.mark.parametrize("task_name", ["seg", "loc", "seg-probe", "depth-probe"])
def test_a_resumed_run_measures_again_what_has_changed(task_name, root, tmp_path, monkeypatch):
    monkeypatch.setattr("cosmos_eval.tasks.label_maps.IMAGES_PER_SHARD", 2)
    protocol, encoder = protocol_of(task_name, root), load(MODEL)
    options = replace(options_for(root), unfinished=str(tmp_path / "unfinished"))

    def interrupt_at_the_fifth_image(step: Progress) -> None:
        if (step.phase, step.done) == ("images", 5):
            raise KeyboardInterrupt

    measure = task_for(protocol).measure_one
    with pytest.raises(KeyboardInterrupt):
        measure(encoder, protocol, options, interrupt_at_the_fifth_image)
    change_image_unnoticed(root)
    steps: list[Progress] = []
    resumed = measure(encoder, protocol, options, steps.append)
    assert "resumed: 2 of 6 images were measured already" in [step.note for step in steps]
    expected = measure(encoder, protocol, options_for(root))
    assert resumed.hashes == expected.hashes
    assert resumed.metrics == expected.metrics
