"""Samples that no measurement can give are refused by the reader, even if all hashes are right."""

import io
import zipfile
import zlib
from typing import Any

import numpy as np
import pytest
from support.forging import forge, forge_samples, packed
from support.results import SAMPLES, store_result

import cosmos_eval
from cosmos_eval.data.folders import fingerprint
from cosmos_eval.results.store import read_samples
from cosmos_eval.results.verify import verify
from cosmos_eval.tasks import TASKS, task_named
from cosmos_eval.tasks.task import NAME
from cosmos_eval.types import UsageError

HUGE = 10**10  # an index that np.bincount would make 80 GiB of


def changed(task: str, name: str, place: Any, value: Any) -> dict[str, Any]:
    """The task's samples with one other value, in an array that can hold it."""
    array = SAMPLES[task][name]
    needs_float = isinstance(value, float) and array.dtype.kind != "f"
    copy = array.astype(np.float64 if needs_float else array.dtype).copy()
    if isinstance(value, int) and array.dtype.kind in "iu":
        copy = copy.astype(np.int64)
    copy[place] = value
    return {**SAMPLES[task], name: copy}


# Three images and five texts; three classes; two subsets; three names and nine pairs of them.
IMPOSSIBLE = [
    ("retrieval", "image_to_text_rank", 0, 0, "holds 0, and its values are 1 to 5"),
    ("retrieval", "image_to_text_rank", 0, 6, "holds 6, and its values are 1 to 5"),
    ("retrieval", "text_to_image_rank", 0, 4, "holds 4, and its values are 1 to 3"),
    ("retrieval", "text_to_image_rank", 0, float("nan"), "holds float64, not whole numbers"),
    ("retrieval", "text_to_image_rank", 0, 1.5, "holds float64, not whole numbers"),
    ("retrieval", "image_of_text", 0, 3, "holds 3, and its values are 0 to 2"),
    ("retrieval", "image_of_text", 0, HUGE, "holds 10000000000, and its values are 0 to 2"),
    ("retrieval", "image_of_text", 2, 0, "image 1 has no text in `image_of_text`"),
    ("cls", "labels", 0, HUGE, "holds 10000000000, and its values are 0 to 2"),
    ("cls", "labels", 0, -1, "holds -1, and its values are 0 to 2"),
    ("cls", "top5", (0, 1), 3, "holds 3, and its values are -1 to 2"),
    ("cls", "top5", (0, 0), -1, "has an image without a first prediction"),
    ("cls", "confidence", 0, 1.5, "holds 1.5, and its values are 0 to 1"),
    ("multilabel", "scores", (0, 0), -1.5, "holds -1.5, and its values are -1 to 1"),
    ("multilabel", "scores", (0, 0), float("nan"), "holds nan, and its values are -1 to 1"),
    ("faces", "labels", (0, 0), 3, "holds 3 for age, of 3"),
    ("faces", "labels", (0, 3), 2, "holds 2 for race_binary, of 2"),
    ("faces", "predicted", (0, 3), 19, "holds 19 for toxic, of 19"),
    ("seg", "pair", 0, 9, "holds 9, and 3 classes have 9"),
    ("seg", "pair", 0, -1, "holds -1, and its values are 0 or more"),
    ("seg", "image", 0, HUGE, "holds 10000000000, and its values are 0 to 1"),
    ("seg", "pixels", 0, -5, "holds -5, and its values are 0 to"),
    ("select", "subset", 0, HUGE, "holds 10000000000, and its values are 0 to 1"),
    ("loc", "mass", 0, 1.25, "holds 1.25, and its values are 0 to 1"),
    ("loc", "auc", 0, float("nan"), "holds nan, and its values are 0 to 1"),
    ("loc", "class", 0, HUGE, "holds 10000000000, and its values are 0 to 2"),
    ("loc", "thing_pixels", 0, 90, "holds more than `labelled_pixels` of its image"),
    ("assoc", "jaccard", 0, 1.25, "holds 1.25, and its values are 0 to 1"),
    ("ratings", "clip_score", 0, 2.75, "holds 2.75, and its values are 0 to 2.5"),
    ("ratings", "variant", 0, "a", "must be b or c"),
    ("assoc", "candidates", 0, 0, "holds 0, and its values are 1 or more"),
    ("ood", "mcm", 0, 1.25, "holds 1.25, and its values are 0 to 1"),
    ("ood", "max_logit", 0, -2, "holds -2.0, and its values are -1 to 1"),
    ("boxes", "area", 0, 1.5, "holds 1.5, and its values are 0 to 1"),
    ("boxes", "labels", 0, 3, "holds 3, and its values are 0 to 2"),
    ("boxes", "top5", (0, 0), -1, "has an image without a first prediction"),
    ("probe", "linear", 0, HUGE, "holds 10000000000, and its values are 0 to 2"),
    ("probe", "shots", 0, 4, "holds a number twice"),
    ("seg-probe", "pair", 0, 9, "holds 9, and 3 classes have 9"),
    ("depth-probe", "rmse", 0, -0.5, "holds -0.5, and its values are 0 or more"),
    ("depth-probe", "rmse", 0, float("nan"), "lacks the number of an image with `pixels`"),
    ("depth-probe", "delta1", 1, 1.25, "holds 1.25, and its values are 0 to 1"),
]


