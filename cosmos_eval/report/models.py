"""What a page states of models: their facts, and metrics against the operations per image."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from cosmos_eval.results.leaderboard.board import Board, Column, Row
from cosmos_eval.results.leaderboard.entries import Entry
from cosmos_eval.results.leaderboard.facts import NAMES, fact_texts
from cosmos_eval.stats.pareto import pareto_front
from cosmos_eval.tasks import metric_of

Facts = Mapping[tuple[str, str], Mapping[str, Any]]
"""Facts by model and source, as `merged_facts` returns them."""


class FactRow(NamedTuple):
    """A model's facts as text, and by what each column is sorted, None where it is no number."""

    model: str
    source: str
    cells: tuple[tuple[str, float | None], ...]


class CostCell(NamedTuple):
    """A number as text and exactly, and whether it is on the Pareto front of its column."""

    value: str
    exact: str
    on_front: bool


class CostRow(NamedTuple):
    """A row of a leaderboard beside the model's GFLOPs per image; None where there is no number."""

    model: str
    source: str
    gflops: float
    cells: tuple[CostCell | None, ...]


class CostTable(NamedTuple):
    """The numbers of a leaderboard whose models' GFLOPs per image are known."""

    protocol: str
    columns: tuple[Column, ...]
    rows: tuple[CostRow, ...]


def fact_rows(facts: Facts) -> list[FactRow]:
    """Return the rows of models of which anything is known."""
    return [
        FactRow(model, source, tuple(zip(fact_texts(known), _numbers(known), strict=True)))
        for (model, source), known in facts.items()
        if known
    ]


def _numbers(facts: Mapping[str, Any]) -> Iterator[float | None]:
    for fact in map(facts.get, NAMES):
        number = fact[0] if isinstance(fact, list) else fact
        yield None if isinstance(number, str) else number


def cost_tables(boards: Sequence[Board], facts: Facts) -> list[CostTable]:
    """Return a table per board with a model whose GFLOPs are known."""
    return [table for board in boards if (table := _cost_table(board, facts)).rows]


def _cost_table(board: Board, facts: Facts) -> CostTable:
    costs = [facts[row.model, row.source].get("image_gflops") for row in board.rows]
    known = [(row, c) for row, c in zip(board.rows, costs, strict=True) if c is not None]
    columns = [_cells(known, index, c.metric) for index, c in enumerate(board.columns)]
    rows = (
        CostRow(row.model, row.source, cost, cells)
        for (row, cost), cells in zip(known, zip(*columns, strict=True), strict=True)
    )
    return CostTable(board.protocol, board.columns, tuple(rows))


def _cells(known: Sequence[tuple[Row, float]], index: int, name: str) -> list[CostCell | None]:
    """Return a column. Numbers that leaderboards do not rank are on no front."""
    entries = [row.entries[index] for row, _ in known]
    found = {i: entry for i, entry in enumerate(entries) if entry and name in entry.metrics}
    front = _front({i: (known[i][1], entry) for i, entry in found.items()}, name)
    cells: list[CostCell | None] = [None] * len(known)
    for i, entry in found.items():
        exact = f"{metric_of(entry.task, name).factor * entry.metrics[name]:.4f}"
        value = known[i][0].cells[index].value
        cells[i] = CostCell(value, exact.rstrip("0").rstrip("."), i in front)
    return cells


def _front(found: Mapping[int, tuple[float, Entry]], name: str) -> set[int]:
    ranked = [(i, cost, entry) for i, (cost, entry) in found.items() if entry.is_ranked]
    if not ranked:
        return set()
    places, costs, entries = zip(*ranked, strict=True)
    higher = metric_of(entries[0].task, name).higher_is_better
    values = [entry.metrics[name] for entry in entries]
    return {places[i] for i in pareto_front(costs, values, higher_is_better=higher)}
