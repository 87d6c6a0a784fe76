"""Published numbers of the released checkpoints beside measured ones."""

import io
import json

import pytest
from rich.console import Console
from support.rows import make_row, write_result

from cosmos_eval.cli.app import main
from cosmos_eval.results.leaderboard.entries import entries_of_rows
from cosmos_eval.results.leaderboard.reproduce import (
    find_reproductions,
    to_json,
    to_markdown,
    to_texts,
)
from cosmos_eval.runner.suites import read_suite


def row(model, value, low, high, **provenance):
    """Return a result of ImageNet's accuracy. The README has 37.1 for vitb16_cc3m."""
    return make_row(
        provenance,
        {"spec": model},
        dataset="imagenet1k",
        protocol="cosmos",
        metrics={"acc1": value},
        intervals={"acc1": {"low": low, "high": high, "method": "wilson", "level": 0.95}},
    )


def records(rows):
    return json.loads(to_json(find_reproductions(entries_of_rows(rows))))


def record_of(all_records, model, metric="acc1"):
    """Return the one record of a metric of a model."""
    (record,) = [
        record for record in all_records if (record["model"], record["metric"]) == (model, metric)
    ]
    return record


def test_ten_checkpoints_with_five_metrics_in_the_order_of_their_names():
    unmeasured = records([])
    assert len(unmeasured) == 50
    assert [record["model"] for record in unmeasured[::5]] == [
        f"cosmos:vitb{patch}_{data}"
        for patch in (16, 32)
        for data in ("cc3m", "cc12m", "yfcc15m", "merged30m", "pixelprose")
    ]
    assert [(record["dataset"], record["metric"]) for record in unmeasured[:5]] == [
        ("coco-val2017", "image_to_text_R@1"),
        ("coco-val2017", "text_to_image_R@1"),
        ("flickr30k-val", "image_to_text_R@1"),
        ("flickr30k-val", "text_to_image_R@1"),
        ("imagenet1k", "acc1"),
    ]
    assert {record["protocol"] for record in unmeasured} == {"cosmos"}
    assert {record["status"] for record in unmeasured} == {"unverified"}
    assert all(record["measured"] is None for record in unmeasured)


@pytest.mark.parametrize(
    ("value", "low", "high", "difference", "status"),
    [
        (0.371, 0.371, 0.371, 0.0, "reproduced"),
        # 0.05 points of rounding and 0.1 points of tolerance, also outside a narrow interval.
        (0.3725, 0.3716, 0.3734, 0.0015, "reproduced"),
        (0.3695, 0.36, 0.38, -0.0015, "reproduced"),
        (0.3726, 0.36, 0.38, 0.0016, "near"),
        (0.373, 0.369, 0.377, 0.002, "near"),
        (0.38, 0.375, 0.385, 0.009, "differs"),
        (0.36, 0.35, 0.3709, -0.011, "differs"),
    ],
)
def test_a_measured_number(value, low, high, difference, status):
    record = record_of(records([row("cosmos:vitb16_cc3m", value, low, high)]), "cosmos:vitb16_cc3m")
    assert record["published"] == 0.371
    assert (record["measured"], record["difference"]) == (value, difference)
    assert record["status"] == status
    assert record["interval"]["low"] == low


def test_other_models_variants_and_parts_verify_nothing():
    rows = [
        row("cosmos:vitb16_cc3m", 0.37, 0.36, 0.38, limit=100),
        row("cosmos:vitb16_cc3m", 0.37, 0.36, 0.38, precision="bf16"),
        row("openclip:ViT-B-16/openai", 0.68, 0.67, 0.69),
        make_row(model={"spec": "cosmos:vitb16_cc3m"}, dataset="imagenet1k", protocol="other"),
    ]
    assert {record["status"] for record in records(rows)} == {"unverified"}


def test_the_published_precision_is_taken_first():
    rows = [
        row("cosmos:vitb16_cc3m", 0.38, 0.375, 0.385),
        row("cosmos:vitb16_cc3m", 0.37, 0.36, 0.38, precision="amp", device="cuda:0"),
        row("cosmos:vitb32_cc3m", 0.33, 0.32, 0.34, precision="amp"),
        row("cosmos:vitb16_cc12m", 0.51, 0.50, 0.52),
        row("cosmos:vitb16_yfcc15m", 0.51, 0.50, 0.52, precision="amp", limit=9),
    ]
    all_records = records(rows)
    assert {record["published_precision"] for record in all_records} == {"amp float16"}
    measured = [record for record in all_records if record["measured"] is not None]
    assert {
        record["model"]: (record["measured"], record["measured_precision"]) for record in measured
    } == {
        "cosmos:vitb16_cc3m": (0.37, "amp float16"),
        "cosmos:vitb16_cc12m": (0.51, "fp32"),
        "cosmos:vitb32_cc3m": (0.33, "amp bfloat16"),  # on a CPU
    }
    unmeasured = [record for record in all_records if record["measured"] is None]
    assert {record["measured_precision"] for record in unmeasured} == {None}


