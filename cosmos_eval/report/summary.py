"""What a page says of all its results together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cosmos_eval.report.origins import Fact
from cosmos_eval.results.labels import Stored, is_partial


def summary_of(results: Sequence[Stored]) -> list[Fact]:
    """What was measured, when, by which code and where; no clock is asked."""
    return [fact for fact in _facts(results) if fact.value]


def _facts(results: Sequence[Stored]) -> Iterator[Fact]:
    rows = [one.row for one in results]
    # To the minute: the first 16 characters of ISO 8601.
    times = sorted(row.provenance["utc"][:16].replace("T", " ") for row in rows)
    yield Fact("Results", str(len(rows)))
    yield Fact("Models", str(len({one.model for one in results})))
    yield Fact("Data sets", str(len({row.dataset for row in rows})))
    yield Fact("Protocols", _listed(row.protocol for row in rows))
    yield Fact("Measured (UTC)", " to ".join(dict.fromkeys((times[0], times[-1]))))
    yield Fact("By cosmos-eval", _listed(row.provenance["version"] for row in rows))
    commits = (str(row.provenance["commit"] or "unknown")[:12] for row in rows)
    yield Fact("Commits", _listed(commits))
    yield Fact("On", _listed(row.provenance["device"] for row in rows))
    yield Fact("Precision", _listed(row.provenance["precision"] for row in rows))
    yield Fact("Of edited code", _some(bool(row.provenance["dirty"]) for row in rows))
    yield Fact("Of random weights", _some(bool(row.model["random"]) for row in rows))
    yield Fact("Of a part of the samples only", _some(map(is_partial, rows)))


def _listed(values: Iterator[str]) -> str:
    return ", ".join(sorted(set(values)))


def _some(found: Iterator[bool]) -> str:
    """How many, where there are any."""
    count = sum(found)
    return f"{count} results" if count else ""
