"""`list datasets` by topic, with facts from their sources, and `list suites` on one screen."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from fnmatch import fnmatch

import pytest

from cosmos_eval.protocols import described_sets, find_known, named_protocols
from cosmos_eval.protocols import facts as facts_module
from cosmos_eval.protocols.facts import facts_of_datasets, read_table
from cosmos_eval.protocols.languages import language_sets
from cosmos_eval.runner import catalog

KNOWN = [*named_protocols(), *described_sets(), *language_sets()]
PRINTS_MODULES = """
import sys
from cosmos_eval.cli.app import main
try:
    main(sys.argv[1:])
finally:
    print(*sys.modules, file=sys.stderr)
"""


def usual_protocol(name):
    """The protocol of a data set, or of one of the languages of a set in many languages."""
    return find_known(next(iter(language_sets().get(name, [name]))))


def listed(command, *arguments):
    """The rows that `list datasets --json` prints, by the names of data sets."""
    rows = json.loads(command("list", "datasets", "--json", *arguments).out)
    return {row["dataset"]: row for row in rows}


def begin_of_patterns(row) -> str:
    return row["datasets"][:40]


@pytest.mark.parametrize("row", read_table("datasets.csv"), ids=begin_of_patterns)
def test_a_row_of_facts_names_known_data_sets_and_its_source(row):
    for pattern in row["datasets"].split():
        assert [name for name in KNOWN if fnmatch(name, pattern)], pattern
    sources = row["source"].split()
    assert all(re.fullmatch(r"https://\S+\.\S+/\S+", source) for source in sources)
    has_foreign_fact = row["download_bytes"] or row["licence"]
    assert sources or not has_foreign_fact
    assert row["original"] in ("", "read", "lists", "no")
    assert int(row["download_bytes"] or 1) > 0
    assert any(row[key] for key in facts_module.DATASET_FACTS)


def test_every_data_set_has_a_topic_and_its_former_keys(command):
    rows = listed(command)
    assert [*rows] == KNOWN
    for name, row in rows.items():
        protocol = usual_protocol(name)
        assert (row["task"], row["protocol"]) == (protocol.task, protocol.protocol_name)
        assert row["topic"]
    # Sums of the files' bytes in the lists of tensorflow-datasets.
    assert rows["stanford_cars"]["download_bytes"] == 977_350_468 + 185_758 + 330_960
    assert rows["voc20"]["download_bytes"] == 1_999_639_040
    assert rows["mess/uavid"]["licence"] == "CC BY-NC-SA 4.0"
    assert rows["wds/vtab/pets"]["licence"] == rows["oxford_pets"]["licence"] == "CC BY-SA 4.0"
    assert rows["wds/vtab/pets"]["download_bytes"] == 889_000_000
    originals = {row["original"] for row in rows.values()}
    assert {"read", "lists", "no"} <= originals
    assert rows["coco-val2017"]["original"] == "read"
    assert rows["imagenet1k"]["original"] == "lists"
    assert rows["nyu_depth"]["original"] == "lists"  # BTS's lists; no photograph was read
    assert rows["cityscapes"]["original"] == "no"


def test_the_first_row_that_states_a_fact_counts(monkeypatch):
    keys = ("datasets", *facts_module.DATASET_FACTS, "source")
    table = [
        dict(zip(keys, values, strict=True))
        for values in (
            ("a b/one", "food", "", "", "", ""),
            ("b/*", "animals", "", "MIT", "", "https://first.org/x"),
            ("b/two", "plants", "7", "CC0", "no", "https://second.org/x https://third.org/x"),
            ("b/two", "places", "8", "", "", "https://unused.org/x"),
        )
    ]

    def read_this_table(name):
        return table

    monkeypatch.setattr(facts_module, "read_table", read_this_table)
    assert facts_of_datasets(["a", "b/one", "b/two", "c"]) == {
        "a": {"topic": "food"},
        "b/one": {"topic": "food", "licence": "MIT", "sources": "https://first.org/x"},
        "b/two": {
            "topic": "animals",
            "licence": "MIT",
            "download_bytes": "7",
            "original": "no",
            "sources": "https://first.org/x https://second.org/x https://third.org/x",
        },
        "c": {},
    }
    # Without facts, the task is the topic, and comes after all topics.
    records = catalog.datasets("select")
    assert {record["topic"] for record in records} == {"other: selection"}
    assert {record["download_bytes"] for record in records} == {None}


def test_the_table_has_every_data_set_below_its_topic(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    rows = listed(command)
    lines = command("list", "datasets").out.splitlines()
    assert lines[0].startswith(f"{len(KNOWN)} data sets by topic and task")
    assert max(map(len, lines)) <= 80
    headings = {f"{row['topic']}, {row['task']}" for row in rows.values()}
    printed_headings = list(dict.fromkeys(line for line in lines if line in headings))
    topics = [heading.rpartition(", ")[0] for heading in printed_headings]
    assert topics == sorted(topics)
    assert {*printed_headings} == headings
    heading, names_by_heading = "", {}
    for line in lines:
        heading = line if line in headings else heading
        if heading and line.startswith("  ") and line.strip():
            names_by_heading.setdefault(heading, []).append(line.split()[0])
    for name, row in rows.items():
        # Long names are broken at a slash.
        names = names_by_heading[f"{row['topic']}, {row['task']}"]
        assert name in names or name.rpartition("/")[2] in names
    (food,) = (line for line in lines if line.startswith("  food101 "))
    assert food.split() == ["food101", "5.0", "lists"]


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (None, ""),
        (46_980_000, "0.047"),
        (4_996_278_331, "5.0"),
        (9_960_000_000, "10"),
        (154_642_401_280, "155"),
    ],
)
def test_gigabytes(n_bytes, text):
    record = dict.fromkeys(("dataset", "protocol", "licence", "original", "topic"), "x")
    record |= {"task": "cls", "download_bytes": n_bytes, "sources": []}
    assert catalog.dataset_rows([record])[0]["download GB"] == text


def test_data_sets_of_a_task(command):
    names = {name for name in KNOWN if usual_protocol(name).task == "cls"}
    assert listed(command, "--task", "cls").keys() == names
    assert listed(command, "--task", "classification").keys() == names
    for arguments, message in (
        (["datasets", "--task", "segm"], "unknown task 'segm'; nearest: seg"),
        (["suites", "--task", "seg"], "--task is for `list datasets`"),
    ):
        done = command("list", *arguments)
        assert (done.status, done.err.count("\n"), done.out) == (2, 1, "")
        assert message in done.err


def test_search_in_names_topics_licences_and_protocols(command):
    flowers = listed(command, "--search", "flower", "--task", "cls")
    assert flowers.keys() == {"flowers102", "wds/vtab/flowers"}
    assert "wds/vtab/pcam" in listed(command, "--search", "Medicine")
    assert "mess/cryonuseg" in listed(command, "--search", "by-nc-sa")
    assert listed(command, "--search", "open-vocabulary").keys() == {
        *("ade20k_847", "context459", "voc20_2007", "voc21_2007")
    }
    # Addresses of sources are not searched.
    done = command("list", "datasets", "--search", "tensorflow")
    assert (done.status, done.err.count("\n")) == (2, 1)


def test_a_search_prints_rows_in_full(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out = command("list", "datasets", "--search", "fairface").out
    assert max(map(len, out.splitlines())) <= 80
    values = dict(
        re.split(r" {2,}", line, maxsplit=1) for line in out.splitlines() if line[0] > " "
    )
    assert values["dataset"] == "wds/fairness/fairface"
    assert (values["topic"], values["licence"]) == ("people", "CC BY 4.0")
    assert values["sources"].startswith("https://github.com/joojs/fairface/")

    out = command("list", "suites", "--search", "robust").out
    assert max(map(len, out.splitlines())) <= 80
    assert "datasets  datacomp: wds/imagenetv2, " in out
    assert "aggregate_scores.py" in out


def test_suites_fit_one_screen_and_agree_with_the_full_list(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    suites = {record["suite"]: record for record in catalog.suites()}
    lines = command("list", "suites").out.splitlines()
    assert len(lines) <= len(suites) + 6  # a heading, a note, and two rows of two lines
    assert max(map(len, lines)) <= 80
    rows = {row["suite"]: row for row in catalog.suite_rows()}
    assert rows.keys() == suites.keys()
    for name, row in rows.items():
        full = suites[name]
        present, total = full["members"].split(" of ")
        assert row["sets"] == (present if present == total else full["members"])
        assert row["tasks"] == full["tasks"]
        assert (row["models"] or "--model") == full["models"]
        assert bool(row["mean of"]) == (full["score"] != "none")
        metrics = re.findall(r"([\w@]+) \(", full["score"])
        if full["score"].startswith("harmonic mean of"):
            assert row["mean of"] == "harmonic mean"
        elif row["mean of"].endswith(", ..."):
            assert row["mean of"].removesuffix(", ...") in metrics
            assert len(metrics) > 1
        elif row["mean of"] not in ("", "main metrics"):
            assert metrics == [row["mean of"]]


@pytest.mark.parametrize("words", ["list suites", "list datasets", "list datasets --task seg"])
def test_numpy_is_not_imported(words):
    done = subprocess.run(
        [sys.executable, "-c", PRINTS_MODULES, *words.split()], capture_output=True, text=True
    )
    assert not {"numpy", "torch", "scipy", "pandas"} & {*done.stderr.split()}
    assert done.stdout
