"""Tables of results: hand-made entries, percent, one family a table."""

import csv
import hashlib
import io
import json
import os
import subprocess
import sys

import pytest
from support.rows import make_row

from cosmos_eval.results.leaderboard.board import make_boards
from cosmos_eval.results.leaderboard.entries import Entry, entries_of_rows, published_beside
from cosmos_eval.results.leaderboard.ranking import find_ties, rank_entries
from cosmos_eval.results.leaderboard.writers import (
    WRITERS,
    Leaderboard,
    to_csv,
    to_json,
    to_markdown,
)
from cosmos_eval.results.table import TableOptions
from cosmos_eval.types import UsageError

R1 = {"image_to_text_R@1": 0.5, "text_to_image_R@1": 0.25, "image_to_text_R@5": 0.9}


@pytest.fixture
def rows():
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


def test_a_note_says_by_which_map_a_partial_result_was_measured():
    row = make_row(
        task="loc",
        dataset="scenes-loc",
        protocol="localisation",
        metrics={"mass_over_area": 1.5},
        intervals={},
        provenance={"map": "cross-attention", "protocol_map": None, "limit": 5},
    )
    markdown = to_markdown(Leaderboard(entries_of_rows([row])))
    assert "| scenes-cosmos (first 5 only) | 1.50x |" in markdown
    assert "- Maps by localisation: scenes-cosmos (first 5 only): cross-attention.\n" in markdown


def test_markdown(rows):
    assert to_markdown(Leaderboard(entries_of_rows(rows))) == (
        "### Retrieval (%), protocol scenes\n\n"
        "| model | scenes-retrieval image to text R@1 | scenes-retrieval text to image R@1 |\n"
        "| --- | --: | --: |\n"
        "| scenes-clip | **50.0** | 12.5 |\n"
        "| scenes-cosmos | **50.0** | **25.0** |\n\n"
        "### Classification (%)\n\n"
        "| model | imagenet1k (cosmos) acc1 | scenes-cls (scenes) acc1 |\n"
        "| --- | --: | --: |\n"
        "| scenes-clip |  | **67.1** |\n"
        "| scenes-cosmos | 50.0 | 25.0 +25.0/-12.5 |\n\n"
        "### Classification (%), other settings, protocol scenes\n\n"
        "| model | scenes-cls acc1 |\n"
        "| --- | --: |\n"
        "| scenes-cosmos (first 10 only) | 100.0 |\n\n"
        "- Bold: the best by its data set and metric.\n"
        "- Intervals cover test images, not seeds: each model was trained once.\n"
        "- ±, or + and -: how far the 95% interval reaches above and below the number.\n"
        "- Not ranked: results of a part of the samples only.\n"
    )


def test_markdown_says_ties_places_and_differences_to_the_published_number():
    def row(model, value, low, high):
        ends = {"acc1": {"low": low, "high": high, "method": "wilson", "level": 0.95}}
        common = {"dataset": "imagenet1k", "protocol": "cosmos", "intervals": ends}
        return make_row(model={"spec": model}, metrics={"acc1": value}, **common)

    # The authors of the first published 37.1.
    rows = [row("cosmos:vitb16_cc3m", 0.375, 0.37, 0.38), row("scenes-clip", 0.37, 0.365, 0.3752)]
    shown = Leaderboard(entries_of_rows(rows), options=TableOptions(ranks=True))
    assert to_markdown(shown).splitlines()[4:] == [
        "| cosmos:vitb16_cc3m | **37.5** ±0.5 (1-2) Δ+0.4 |",
        "| scenes-clip | 37.0‡ ±0.5 (1-2) |",
        "",
        "- Bold: the best by its data set and metric.",
        "- ‡ not distinguished from the best: the intervals, widened for the number of results, "
        "overlap "
        "(their samples were not compared).",
        "- Rank: the ranks that a result measured here can have; the ranks of all models on a data "
        "set hold at once with 95%.",
        "- Intervals cover test images, not seeds: each model was trained once.",
        "- Signed, or after Δ: percentage points above what its authors published.",
        "- ±, or + and -: how far the 95% interval reaches above and below the number.",
    ]


def test_names_are_text_in_markdown():
    odd = "cosmos:a|b_c/_d*`<script>alert(1)</script>[x](y)&amp;\n# e"
    text = to_markdown(Leaderboard(entries_of_rows([make_row(model={"spec": odd}, dataset="a|b")])))
    assert (
        "| cosmos:a\\|b_c/\\_d\\*\\`&lt;script&gt;alert(1)&lt;/script&gt;\\[x\\](y)&amp;amp; # e |"
        in text
    )
    assert "| model | a\\|b acc1 |" in text


def test_the_order_of_the_input_changes_nothing(rows):
    once, again = entries_of_rows(rows), entries_of_rows(rows[::-1])
    for form in WRITERS.values():
        entries, turned = (
            [*once, *published_beside([])],
            [*published_beside([]), *again][::-1],
        )
        assert form(Leaderboard(entries)) == form(Leaderboard(turned))


