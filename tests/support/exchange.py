"""Files of other tools, and made-up results to export to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from support.rows import make_row

from cosmos_eval.results.exchange.formats import FORMATS
from cosmos_eval.results.exchange.record import ImportedFile, ImportedResult
from cosmos_eval.results.labels import StoredResult, label_results

FILES = Path(__file__).parents[1] / "eval" / "exchange" / "files"
CLIP_BENCHMARK = FILES / "clip_benchmark"
CLIP_BENCHMARK_TABLE = FILES / "clip_benchmark_build.csv"
DATACOMP = FILES / "datacomp" / "eval_results.jsonl"
OPENCLIP = FILES / "openclip"


def read(format_name: str, path: Path) -> ImportedFile:
    """Read a file that only this format recognises."""
    contents = {name: form.read(path.read_text(), path) for name, form in FORMATS.items()}
    assert [name for name, content in contents.items() if content] == [format_name]
    content = contents[format_name]
    assert content is not None
    return content


def by_dataset(results: Iterable[ImportedResult]) -> dict[str, Mapping[str, float]]:
    """The metrics of one model by data set."""
    results = list(results)
    assert len({result.model for result in results}) == 1
    return {result.dataset: result.metrics for result in results}


def made_up(*fields: Mapping[str, Any]) -> list[StoredResult]:
    """Results without files, each of these fields."""
    rows = [make_row(**{"intervals": {}, **each}) for each in fields]
    return label_results(StoredResult(Path(), row) for row in rows)


def cells(results: Iterable[StoredResult]) -> dict[tuple[str, str, str], Mapping[str, float]]:
    """The metrics of results by model, data set and protocol."""
    return {result.cell: result.row.metrics for result in results}
