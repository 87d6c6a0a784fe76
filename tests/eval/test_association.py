"""Cues with candidate images: WinoGAViL's files from a hub, users' own, and Jaccard indices."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image
from support.hub import COMMIT, Hub
from support.shards import encoded

from cosmos_eval.protocols import find_known
from cosmos_eval.stats.choices import jaccard_indices
from cosmos_eval.tasks import association, find_protocol
from cosmos_eval.types import AssociationProtocol, RunOptions, UsageError

MODEL = f"python:{Path(__file__).parents[2] / 'examples/own_model.py'}"
WINOGAVIL = "datasets/nlphuji/winogavil"
IMAGES = {"r": "red", "g": "lime", "b": "blue", "r2": "red", "g2": "lime", "b2": "blue"}
FIVE = ["r", "g", "b", "g2", "b2"]
ITEMS: list[Any] = [  # cue, candidates, associations
    ("red apple", FIVE, ["r", "g2"]),
    ("Green", FIVE, ["g", "g2"]),
    ("blue", list(IMAGES), ["b", "b2"]),
    ("blue", [*FIVE, *FIVE], ["b", "b2", "g"]),
    ("green", [*IMAGES, *IMAGES], ["g", "g2"]),
]


def table(items: list[Any]) -> str:
    """A list with the columns of winogavil_dataset.csv."""
    out = io.StringIO()
    rows = csv.writer(out)
    rows.writerow(["", "candidates", "cue", "associations", "num_candidates", "ID"])
    for i, (cue, candidates, right) in enumerate(items):
        rows.writerow([i, json.dumps(candidates), cue, json.dumps(right), len(candidates), i])
    return out.getvalue()


def zipped(names: dict[str, str], folder: str) -> bytes:
    data = io.BytesIO()
    with ZipFile(data, "w") as archive:
        archive.writestr(f"{folder}/", b"")
        for name, colour in names.items():
            image = encoded(Image.new("RGB", (8, 6), colour), "PNG")
            archive.writestr(f"{folder}/{name}", image)
    return data.getvalue()


@pytest.fixture
def winogavil(hub: Hub) -> Hub:
    files = {f"{name}.jpg": colour for name, colour in IMAGES.items()}
    hub.files |= {
        f"{WINOGAVIL}/winogavil_dataset.csv": table(ITEMS).encode(),
        f"{WINOGAVIL}/winogavil_images.zip": zipped(files, "winogavil_images"),
        f"{WINOGAVIL}/README.md": b"not needed",
    }
    return hub


def measured(encoder: Any) -> Any:
    protocol = find_known("wds/misc/winogavil", "datacomp")
    association.TASK.fetch(protocol, RunOptions())
    return association.TASK.measure_one(encoder, protocol, RunOptions(allow_partial=True))


def test_winogavil_solved_by_hand(winogavil: Hub, colour_encoder: Any) -> None:
    measurement = measured(colour_encoder)
    # Red: one of two, since among equal scores a wrong image comes first; then all, and all; of six
    # right ones the four that are blue, and two wrong ones before the green; and all.
    expected = [1 / 3, 1, 1, 4 / 8, 1]
    assert measurement.samples["jaccard"].tolist() == pytest.approx(expected)
    assert measurement.samples["candidates"].tolist() == [5, 5, 6, 10, 12]
    clusters = measurement.samples["cluster"]
    assert clusters[0] == clusters[1]
    assert len(set(clusters.tolist())) == 4
    means = {"jaccard": 23 / 30, "jaccard_5-6": 7 / 9, "jaccard_10-12": 3 / 4}
    assert measurement.metrics == pytest.approx(means)
    assert measurement.intervals["jaccard"].method == "cluster bootstrap"
    with pytest.raises(UsageError, match="has 5 of 3563 items of wds/misc/winogavil"):
        association.TASK.open_data(find_known("wds/misc/winogavil"), RunOptions())


def test_a_repository_without_images_is_one_line(hub: Hub, colour_encoder: Any) -> None:
    hub.files[f"{WINOGAVIL}/winogavil_dataset.csv"] = table(ITEMS).encode()
    with pytest.raises(UsageError, match=r"lacks winogavil_images.zip: --download fetches"):
        measured(colour_encoder)


def test_prompts_are_datacomps(winogavil: Hub, colour_encoder: Any) -> None:
    winogavil.files[f"{WINOGAVIL}/winogavil_dataset.csv"] = table(
        [("Orange", FIVE, ["r"]), ("red", FIVE, ["r"])]
    ).encode()
    measured(colour_encoder)
    protocol = find_known("wds/misc/winogavil", "datacomp")
    data = association.TASK.open_data(protocol, RunOptions(allow_partial=True))
    assert data.captions == ("An orange", "A red")


def test_a_run_is_verified_compared_and_listed(winogavil: Hub, command: Any) -> None:
    run = ("run", "--dataset", "wds/misc/winogavil", "--model", MODEL, "--partial", "--json")
    assert "winogavil is not, or not completely, in" in command(*run).err
    (row,) = json.loads(command(*run, "--download").out)
    assert row["provenance"]["revision"] == COMMIT
    got = {request.split("/")[-1] for request in winogavil.requests if "GET" in request}
    assert got == {"winogavil_dataset.csv", "winogavil_images.zip"}
    assert "1 verified" in command("verify").out
    listed = command("leaderboard", "--format", "md").out
    assert listed.index("Jaccard of 10 or 12") < listed.index("Jaccard |")
    assert command("data", "doctor", "wds/misc/winogavil", "--json").status == 1


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([["red", FIVE, ["x"]]], "line 2: none of `associations` is among the candidates"),
        ([["", FIVE, ["r"]]], "line 2: `cue` must be text, not ''"),
        ([["red", "r, g", ["r"]]], "line 2: `candidates` must be a list of names"),
        ([["red", [*FIVE, "x", "y"], ["r"]]], r"2 of the 7 images of .* first: .*images/x.png"),
        ([], "holds no items"),
    ],
)
def test_bad_lists(items, message, tmp_path, save_colour):
    for name in FIVE:
        save_colour(tmp_path / f"images/{name}.png", "red")
    (tmp_path / "items.csv").write_text(table(items))
    text = "kind: assoc\nimages: images\nannotations: items.csv\nimage_suffix: .png\n"
    (tmp_path / "mine.yaml").write_text(text)
    protocol = find_protocol(str(tmp_path / "mine.yaml"))
    assert isinstance(protocol, AssociationProtocol)
    with pytest.raises(UsageError, match=message) as raised:
        association.TASK.open_data(protocol, RunOptions())
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("damage", ["no zip", "cut", "flipped"])
def test_damaged_zip_files(damage, tmp_path, colour_encoder):
    content = zipped({f"{name}.png": "red" for name in FIVE}, "any")
    middle = content.index(b"IDAT")
    flipped = content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]
    damaged = {"no zip": b"no zip", "cut": content[:-30], "flipped": flipped}[damage]
    (tmp_path / "images.zip").write_bytes(damaged)
    (tmp_path / "items.csv").write_text(table([["red", FIVE, ["r"]]]))
    protocol = AssociationProtocol(
        **{
            "dataset": "mine",
            "protocol_name": "user",
            "root": str(tmp_path),
            "image_suffix": ".png",
        },
        images="images.zip",
        annotations="items.csv",
    )
    with pytest.raises(UsageError, match=r"cannot read .*images.zip.*; fetch it again"):
        association.TASK.measure_one(colour_encoder, protocol, RunOptions())


@pytest.mark.parametrize("name", ["flickr_1k", "mscoco_2014_5k"])
def test_retrieval_sets_of_datacomp(name: str, hub: Hub, command: Any) -> None:
    dataset = f"wds/retrieval/{name}_test_image_text_retrieval"
    protocol = find_known(dataset)
    rows = [
        ("filename", "raw", "split", "sentids"),
        ("1.png", json.dumps(["a red one", "all of it, is red"]), "test", "[0, 1]"),
        ("2.png", json.dumps(['a "small" blue one']), "test", "[2]"),
    ]
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    hub.files |= {
        f"datasets/{protocol.repository}/{protocol.annotations}": out.getvalue().encode(),
        f"datasets/{protocol.repository}/{protocol.images}": zipped(
            {"1.png": "red", "2.png": "blue", "._1.png": "lime"}, "images"
        ),
    }
    run = ("run", "--dataset", dataset, "--model", MODEL, "--json", "--download")
    assert f"has 2 of {protocol.n_images} images" in " ".join(command(*run).err.split())
    (row,) = json.loads(command(*run, "--partial").out)
    assert (row["protocol"], row["n_samples"]) == ("datacomp", 2)
    assert row["metrics"]["image_to_text_R@1"] == row["metrics"]["text_to_image_R@1"] == 1


def test_jaccard_indices_are_scikit_learns() -> None:
    from sklearn.metrics import jaccard_score

    rng = np.random.default_rng(0)
    scores = rng.permutation(600).reshape(20, 30).astype(np.float32)
    cues = rng.integers(30, size=50)
    candidates = [rng.permutation(20)[:size] for size in rng.choice([5, 6, 10, 12], 50)]
    right = [
        rng.permutation(np.arange(len(images)) < 1 + len(images) // 3) for images in candidates
    ]
    items = [*zip(cues, candidates, right, strict=True)]
    indices = jaccard_indices(lambda images, texts: scores[images, texts], items)
    for cue, images, is_right, index in zip(cues, candidates, right, indices, strict=True):
        best = np.argsort(scores[images, cue])[-is_right.sum() :]
        assert index == jaccard_score(is_right, np.isin(np.arange(len(images)), best))