def test_every_process_writes_the_same_bytes(tmp_path):
    """The order of sets and of a folder's files differs between this process and another."""
    code = (
        "from cosmos_eval.results.leaderboard.entries import published_beside\n"
        "from cosmos_eval.results.leaderboard.writers import WRITERS, Leaderboard\n"
        "print([write(Leaderboard(published_beside([]))) for write in WRITERS.values()])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    theirs = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    ours = str([write(Leaderboard(published_beside([]))) for write in WRITERS.values()])
    assert len(ours) > 10_000
    assert hashlib.sha256(ours.encode()).digest() == hashlib.sha256(theirs[:-1].encode()).digest()


def test_json_holds_fractions_and_the_documented_keys(rows):
    records = json.loads(to_json(Leaderboard(entries_of_rows(rows))))
    assert len(records) == 6
    keys = {"model", "task", "dataset", "protocol", "metrics", "intervals", "source"}
    assert all(keys <= set(record) <= {*keys, "standings"} for record in records)
    (record,) = [r for r in records if r["dataset"] == "imagenet1k"]
    assert record["metrics"] == {"acc1": 0.5}
    assert record["source"] == "measured"
    (record,) = [r for r in records if r["metrics"].get("text_to_image_R@1") == 0.25]
    assert record["standings"]["text_to_image_R@1"] == {"best": True, "tie": "", "ranks": None}


def test_json_says_where_a_published_number_stands():
    records = json.loads(to_json(Leaderboard(published_beside([]))))
    assert all(record["url"].startswith("https://") for record in records)


def test_csv_has_every_metric_its_interval_and_its_standing(rows):
    lines = list(csv.DictReader(io.StringIO(to_csv(Leaderboard(entries_of_rows(rows))))))
    shown = [
        (line["metric"], line["value"], line["low"], line["high"], line["best"])
        for line in lines
        if (line["dataset"], line["model"]) == ("scenes-cls", "scenes-cosmos")
    ]
    assert shown == [("acc1", "0.25", "0.125", "0.5", ""), ("acc5", "0.75", "", "", "")]
    assert [line["value"] for line in lines if line["best"]] == ["0.6705", "0.5", "0.5", "0.25"]


def test_random_weights_and_variants_are_shown():
    model = {"random": True, "weights_sha256": None, "weights": None}
    row = make_row(model=model, provenance={"precision": "bf16", "attention": "vanilla"})
    (entry,) = entries_of_rows([row])
    assert entry.model == "scenes-cosmos (random weights, vanilla, bf16)"


def test_two_results_for_one_cell():
    with pytest.raises(UsageError, match="two results of scenes-cosmos on scenes-cls"):
        entries_of_rows([make_row(), make_row(n_samples=5)])
    assert len(entries_of_rows([make_row(), make_row()])) == 1  # the same again


def test_a_variant_is_not_held_against_the_published_number():
    def entry(**provenance):
        model = {"spec": "cosmos:vitb16_cc3m"}
        row = make_row(provenance, model, dataset="imagenet1k", protocol="cosmos")
        (entry,) = entries_of_rows([row])
        return entry

    assert entry().published == {"acc1": 0.371}
    assert entry(precision="amp").published == {"acc1": 0.371}  # as it was measured
    assert entry(precision="bf16").published == {}
    assert entry(precision="amp", limit=5).published == {}
    assert entry(limit=5).published == {}


def test_published_rows_stand_apart_with_their_sources():
    measured = Entry(
        "cosmos:vitb16_cc3m", "cls", "imagenet1k", "cosmos", {"acc1": 0.4}, {}, "measured"
    )
    published = measured._replace(
        metrics={"acc1": 0.371}, source="published", url="https://example.org"
    )
    (board,) = make_boards([measured, published])
    assert [row[:3] for row in board.rows] == [
        ("cosmos:vitb16_cc3m", "measured", ""),
        ("cosmos:vitb16_cc3m", "published", "https://example.org"),
    ]
    text = to_markdown(Leaderboard([measured, published]))
    assert "| cosmos:vitb16_cc3m | [published](<https://example.org>) | 37.1 |" in text


def test_metrics_of_a_task_that_is_not_installed_are_shown_as_stored_and_not_ranked():
    """Nobody knows whether they are shares, and which direction is the better one."""
    ends = {"low": 2.5, "high": 3.5, "method": "wilson", "level": 0.95}

    def row(model, rank):
        metrics = {"mean_rank": rank, "a_over_b": 1.91, "share": 1 / 3}
        common = {"task": "cook", "metrics": metrics, "intervals": {"mean_rank": ends}}
        return make_row(model={"spec": model}, **common)

    entries = entries_of_rows([row("a", 3.0), row("b", 2.5)])
    assert rank_entries(entries) == {}
    assert find_ties(entries, "paired") == {}
    assert to_markdown(Leaderboard(entries)).splitlines()[2:] == [
        "| model | scenes-cls a_over_b | scenes-cls mean_rank | scenes-cls share |",
        "| --- | --: | --: | --: |",
        "| a | 1.91 | 3.0 ±0.5 | 0.3333 |",
        "| b | 1.91 | 2.5 +1.0/-0.0 | 0.3333 |",
        "",
        "- Intervals cover test images, not seeds: each model was trained once.",
        "- Not ranked, and not in percent: metrics of a task that is not installed or whose "
        "package cannot be loaded (cosmos-eval list tasks says which).",
        "- ±, or + and -: how far the 95% interval reaches above and below the number.",
    ]
