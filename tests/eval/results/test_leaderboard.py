"""Tables of results: hand-made entries, percent, one family a table."""

from __future__ import annotations

import csv
import io
import json

import pytest

from cosmos_eval.leaderboard import (
    Entry,
    boards,
    measured,
    published,
    to_csv,
    to_json,
    to_markdown,
    to_tables,
)
from cosmos_eval.types import UsageError

R1 = {"image_to_text_R@1": 0.5, "text_to_image_R@1": 0.25, "image_to_text_R@5": 0.9}


@pytest.fixture
def rows(make_row):
    retrieval = {"task": "retrieval", "dataset": "scenes-retrieval", "intervals": {}}
    clip = {"model": {"spec": "scenes-clip"}}
    return [
        make_row(),
        make_row(**retrieval, metrics=R1),
        make_row(**clip, metrics={"acc1": 0.6705, "acc5": 0.9}, intervals={}),
        make_row(**retrieval, **clip, metrics={**R1, "text_to_image_R@1": 0.125}),
        make_row(provenance={"limit": 10}, metrics={"acc1": 1.0}, intervals={}),
        make_row(dataset="imagenet1k", protocol="cosmos", metrics={"acc1": 0.5}, intervals={}),
    ]


def test_markdown(rows):
    assert to_markdown(measured(rows)) == (
        "### Protocol `cosmos` (%)\n"
        "\n"
        "| model | imagenet1k acc1 |\n"
        "| --- | --: |\n"
        "| scenes-cosmos | 50.0 |\n"
        "\n"
        "### Protocol `scenes` (%)\n"
        "\n"
        "| model | scenes-retrieval image to text R@1 | scenes-retrieval text to image R@1"
        " | scenes-cls acc1 |\n"
        "| --- | --: | --: | --: |\n"
        "| scenes-clip | **50.0** | 12.5 | **67.1** |\n"
        "| scenes-cosmos | **50.0** | **25.0** | 25.0 [12.5, 50.0] |\n"
        "| scenes-cosmos (first 10 only) |  |  | 100.0 |\n"
    )


def test_the_order_of_the_input_changes_nothing(rows):
    forms = (to_markdown, to_csv, to_json)
    once, again = measured(rows), measured(rows[::-1])
    assert [form(once) for form in forms] == [form(again) for form in forms]


def test_json_holds_fractions_and_the_documented_keys(rows):
    records = json.loads(to_json(measured(rows)))
    assert len(records) == 6
    keys = {"model", "task", "dataset", "protocol", "metrics", "intervals", "source"}
    assert all(set(record) == keys for record in records)
    (record,) = [r for r in records if r["dataset"] == "imagenet1k"]
    assert record["metrics"] == {"acc1": 0.5}
    assert record["source"] == "measured"


def test_csv_has_every_metric_and_its_interval(rows):
    lines = list(csv.DictReader(io.StringIO(to_csv(measured(rows[:1])))))
    assert [(line["metric"], line["value"], line["low"], line["high"]) for line in lines] == [
        ("acc1", "0.25", "0.125", "0.5"),
        ("acc5", "0.75", "", ""),
    ]


def test_terminal_tables(rows):
    tables = to_tables(measured(rows))
    assert [str(table.title) for table in tables] == ["Protocol cosmos (%)", "Protocol scenes (%)"]
    last = list(tables[1].columns[-1].cells)
    assert [str(cell).strip() for cell in last] == ["67.1", "25.0 [12.5, 50.0]", "100.0"]
    assert [bool(cell.spans) and "bold" in str(cell.spans[0].style) for cell in last] == [
        True,
        False,
        False,
    ]


def test_random_weights_and_variants_are_shown(make_row):
    model = {"random": True, "weights_sha256": None, "weights": None}
    row = make_row(model=model, provenance={"precision": "bf16", "attention": "vanilla"})
    (entry,) = measured([row])
    assert entry.model == "scenes-cosmos (random weights, vanilla, bf16)"


def test_two_results_for_one_cell(make_row):
    with pytest.raises(UsageError, match="two results of scenes-cosmos on scenes-cls"):
        measured([make_row(), make_row()])


def test_published_numbers_are_complete_and_well_formed():
    entries = published()
    # 10 checkpoints x 5, 6 segmentation sets, 8 models x 9, 8 sets each of SCLIP and NACLIP.
    assert sum(len(entry.metrics) for entry in entries) == 50 + 6 + 72 + 8 + 8
    community = {"karpathy", "clip-benchmark", "clip-benchmark-vtab"}
    assert {entry.protocol for entry in entries} == {"cosmos", *community, "sclip", "naclip"}
    for entry in entries:
        assert entry.url.startswith("https://")
        assert entry.source in ("published", "unverified")
        assert all(0.1 < value < 0.95 for value in entry.metrics.values())


@pytest.mark.parametrize(
    ("model", "dataset", "metric", "value"),
    [
        ("cosmos:vitb32_pixelprose", "flickr30k-val", "text_to_image_R@1", 0.663),
        ("cosmos:vitb16_merged30m", "imagenet1k", "acc1", 0.576),
        ("openclip:ViT-B-32/openai", "coco-karpathy", "text_to_image_R@1", 0.3044),
        ("openclip:ViT-B-16/datacomp_xl_s13b_b90k", "sun397", "acc1", 0.7051),
        ("SCLIP, openclip:ViT-B-16/openai", "ade20k", "mIoU", 0.1645),
        ("NACLIP, openclip:ViT-B-16/openai", "ade20k", "mIoU", 0.1905),
    ],
)
def test_published_numbers_by_sample(model, dataset, metric, value):
    (entry,) = [e for e in published() if (e.model, e.dataset) == (model, dataset)]
    assert entry.metrics[metric] == value


def test_published_rows_stand_apart_with_their_sources():
    here = Entry("cosmos:vitb16_cc3m", "cls", "imagenet1k", "cosmos", {"acc1": 0.4}, {}, "measured")
    there = here._replace(metrics={"acc1": 0.371}, source="published", url="https://example.org")
    (board,) = boards([here, there])
    assert [(model, source) for model, source, _ in board.rows] == [
        ("cosmos:vitb16_cc3m", "measured"),
        ("cosmos:vitb16_cc3m", "published"),
    ]
    text = to_markdown([here, there])
    assert "| cosmos:vitb16_cc3m | published | 37.1 |" in text
    assert "<https://example.org>" in text