@pytest.mark.parametrize(("task", "name", "place", "value", "fault"), IMPOSSIBLE)
def test_a_value_that_no_measurement_gives(tmp_path, task, name, place, value, fault):
    path = store_result(tmp_path, task)
    forge(path, packed(changed(task, name, place, value)))
    (line,) = verify(path).differences
    assert line.startswith("impossible samples: ")
    assert fault in line
    with pytest.raises(UsageError, match="holds no samples of task"):
        read_samples(path)


@pytest.mark.parametrize("name", ["chance", "shorter", "text_to_text_chance"])
def test_chances_are_shares(tmp_path, name):
    path = store_result(tmp_path, "select")
    forge(path, packed({**SAMPLES["select"], name: np.array([0.5, 0.5, 1.25, 0])}))
    (line,) = verify(path).differences
    assert f"`{name}` holds 1.25, and its values are 0 to 1" in line


@pytest.mark.parametrize("task", TASKS)
def test_all_arrays_are_declared_and_needed(tmp_path, task):
    declared = {array.name: array for array in task_named(task).arrays}
    assert SAMPLES[task].keys() <= declared.keys()
    path = store_result(tmp_path, task)
    for name in (n for n in SAMPLES[task] if not declared[n].optional):
        forge(path, packed({n: array for n, array in SAMPLES[task].items() if n != name}))
        assert f"there is no array `{name}`" in verify(path).differences[0]


NAMED = {"labels": np.array([0, 1]), "top5": np.array([[0, 1], [1, 0]]), "classes": ["a", "b"]}
IMAGES = ["one.png", "two.png"]


@pytest.mark.parametrize(
    ("names", "version", "fault"),
    [
        (IMAGES, "1.0.0", ""),
        (["one.png", "other.png"], "1.0.0", "the hash of `name` is not the recorded one"),
        (None, "1.0.0", "there is no array `name`, though the list of samples was hashed"),
        (None, "0.1.0", ""),  # which stored no names
    ],
)
def test_names_are_there_and_those_that_were_hashed(tmp_path, names, version, fault):
    samples = {name: np.array(array) for name, array in NAMED.items()}
    provenance = {"version": version, "hashes": {"sample_list": fingerprint(IMAGES)}}
    if names is not None:
        samples[NAME] = np.array(names)
    verdict = verify(store_result(tmp_path, "cls", samples, provenance=provenance))
    assert verdict.outcome == ("differs" if fault else "verified")
    assert fault in "".join(verdict.differences)


def test_more_than_memory_holds_is_refused(tmp_path):
    """Each file is smaller than a megabyte, and each figure of it would take gigabytes."""
    many = np.zeros(5_000_000, np.int8)
    large = {
        "cls": {**SAMPLES["cls"], "labels": many, "top5": many[:, None], "confidence": many},
        "seg": {
            **SAMPLES["seg"],
            "name": np.full(2_000_000, "a"),
            "classes": np.full(200, "b"),
            "members": np.zeros((1, 200), bool),
        },
    }
    for task, samples in large.items():
        path = store_result(tmp_path, task)
        forge(path, packed(samples))
        assert max(file.stat().st_size for file in tmp_path.glob("*.npz")) < 1 << 20
        (line,) = verify(path).differences
        assert "more than can be read" in line


def npy_of(shape: tuple[int, ...]) -> bytes:
    """An .npy file whose header states a shape, and whose content is eight bytes."""
    content = io.BytesIO()
    header = {"descr": "<i8", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(content, header)
    return content.getvalue() + bytes(8)


def test_headers_that_state_more_than_follows_allocate_nothing(tmp_path):
    path = store_result(tmp_path, "cls")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("labels.npy", npy_of((HUGE,)))
    forge(path, archive.getvalue())
    assert "labels.npy has 136 bytes, not 80,000,000,128" in verify(path).obstacle


def bomb(mebibytes: int) -> bytes:
    """A ZIP archive of so many MiB of zeros: the same packed MiB again and again."""
    packer = zlib.compressobj(wbits=-15)
    packed_mebibyte = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("labels.npy", packed_mebibyte * mebibytes + packer.flush())
        (member,) = members.infolist()
        member.compress_type, member.file_size = zipfile.ZIP_DEFLATED, mebibytes << 20
    return archive.getvalue()


def test_a_bomb_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(io.BytesIO(bomb(2))) as members, members.open("labels.npy") as file:
        assert file.read((2 << 20) - 1) == bytes((2 << 20) - 1)
    path = store_result(tmp_path, "cls")
    archive = bomb(1100)
    assert len(archive) < 8 << 20
    forge(path, archive)
    assert "unpacked it has 1,100 MiB, more than 1,024" in verify(path).obstacle


def test_every_reader_refuses_them(tmp_path, command):
    path = store_result(tmp_path / "r", "cls")
    other = store_result(tmp_path / "r", "cls", model={"spec": "scenes-clip"})
    forge(path, packed(changed("cls", "labels", 0, HUGE)))
    with pytest.raises(UsageError, match="`labels` holds 10000000000"):
        cosmos_eval.load_samples(path)
    for words in (("compare", path, other), ("check", path, "--baseline", "b.json")):
        ended = command(*words)
        assert ended.status == 2
    assert "scenes-cosmos (edited samples)" in command("leaderboard", path.parent).out


def test_samples_that_are_possible_and_forged_pass(tmp_path):
    """As docs/results.md says, only a new evaluation finds these."""
    path = store_result(tmp_path, "cls")
    forge_samples(path, changed("cls", "labels", 1, 1))
    assert verify(path).outcome == "verified"
