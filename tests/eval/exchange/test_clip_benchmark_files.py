"""CLIP Benchmark's JSON files and tables: those that it wrote are read, and it reads ours."""

from __future__ import annotations

import csv
import gc
import json
import math
import sys
import warnings
from contextlib import contextmanager

import pytest
from support.exchange import (
    CLIP_BENCHMARK,
    CLIP_BENCHMARK_TABLE,
    FILES,
    by_dataset,
    cells,
    made_up,
    read,
)
from support.results import store_result

from cosmos_eval.results.exchange.clip_benchmark import FORMAT
from cosmos_eval.results.exchange.places import find_results

# Copied by hand from the files, with the directions as zeroshot_retrieval.py computes them: its
# image_retrieval_recall ranks images for a text.
EXPECTED = {
    "wds/imagenet1k": {
        "acc1": 0.15,
        "acc5": 0.35,
        "mean_per_class_recall": 0.14583333333333334,
    },
    "wds/mscoco_captions": {
        "text_to_image_R@1": 0.10000000149011612,
        "image_to_text_R@1": 0.05000000074505806,
        "text_to_image_R@5": 0.30000001192092896,
        "image_to_text_R@5": 0.20000000298023224,
        "text_to_image_R@10": 0.550000011920929,
        "image_to_text_R@10": 0.3499999940395355,
    },
    "wds/voc2007_multilabel": {"mAP": 0.5727972984313965},
    "wds/vtab/pcam": {  # of two classes, for which its acc5 is NaN
        "acc1": 0.43333333333333335,
        "mean_per_class_recall": 0.43333333333333335,
    },
}
RETRIEVAL = {
    "task": "retrieval",
    "dataset": "coco-karpathy",
    "protocol": "karpathy",
    "metrics": {"image_to_text_R@5": 0.5, "text_to_image_R@5": 0.25, "text_to_image_mean_rank": 9},
}
CARS = {
    "dataset": "stanford_cars",
    "protocol": "clip-benchmark",
    "metrics": {"acc1": 0.1 + 0.2, "acc5": 1.0, "acc1_old": 0.25, "ece": 0.125},
    "model": {"spec": "openclip:ViT-B-32/openai"},
}
SCENES = {"metrics": {"acc1": 0.25}}