def test_another_precision_than_the_published_one_is_named():
    def shown(*rows):
        numbers = find_reproductions(entries_of_rows(rows))
        texts = (printed(numbers, 200), to_markdown(numbers))
        return [" ".join(text.split()) for text in texts]

    single = row("cosmos:vitb16_cc3m", 0.38, 0.375, 0.385)
    processor = row("cosmos:vitb32_cc3m", 0.33, 0.32, 0.34, precision="amp")
    graphics = row("cosmos:vitb16_cc12m", 0.51, 0.50, 0.52, precision="amp", device="cuda:1")
    for text in shown(single, processor, graphics):
        assert (
            "Published in amp float16, measured here: 1 in amp bfloat16, 1 in fp32; "
            "--precision amp on a GPU measures as published"
        ) in text
    for text in (*shown(graphics), *shown()):
        assert "Published in" not in text


def test_markdown():
    rows = [
        row("cosmos:vitb16_cc3m", 0.38, 0.375, 0.385),
        row("cosmos:vitb32_cc3m", 0.331, 0.325, 0.335),
        row("cosmos:vitb32_cc12m", 0.464, 0.459, 0.469),
    ]
    lines = to_markdown(find_reproductions(entries_of_rows(rows))).splitlines()
    start = "| coco-val2017, image to text R@1 | cosmos:vitb16_cc3m | 53.1 | unverified |  |"
    assert lines[2:5] == ["| metric | model | published | measured | difference |", lines[3], start]
    assert "| imagenet1k, acc1 | cosmos:vitb16_cc3m | 37.1 | 38.0 ±0.5 | +0.9 ! |" in lines
    assert "|  | cosmos:vitb32_cc12m | 46.7 | 46.4 ±0.5 | -0.3 ? |" in lines
    assert "|  | cosmos:vitb32_cc3m | 33.0 | 33.1 +0.4/-0.6 | +0.1 |" in lines
    assert lines[-3] == (
        "- 50 published numbers: 1 reproduced (within 0.15 points), 1 near (marked ?: inside the "
        "measured interval, but model and images are the same, so look for the cause), 1 differ "
        "(marked !), 47 unverified."
    )
    assert lines[-1].startswith("- Published by https")


def test_a_file_with_the_hash_of_a_released_checkpoint_counts_wherever_it_lies():
    digest = "ac58b2b29481669ebbfdaa9cfdf85a4f61959e69cdab29be9c8099f900567c81"

    def reproduced_models(**model_facts):
        measured_row = make_row(
            {},
            {"spec": "cosmos:/weights/best.pt", **model_facts},
            dataset="imagenet1k",
            protocol="cosmos",
            metrics={"acc1": 0.467},
            intervals={"acc1": {"low": 0.464, "high": 0.47, "method": "wilson", "level": 0.95}},
        )
        all_records = records([measured_row])
        return [record["model"] for record in all_records if record["status"] == "reproduced"]

    assert reproduced_models(weights_sha256=digest) == ["cosmos:vitb32_cc12m"]
    assert reproduced_models(weights_sha256=digest, weights="student") == []
    assert reproduced_models(weights_sha256="1" * 64) == []


def test_the_suite_makes_the_rows_that_are_listed():
    suite = read_suite("released")
    rows = {(model, p.dataset, p.protocol_name) for model in suite.models for p in suite.protocols}
    listed = {(r["model"], r["dataset"], r["protocol"]) for r in records([])}
    assert rows == listed
    assert len(rows) == 30


@pytest.mark.parametrize(("accuracy", "status"), [(None, 2), (0.371, 2), (0.373, 1), (0.38, 1)])
def test_strict_decides_the_exit_status(tmp_path, monkeypatch, capsys, accuracy, status):
    monkeypatch.chdir(tmp_path)
    if accuracy is not None:
        write_result(tmp_path, row("cosmos:vitb16_cc3m", accuracy, 0.369, 0.377), {})
    assert ended(*["."] * (accuracy is not None), "--strict") == status
    assert "published numbers" in capsys.readouterr().out


def test_strict_ends_with_0_if_all_numbers_are_reproduced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    accuracies = [r for r in records([]) if r["metric"] == "acc1"]
    for r in accuracies:
        write_result(tmp_path, row(r["model"], r["published"], 0.0, 1.0), {})
    assert len(accuracies) == 10
    assert ended(".", "--strict", "--metrics", "acc1") == 0
    assert ended(".", "--strict") == 2


def ended(*arguments):
    with pytest.raises(SystemExit) as end:
        main(["reproduce", *arguments])
    return end.value.code


def test_the_command_prints_a_table_or_json(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert ended() == 0
    shown = capsys.readouterr().out
    assert shown.count("unverified") == 50 + 1
    assert "50 published numbers: 0 reproduced" in " ".join(shown.split())
    write_result(tmp_path, row("cosmos:vitb16_cc3m", 0.38, 0.375, 0.385), {})
    assert ended(".", "--format", "json") == 0
    printed_records = json.loads(capsys.readouterr().out)
    assert record_of(printed_records, "cosmos:vitb16_cc3m")["status"] == "differs"
    assert ended(".") == 0
    assert "+0.9 !" in capsys.readouterr().out
    assert ended("nowhere") == 2
    assert "no results (*.json) in nowhere" in capsys.readouterr().err


def printed(numbers, width):
    """What a terminal of a width shows."""
    out = io.StringIO()
    console = Console(file=out, width=width)
    for table in to_texts(numbers, width):
        console.print(table)
    return out.getvalue()


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_table_fits_the_terminal(width):
    lines = printed(find_reproductions([]), width).splitlines()
    assert max(map(len, lines)) <= width
    assert sum(line.endswith("  unverified") for line in lines) == 50
