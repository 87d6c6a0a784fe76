"""Where each number comes from, as a page tells it: names and values, in groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from cosmos_eval.report.tables import Anchors
from cosmos_eval.results.labels import Stored
from cosmos_eval.results.leaderboard import Entry, bounds, difference, headlines_of, percent
from cosmos_eval.results.record import ResultRow
from cosmos_eval.tasks import metric_of


class Fact(NamedTuple):
    """What something is called, and what it is."""

    name: str
    value: str


class Group(NamedTuple):
    """Facts of one kind."""

    title: str
    facts: tuple[Fact, ...]


class FigureView(NamedTuple):
    """A metric as text, and by what method its interval was computed."""

    metric: str
    value: str
    interval: str
    method: str
    published: str


class Origin(NamedTuple):
    """The provenance of an entry."""

    anchor: str
    model: str
    dataset: str
    protocol: str
    source: str
    url: str
    figures: tuple[FigureView, ...]
    groups: tuple[Group, ...]
    notes: tuple[str, ...]


def origin_of(entry: Entry, stored: Stored | None, anchors: Anchors) -> Origin:
    """The provenance of an entry, `stored` where it was measured here."""
    notes = () if stored is None else tuple(stored.row.provenance["notes"])
    return Origin(
        anchors[entry.key],
        entry.model,
        entry.dataset,
        entry.protocol,
        entry.source,
        entry.url,
        tuple(_figure(entry, metric) for metric in _ordered(entry)),
        () if stored is None else tuple(_groups(stored)),
        notes,
    )


def _ordered(entry: Entry) -> list[str]:
    """Metrics, those that tables show first."""
    first = [name for name in headlines_of(entry) if name in entry.metrics]
    return [*first, *(name for name in sorted(entry.metrics) if name not in first)]


def _figure(entry: Entry, metric: str) -> FigureView:
    value, interval = entry.metrics[metric], entry.intervals.get(metric)
    told = f"{interval['method']}, {100 * interval['level']:g}%" if interval else ""
    known = metric_of(entry.task, metric)
    shown = f"{percent(value)} %" if known.unit == "fraction" else f"{value:.2f}"
    published = ""
    if metric in entry.published:
        others = entry.published[metric]
        published = f"{percent(others)} ({difference(value, others)})"
    return FigureView(metric, shown, bounds(known, interval), told, published)


def _groups(stored: Stored) -> Iterator[Group]:
    row, told = stored.row, stored.row.provenance
    model = row.model
    yield _group(
        "Model",
        {
            "specification": model["spec"],
            "architecture": model["architecture"],
            "weights": model["weights"] or "the only ones",
            "SHA-256 of the weights": model["weights_sha256"] or "random weights",
        },
    )
    yield _group("Measurement", _measurement(row))
    yield _group("Hashes of what was measured", told["hashes"])
    yield _group("Code and machine", _machine(told))
    yield _group("Files", _files(stored))


def _measurement(row: ResultRow) -> dict[str, Any]:
    told = row.provenance
    return {
        "task": row.task,
        "samples": row.n_samples,
        "limit": told["limit"],
        "partial": told.get("partial"),
        "attention": told["attention"],
        "kind of map": told.get("map"),
        "precision": told["precision"],
        "batch size": told["batch_size"],
        "seed": told["seed"],
    }


def _machine(told: Mapping[str, Any]) -> dict[str, Any]:
    memory = told["peak_memory_bytes"]
    return {
        "measured (UTC)": told["utc"],
        "cosmos-eval": told["version"],
        "commit": told["commit"] or "unknown",
        "code edited since": {True: "yes", False: "no"}.get(told["dirty"], "unknown"),
        "command": told["command"],
        "device": told["device"],
        "platform": told["platform"],
        "Python": told["python"],
        "packages": ", ".join(f"{n} {v}" for n, v in sorted(told["packages"].items()) if v),
        "seconds": ", ".join(f"{phase} {s:g}" for phase, s in sorted(told["seconds"].items())),
        "peak memory": None if memory is None else f"{memory / 1e6:.0f} MB",
    }


def _files(stored: Stored) -> dict[str, Any]:
    told = stored.row.provenance
    return {
        "result": stored.path.name,
        "samples": stored.row.samples,
        "SHA-256 of the samples": told.get("samples_sha256"),
        "SHA-256 of the record": told.get("record_sha256"),
        "edited after it was written": "yes" if stored.is_edited else None,
    }


def _group(title: str, facts: Mapping[str, Any]) -> Group:
    """Facts that are known."""
    told = (Fact(name, str(value)) for name, value in facts.items() if value not in (None, ""))
    return Group(title, tuple(told))