@contextmanager
def quietly():
    """It leaves files to the garbage collector, and its libraries warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
        gc.collect()


@pytest.fixture
def record():
    path = CLIP_BENCHMARK / "imagenet1k_tiny.pt_tiny_en_zeroshot_classification.json"
    return json.loads(path.read_text())


def test_its_json_files_are_read():
    results = []
    for path in CLIP_BENCHMARK.iterdir():
        content = read("clip-benchmark", path)
        assert (content.unread, content.unknown_datasets) == ([], [])
        results += content.results
    assert by_dataset(results) == EXPECTED
    assert {result.model for result in results} == {"openclip:tiny/data/tiny.pt"}
    assert {result.protocol for result in results} == {"clip-benchmark"}
    tasks = {result.dataset: result.task for result in results}
    assert tasks == {
        "wds/imagenet1k": "cls",
        "wds/mscoco_captions": "retrieval",
        "wds/voc2007_multilabel": "multilabel",
        "wds/vtab/pcam": "cls",
    }


def test_its_table_has_what_its_json_files_have():
    content = read("clip-benchmark", CLIP_BENCHMARK_TABLE)
    assert by_dataset(content.results) == EXPECTED
    assert (content.unread, content.unknown_datasets) == ([], [])


def test_its_published_table_of_an_earlier_version_is_read():
    """Without a column of the language, and with names of data sets of other layouts."""
    content = read("clip-benchmark", FILES / "clip_benchmark_published.csv")
    metrics = by_dataset(content.results)
    assert metrics["stanford_cars"]["acc1"] == 0.5940803382663847
    assert metrics["imagenet-sketch"]["acc1"] == 0.4230383776454636
    assert metrics["flickr30k-karpathy"] == {
        "text_to_image_R@5": 0.8338000178337097,
        "image_to_text_R@5": 0.9490000009536744,
    }
    protocols = {result.dataset: result.protocol for result in content.results}
    assert protocols["flickr30k-karpathy"] == "karpathy"
    assert protocols["imagenet1k"] == "clip-benchmark"
    assert {result.model for result in content.results} == {"openclip:ViT-B-32/openai"}
    # Under these names it has torchvision's and TensorFlow's layouts, which are not measured here.
    assert content.unknown_datasets == ["voc2007_multilabel", "vtab/pcam", "vtab/dtd"]
    assert metrics["vtab/pcam"].keys() == {"acc1", "mean_per_class_recall"}


def test_what_it_does_not_write_is_named_and_the_rest_is_read(record, tmp_path):
    record["when"] = "today"
    record["dataset"] = "birds"
    record["metrics"] |= {"acc1": 15.0, "epochs": 10, "report": "good"}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(record))
    content = read("clip-benchmark", path)
    (result,) = content.results
    assert (result.dataset, result.protocol) == ("birds", "clip-benchmark")
    assert result.metrics.keys() == {"acc5", "mean_per_class_recall"}
    assert content.unread == [
        "when",
        "acc1 (15.0 is not a fraction, which is from 0 to 1)",
        "epochs (10.0 is not a fraction, which is from 0 to 1)",
        "report (not a number)",
    ]
    assert content.unknown_datasets == ["birds"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        # Of SugarCrepe's single images, only whether the first text is nearer says something.
        (
            {
                "task": "image_caption_selection",
                "dataset": "sugar_crepe/swap_obj",
                "metrics": {"acc": 0.5, "text_acc": 0.5, "image_acc": 1.0},
            },
            ("select", "sugar_crepe/swap_obj", "clip-benchmark", {"accuracy": 0.5}),
        ),
        (
            {
                "task": "image_caption_selection",
                "dataset": "winoground",
                "metrics": {"acc": 0.25, "text_acc": 0.5, "image_acc": 0.375},
            },
            (
                *("select", "winoground", "winoground"),
                {"group_score": 0.25, "text_score": 0.5, "image_score": 0.375},
            ),
        ),
        (
            {"task": "linear_probe", "dataset": "cars", "metrics": {"lp_acc1": 0.5, "seed": 0}},
            ("probe", "stanford_cars", "clip-benchmark-linear_probe", {"linear_acc1": 0.5}),
        ),
        (
            {
                "task": "captioning",
                "dataset": "flickr8k",
                "metrics": {"CIDEr": 1.5, "SPICE": math.inf},
            },
            ("captioning", "flickr8k", "clip-benchmark-captioning", {"CIDEr": 1.5}),
        ),
        (
            {"language": "fr", "dataset": "imagenet1k", "pretrained": None, "model": "x"},
            ("cls", "imagenet1k (fr)", "clip-benchmark", EXPECTED["wds/imagenet1k"]),
        ),
    ],
)
def test_other_tasks_and_languages(record, tmp_path, fields, expected):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(record | fields))
    (result,) = read("clip-benchmark", path).results
    assert (result.task, result.dataset, result.protocol, result.metrics) == expected


@pytest.mark.parametrize("output", ["table.csv", "folder"])
def test_what_is_written_is_read_again(tmp_path, output):
    results = made_up(RETRIEVAL, CARS, SCENES)
    written = FORMAT.write(results, tmp_path / output)
    assert written.notes == []
    files = find_results([tmp_path / output])
    assert files.notes == []
    assert {result.cell: result.metrics for result in files.imported} == cells(results)


def test_a_file_has_its_keys_and_names(tmp_path, record):
    FORMAT.write(made_up(CARS), tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.name == "cars_openai_ViT-B-32_en_zeroshot_classification_clip-benchmark.json"
    written = json.loads(path.read_text())
    assert written.keys() == {*record, "protocol"}
    assert (written["dataset"], written["model"], written["pretrained"]) == (
        "cars",
        "ViT-B-32",
        "openai",
    )


def test_results_of_other_tasks_are_counted(tmp_path):
    labels = {"task": "seg", "dataset": "scenes-seg", "metrics": {"mIoU": 0.5}}
    written = FORMAT.write(made_up(SCENES, labels), tmp_path)
    (note,) = written.notes
    assert note == (
        "results not written for CLIP Benchmark: 1, of other tasks: scenes-seg (scenes)"
    )


def test_its_build_makes_the_same_table_of_our_files(tmp_path, monkeypatch, capsys):
    from clip_benchmark.cli import main

    results = made_up(RETRIEVAL, CARS, SCENES)
    FORMAT.write(results, tmp_path / "files")
    FORMAT.write(results, tmp_path / "ours.csv")
    table = tmp_path / "theirs.csv"
    arguments = ["clip_benchmark", "build", str(tmp_path / "files"), "--output", str(table)]
    monkeypatch.setattr(sys, "argv", arguments)
    with quietly():
        main()
    tables = []
    for path in (tmp_path / "ours.csv", table):
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        # As numbers: pandas writes 9 of a column with gaps as 9.0.
        tables.append({row["dataset"]: _numbers(row) for row in rows})
    assert tables[0] == tables[1]
    assert {result.cell: result.metrics for result in find_results([table]).imported} == cells(
        results
    )


def _numbers(row):
    return {
        key: float(cell) if cell.strip(".0123456789") == "" and cell else cell
        for key, cell in row.items()
    }


def test_it_measures_what_is_measured_here(tmp_path, tiny_archs, monkeypatch, command):
    """Both directions of retrieval: the command `clip_benchmark eval` beside `cosmos-eval run`."""
    import numpy as np
    import torch
    from clip_benchmark.cli import main
    from PIL import Image
    from support.shards import encoded, tar_of

    rng = np.random.default_rng(0)
    members = []
    for i in range(12):
        image = Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8))
        members.append((f"s{i:07}.png", encoded(image, "PNG")))
        members.append((f"s{i:07}.txt", f"a photo of {i}\nnumber {i}, again".encode()))
    folder = tmp_path / "wds_numbers"
    (folder / "test").mkdir(parents=True)
    (folder / "test" / "0.tar").write_bytes(tar_of(members))
    (folder / "test" / "nshards.txt").write_text("1\n")
    (folder / "dataset_type.txt").write_text("retrieval\n")
    (tmp_path / "numbers.yaml").write_text("{kind: retrieval, archives: wds_numbers}")

    import open_clip

    torch.manual_seed(0)
    arch = tiny_archs["tiny"]
    checkpoint = tmp_path / "tiny.pt"
    torch.save(open_clip.create_model(arch).state_dict(), checkpoint)
    model = f"openclip:{arch}/{checkpoint}"
    ended = command("run", "--dataset", "numbers.yaml", "--model", model, "--output", "ours")
    assert ended.status == 0, ended.err

    arguments = ["clip_benchmark", "eval", "--dataset", "wds/numbers", "--dataset_root", folder]
    arguments += ["--task", "zeroshot_retrieval", "--model", arch, "--pretrained", checkpoint]
    arguments += ["--recall_k", 1, 5, 10, "--no_amp", "--num_workers", 0, "--quiet"]
    arguments += ["--output", tmp_path / "theirs.json"]
    monkeypatch.setattr(sys, "argv", [str(argument) for argument in arguments])
    with quietly():
        main()
    (theirs,) = find_results([tmp_path / "theirs.json"]).imported
    (ours,) = [json.loads(path.read_text()) for path in (tmp_path / "ours").glob("*.json")]
    assert len(theirs.metrics) == 6
    assert theirs.metrics == pytest.approx({name: ours["metrics"][name] for name in theirs.metrics})
    assert theirs.model == model
    assert theirs.metrics["image_to_text_R@5"] != theirs.metrics["text_to_image_R@5"]


def test_an_exported_result_of_samples_is_read_with_equal_metrics(tmp_path, command):
    for task in ("cls", "retrieval", "select", "multilabel", "probe"):
        store_result(tmp_path / "runs", task, dataset=f"scenes-{task}", protocol="scenes")
    ended = command("export", "runs", "--format", "clip-benchmark", "--output", "files")
    assert (ended.status, ended.err) == (0, "wrote files, 5 files\n")
    ours = find_results([tmp_path / "runs"])
    theirs = find_results([tmp_path / "files"])
    metrics = {result.dataset: result.metrics for result in theirs.imported}
    for path in ours.paths:
        record = json.loads(path.read_text())
        assert metrics[record["dataset"]] == record["metrics"]
