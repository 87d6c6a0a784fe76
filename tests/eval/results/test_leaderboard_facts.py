"""Facts of models, such as their size, in every form of a leaderboard."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from rich.console import Console
from support.html import Page
from support.models import store
from support.rows import make_row, write_result

from cosmos_eval.results.leaderboard.entries import Entry, entries_of_rows, published_beside
from cosmos_eval.results.leaderboard.facts import model_table
from cosmos_eval.results.leaderboard.writers import (
    WRITERS,
    Leaderboard,
    to_csv,
    to_html,
    to_json,
    to_texts,
)

ODD = "<b>|$x"
FACTS: dict[str, Any] = {
    "parameters": 151_277_313,
    "image_parameters": 87_849_216,
    "text_parameters": None,
    "image_gflops": 8.81762304,
    "text_gflops": None,
    "image_size": [224, 160],
    "patch_size": 32,
    "embedding_size": 512,
    "context_length": 77,
    "training_data": ODD,
    "samples_seen": 860_770_272,
}
SHOWN = (ODD, "861M", "151.3", "8.82", "", "224x160", "32", "512", "40.00")
B32 = "openclip:ViT-B-32/datacomp_xl_s13b_b90k"
OF_PROFILE = ("DataComp-1B", "12.8B", "151.3", "8.82", "5.96", "224", "", "512", "")


@pytest.fixture
def entries() -> list[Entry]:
    """Return entries of a model with facts in two of three results, of a model without facts, and
    of published models."""
    model = {"spec": "mine", "facts": FACTS}
    rows = [
        make_row(model=model, provenance={"images_per_second": 30.0}),
        make_row(model=model, dataset="other", provenance={"images_per_second": 50.0}),
        make_row(model={"spec": "mine"}, dataset="older"),
        make_row(model={"spec": "yours"}),
    ]
    return [*entries_of_rows(rows), *published_beside([])]


def test_the_table_of_models_has_a_row_per_model_with_facts(entries):
    table = model_table(entries)
    titles = tuple(head.title for head in table.heads)
    rows = [tuple(cell.text for cell in row) for row in table.rows]
    assert titles[: table.n_text_columns] == ("model", "source", "training data")
    without_facts = ("yours", "COSMOS", "LoTLIP", "CLIP ", "DreamLIP", "FLAIR")
    models_with_facts = {
        (entry.model, entry.source)
        for entry in entries
        if not entry.model.startswith(without_facts)
    }
    assert [row[:2] for row in rows] == sorted(models_with_facts)
    by_model = {row[0]: row[2:] for row in rows}
    assert by_model["mine"] == SHOWN
    assert by_model[B32] == OF_PROFILE
    # The architecture is OpenCLIP's, but the model has a module more.
    assert by_model["cosmos:vitb32_cc3m"][1:5] == ("90.3M", "", "8.82", "5.96")
    measured_table = model_table([entry for entry in entries if entry.source == "measured"])
    assert [head.title for head in measured_table.heads[:2]] == ["model", "training data"]
    assert len(table.notes) == 3


def test_an_older_result_has_the_facts_that_its_name_implies():
    spec = "openclip:ViT-B-32-quickgelu/laion400m_e31"
    (row,) = model_table(entries_of_rows([make_row(model={"spec": spec})])).rows
    # Columns that are empty for all models are left out.
    assert [cell.text for cell in row] == [spec, "LAION-400M", *filter(None, OF_PROFILE[2:])]


@pytest.mark.parametrize(
    ("count", "text"),
    [(34 * 10**9, "34B"), (12_800_000_000, "12.8B"), (999_900_000, "1B"), (160_000, "160k")],
)
def test_samples_seen_have_three_digits(count, text):
    entries = entries_of_rows([make_row(model={"facts": {**FACTS, "samples_seen": count}})])
    assert model_table(entries).rows[0][2].text == text


def test_every_form_shows_the_facts(entries):
    line = " | ".join(["mine", "measured", r"&lt;b&gt;\|\$x", *SHOWN[1:]])
    assert line in WRITERS["md"](Leaderboard(entries, facts=True))
    paper = WRITERS["tex"](Leaderboard(entries, facts=True))
    assert r"\textless{}\allowbreak{}b\textgreater{}\textbar{}\$\allowbreak{}x" in paper
    for cell in SHOWN[1:]:
        assert not cell or f" & {cell}" in paper
    page = Page(to_html(Leaderboard(entries, facts=True)))
    cells = [element.text for element in page.all("th", "td")]
    start = len(cells) - cells[::-1].index("mine") - 1
    assert cells[start : start + 11] == ["mine", "measured", *SHOWN]
    lines = csv.DictReader(io.StringIO(to_csv(Leaderboard(entries, facts=True))))
    line = next(line for line in lines if (line["model"], line["dataset"]) == ("mine", "other"))
    assert (line["image_gflops"], line["image_size"]) == ("8.81762304", "224x160")
    assert (line["text_gflops"], line["images_per_second"]) == ("", "50.0")
    records = json.loads(to_json(Leaderboard(entries, facts=True)))
    record = next(
        record for record in records if (record["model"], record["dataset"]) == ("mine", "other")
    )
    stated_facts = {name: fact for name, fact in FACTS.items() if fact is not None}
    assert record["facts"] == {**stated_facts, "images_per_second": 50.0}
    (yours,) = [record for record in records if record["model"] == "yours"]
    assert yours["facts"] == {}


@pytest.mark.parametrize("width", [70, 250])
def test_the_terminal(entries, width):
    console = Console(file=io.StringIO(), width=width)
    for table in to_texts(Leaderboard(entries, facts=True), width):
        console.print(table)
    shown = console.file.getvalue()
    assert max(map(len, shown.splitlines())) <= width
    assert all(text in shown for text in SHOWN)


@pytest.mark.parametrize("form", sorted(WRITERS))
def test_only_on_demand(form, entries, command, tmp_path):
    with_facts = make_row(model={"facts": FACTS}, provenance={"images_per_second": 40.0})
    for name, row in (("with", with_facts), ("without", make_row())):
        write_result(tmp_path / name, row, {})
    plain, old, more = (
        command("leaderboard", *arguments, "--format", form).out
        for arguments in (["with"], ["without"], ["with", "--facts"])
    )
    assert plain == old
    assert "8.81762304" in more or "8.82" in more


def test_no_comparison_depends_on_facts(command, tmp_path):
    for name, skill in (("a", 0.4), ("b", 0.8)):
        store(tmp_path / "plain" / name, skill=skill)
        store(
            tmp_path / "known" / name,
            skill=skill,
            model={"facts": {**FACTS, "parameters": ord(name)}},
            provenance={"images_per_second": float(ord(name))},
        )
    without_facts = command("compare", "plain/a", "plain/b", "--json")
    with_facts = command("compare", "known/a", "known/b", "--json")
    assert without_facts.out == with_facts.out
    assert (without_facts.status, with_facts.status) == (0, 0)
    assert command("verify", "known").status == 0
