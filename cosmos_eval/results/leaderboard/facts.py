"""Facts of models beside their numbers: those of results, else those that others state."""

from collections.abc import Iterable
from statistics import median
from typing import Any

from cosmos_eval.models.specs import RELEASED
from cosmos_eval.protocols.facts import profile_of, training_of
from cosmos_eval.results.leaderboard.entries import Entry
from cosmos_eval.results.table import Table, of_records

COLUMNS = {
    **{"training_data": "training data", "samples_seen": "samples seen"},
    **{"parameters": "params (M)", "image_gflops": "image GFLOPs", "text_gflops": "text GFLOPs"},
    **{"image_size": "image size", "patch_size": "patch", "embedding_size": "embedding"},
    "images_per_second": "images/s",
}
"""The titles of the facts that tables show, by their names in results."""

_NOTES = (
    "GFLOPs: 2 operations per multiply-accumulate, of one image and of one text that fills the "
    "context.",
    "Images/s: the median of the model's results, of images that were encoded in the run.",
    "Models that are not measured: OpenCLIP's profile of the architecture.",
)


def facts_of(entry: Entry) -> dict[str, Any]:
    """Return the facts of an entry that are known. One without facts of its own has those that its
    name implies."""
    row = entry.stored.row if entry.stored else None
    if row is None or "facts" not in row.model:
        return stated_facts(entry.model if row is None else row.model["spec"])
    speed = {"images_per_second": row.provenance.get("images_per_second")}
    return {k: v for k, v in {**row.model["facts"], **speed}.items() if v is not None}


def stated_facts(model: str) -> dict[str, Any]:
    """Return what OpenCLIP's profile and sources of trainings state of a model by its name."""
    kind, _, name = model.partition(":")
    if kind == "openclip":
        return {**profile_of(name.partition("/")[0]), **training_of(model)}
    profile = profile_of(RELEASED.get(name, "")) if kind == "cosmos" else {}
    # COSMOS adds a module to the architecture, which features of images and texts do not use.
    return {**{k: v for k, v in profile.items() if k != "parameters"}, **training_of(model)}


def model_table(entries: Iterable[Entry]) -> Table:
    """Return the known facts of all models of which any are known."""
    by_model: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for entry in entries:
        model = entry.stored.model if entry.stored else entry.model
        by_model.setdefault((model, entry.source), []).append(facts_of(entry))
    known = {model: _joined(by_model[model]) for model in sorted(by_model) if any(by_model[model])}
    heads = 1 + any(source != "measured" for _, source in known)
    records = [
        dict(zip(("model", "source")[:heads], model, strict=False))
        | {title: _text(name, facts.get(name)) for name, title in COLUMNS.items()}
        for model, facts in known.items()
    ]
    table = of_records(records, texts=heads + 1)
    return table._replace(title="Models", notes=_NOTES[: 1 + heads], label="models")


def _joined(several: list[dict[str, Any]]) -> dict[str, Any]:
    """Join the facts of a model's results, of which some may be older than others."""
    speeds = [facts["images_per_second"] for facts in several if "images_per_second" in facts]
    joined = {name: value for facts in several for name, value in facts.items()}
    return {**joined, **({"images_per_second": median(speeds)} if speeds else {})}


def _text(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name == "samples_seen":  # 34B, 861M, 160k
        units = {"B": 1e9, "M": 1e6, "k": 1e3, "": 1}
        unit, size = next((u, size) for u, size in units.items() if value >= 0.9995 * size)
        return f"{value / size:.3g}{unit}"
    if name == "parameters":
        return f"{value / 1e6:.1f}"
    if name == "image_size":
        return "x".join(str(side) for side in dict.fromkeys(value))
    return f"{value:.2f}" if isinstance(value, float) else str(value)
