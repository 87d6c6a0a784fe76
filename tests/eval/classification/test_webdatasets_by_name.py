"""Webdatasets of the hub by name: the client as it is, against a hub on this machine."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from support.hub import COMMIT, Hub
from support.webdatasets import padded, put, refused, shard

from cosmos_eval.data.classification import open_data
from cosmos_eval.protocols import find_known, protocols_of_dataset, webdatasets
from cosmos_eval.types import ClassificationProtocol, RetrievalProtocol, RunOptions, UsageError

MODEL = f"python:{Path(__file__).parents[3] / 'examples/own_model.py'}"
STL10 = "datasets/clip-benchmark/wds_stl10"
PETS = "datasets/djghosh/wds_vtab-pets_test"
FLICKR = "datasets/clip-benchmark/wds_flickr8k"
RUN = ("run", "--dataset", "wds/stl10", "--model", MODEL, "--json")


COLOURS = shard(("red", "0"), ("lime", "1")), shard(("red", "0"), ("red", "2"))
"""Of four images one is not of its class, which is all that its class has."""


@pytest.fixture
def stl10(hub: Hub) -> Hub:
    put(hub, STL10, "red\ngreen\nblue\n", *COLOURS)
    return hub


def test_a_set_is_fetched_once_measured_and_then_read_from_the_cache(
    stl10: Hub, command: Callable[..., Any]
) -> None:
    refused(command(*RUN), "clip-benchmark/wds_stl10 is not", "--download fetches it")
    assert stl10.requests == []
    (row,) = json.loads(command(*RUN, "--download").out)
    assert row["metrics"]["acc1"] == 3 / 4
    assert row["metrics"]["mean_per_class_recall"] == pytest.approx(2 / 3)
    assert row["per_class"]["blue"] == {"recall": 0.0, "images": 1}
    assert row["protocol"] == "clip-benchmark"
    provenance = row["provenance"]
    assert provenance["repository"] == "clip-benchmark/wds_stl10"
    assert provenance["revision"] == COMMIT
    got = sorted(request.split("/")[-1] for request in stl10.requests if "GET" in request)
    templates = "zeroshot_classification_templates.txt"
    assert got == ["0.tar", "1.tar", "classnames.txt", "nshards.txt", templates]
    stl10.requests.clear()
    (again,) = json.loads(command(*RUN, "--output", "again").out)
    assert again["metrics"] == row["metrics"]
    assert stl10.requests == []


def test_datacomps_set_has_its_size_and_shows_its_metric(
    hub: Hub, command: Callable[..., Any]
) -> None:
    put(hub, PETS, padded(["red", "green", "blue"], 37), *COLOURS)
    run = ("run", "--dataset", "wds/vtab/pets", "--protocol", "datacomp", "--model", MODEL)
    run += ("--download",)
    refused(command(*run), "has 4 of 3669 images of wds/vtab/pets", "--partial")
    completed = command(*run, "--partial")
    assert completed.status == 0, completed
    assert completed.out.index("mean_per_class_recall") < completed.out.index("acc1")
    assert "66.7" in completed.out
    put(hub, PETS, "red\ngreen\nblue\n", *COLOURS)
    (Path(huggingface_hub.constants.HF_HUB_CACHE)).rename("old")
    refused(command(*run, "--partial"), "has 3 classes, not the 37")


def test_a_retrieval_set(hub: Hub, command: Callable[..., Any]) -> None:
    hub.files |= {
        f"{FLICKR}/dataset_type.txt": b"retrieval\n",
        f"{FLICKR}/test/nshards.txt": b"1\n",
        f"{FLICKR}/test/0.tar": shard(("red", "red\na red one"), ("blue", "blue"), text="txt"),
    }
    run = ("run", "--dataset", "wds/flickr8k", "--model", MODEL, "--json")
    refused(command(*run), "wds/flickr8k", "--download fetches it")
    (row,) = json.loads(command(*run, "--download").out)
    assert (row["task"], row["n_samples"]) == ("retrieval", 2)
    assert row["metrics"]["image_to_text_R@1"] == row["metrics"]["text_to_image_R@1"] == 1
    assert row["provenance"]["revision"] == COMMIT


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("test/1.tar", COLOURS[1][:700], ("1.tar", "cut off")),
        ("test/1.tar", b"no tar" * 200, ("1.tar",)),
        ("test/1.tar", None, ("lists 2 archives in test/nshards.txt, and lacks 1.tar",)),
        ("classnames.txt", None, ("cannot read", "classnames.txt", "CLIP Benchmark's layout")),
        ("test/nshards.txt", None, ("cannot read", "nshards.txt")),
        ("test/nshards.txt", b"many", ("nshards.txt must hold the number of archives",)),
    ],
)
def test_a_fault_of_a_repository_is_named_in_one_line(
    file: str, content: bytes | None, expected: tuple[str, ...], stl10: Hub, command: Any
) -> None:
    stl10.files.pop(f"{STL10}/{file}")
    if content is not None:
        stl10.files[f"{STL10}/{file}"] = content
    refused(command(*RUN, "--download"), *expected)


def test_a_revision_is_recorded_and_faults_are_one_line(
    stl10: Hub, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stl10.tags.append("v1")
    (result,) = json.loads(command(*RUN[:2], "wds/stl10@v1", *RUN[3:], "--download").out)
    assert (result["dataset"], result["provenance"]["revision"]) == ("wds/stl10@v1", COMMIT)
    refused(command(*RUN[:2], "wds/stl1", *RUN[3:]), "unknown data set", "wds/stl10")
    refused(command(*RUN[:2], "food101@v1", *RUN[3:]), "unknown data set 'food101@v1'")
    refused(command(*RUN[:2], "wds/stl10@", *RUN[3:]), "unknown data set 'wds/stl10@'")
    refused(command(*RUN[:2], "wds/stl10@v2", *RUN[3:], "--download"), "has no such revision of it")
    refused(command(*RUN[:2], "wds/mnist", *RUN[3:], "--download"), "has no such repository")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    refused(command(*RUN[:2], "wds/mnist", *RUN[3:], "--download"), "unset HF_HUB_OFFLINE")


def test_an_interrupted_download_goes_on_and_a_damaged_file_is_named(
    stl10: Hub, command: Any
) -> None:
    stl10.trouble[f"{STL10}/test/1.tar"] = 503
    refused(command(*RUN, "--download"), "cannot fetch clip-benchmark/wds_stl10", "status 503")
    refused(command(*RUN), "--download fetches")
    stl10.trouble.clear()
    stl10.requests.clear()
    assert command(*RUN, "--download").status == 0
    assert [r.split("/")[-1] for r in stl10.requests if "GET" in r] == ["1.tar"]
    (path,) = Path(huggingface_hub.constants.HF_HUB_CACHE).glob("*/snapshots/*/test/0.tar")
    content = path.read_bytes()
    path.resolve().write_bytes(content.replace(b"s0000000", b"s0000009"))
    refused(command(*RUN, "--download"), "0.tar is damaged, its SHA-256", "--download again")
    path.resolve().unlink()
    path.unlink()
    assert command(*RUN, "--download").status == 0


def test_the_doctor_and_a_dry_run_make_no_request(stl10: Hub, command: Any) -> None:
    doctor = ("data", "doctor", "wds/stl10", "--json")
    completed = command(*doctor, "wds/flickr8k")
    assert completed.status == 1
    for report in json.loads(completed.out):
        options = f"--dataset {report['dataset']} --protocol clip-benchmark"
        assert report["remedy"] == f"cosmos-eval run {options} --download"
    (plan,) = json.loads(command(*RUN, "--dry-run").out)
    assert (plan["data"], plan["data_state"]) == (STL10[9:], "not in the hub's cache")
    assert stl10.requests == []
    assert command(*RUN, "--download").status == 0
    stl10.requests.clear()
    (report,) = json.loads(command(*doctor).out)
    assert (report["whole"], report["images"]) == (True, 4)
    (plan,) = json.loads(command(*RUN, "--dry-run").out)
    assert plan["data_state"] == "there"
    assert stl10.requests == []


def test_a_class_may_have_no_name_if_the_number_of_classes_is_known(hub: Hub) -> None:
    """CLIP Benchmark's list of names of CLEVR's distances has a blank line."""
    folder = Path(huggingface_hub.constants.HF_HUB_CACHE) / "set"
    (folder / "test").mkdir(parents=True)
    (folder / "classnames.txt").write_text("red\n\ngreen\n")
    (folder / "test/nshards.txt").write_text("1")
    (folder / "test/0.tar").write_bytes(shard(("lime", "2")))
    protocol = ClassificationProtocol(
        dataset="set",
        protocol_name="x",
        root=str(folder),
        folder=".",
        layout="webdataset",
        n_classes=3,
    )
    data = open_data(protocol, RunOptions())
    assert data.prompts == ("red", "", "green")
    assert data.classes == ("red", "(1)", "green")
    (folder / "classnames.txt").write_text("red\n\ngreen\nblue\n")
    with pytest.raises(UsageError, match="has a blank line"):
        open_data(protocol, RunOptions())


def test_the_known_sets_are_those_of_the_table() -> None:
    """Its names and repositories are those of the lists of CLIP Benchmark and DataComp."""
    table = files("cosmos_eval.protocols.facts").joinpath("webdatasets.csv").read_text("utf-8")
    rows = [*csv.DictReader(table.splitlines())]
    protocol_names = [row["protocol_name"] for row in rows]
    assert protocol_names.count("clip-benchmark") == 41
    assert protocol_names.count("datacomp") == 40
    protocols = webdatasets()
    assert {f"wds/{row['name']}" for row in rows} == protocols.keys()
    assert isinstance(protocols["wds/mscoco_captions"], RetrievalProtocol)
    assert [*protocols_of_dataset("wds/vtab/dtd")] == ["clip-benchmark", "datacomp"]
    assert [*protocols_of_dataset("wds/food101")] == ["datacomp"]
    assert find_known("wds/imagenet-a", "datacomp").repository == "djghosh/wds_imagenet-a_test"
    assert find_known("wds/vtab/dtd").repository == "clip-benchmark/wds_vtab-dtd"
    with pytest.raises(UsageError, match="has no protocol 'cosmos'"):
        find_known("wds/vtab/dtd", "cosmos")
