"""Facts of models beside their numbers, such as parameters and the size of images."""

from collections.abc import Iterable
from statistics import median
from typing import Any

from cosmos_eval.models.specs import RELEASED
from cosmos_eval.protocols.facts import profile_of, training_of
from cosmos_eval.results.leaderboard.entries import Entry
from cosmos_eval.results.table import Table, table_of_records
from cosmos_eval.results.text import rounded

COLUMNS = {
    "training_data": "training data",
    "samples_seen": "samples seen",
    "parameters": "params (M)",
    "image_gflops": "image GFLOPs",
    "text_gflops": "text GFLOPs",
    "image_size": "image size",
    "patch_size": "patch",
    "embedding_size": "embedding",
    "images_per_second": "images/s",
}
"""The titles of the facts that tables show, by the names of the facts in results."""

_NOTES = (
    "GFLOPs: 2 operations per multiply-accumulate, of one image and of one text that fills the "
    "context.",
    "Images/s: the median of the model's results, of images that were encoded in the run.",
    "Models that are not measured: OpenCLIP's profile of the architecture.",
)


def facts_of(entry: Entry) -> dict[str, Any]:
    """Return the known facts of an entry's model, such as its number of parameters, by name.

    They come from the result. For a published entry, and for a result without facts, they are the
    published facts of the model.

    Args:
        entry: One model's metrics on one data set, measured here or published elsewhere.

    Example:
        {"parameters": 151277313, "image_size": [224, 224], "images_per_second": 812.5}
    """
    if entry.stored is None:
        return stated_facts(entry.model)
    row = entry.stored.row
    if "facts" not in row.model:
        return stated_facts(row.model["spec"])
    facts = dict(row.model["facts"])
    facts["images_per_second"] = row.provenance.get("images_per_second")
    return {name: value for name, value in facts.items() if value is not None}


def stated_facts(model: str) -> dict[str, Any]:
    """Return the facts that are published about a model, by name.

    Args:
        model: The specification of the model, such as "openclip:ViT-B-32/openai".

    Returns:
        OpenCLIP's profile of the architecture, and the data and length of the training. The facts
        are empty for models that are neither OpenCLIP's nor released by COSMOS.
    """
    kind, _, name = model.partition(":")
    facts: dict[str, Any] = {}
    if kind == "openclip":
        architecture = name.partition("/")[0]
        facts.update(profile_of(architecture))
    elif kind == "cosmos":
        architecture = RELEASED.get(name, "")
        facts.update(profile_of(architecture))
        # COSMOS adds a module with parameters to the architecture of the profile. The features of
        # images and texts do not use it, so the GFLOPs stay valid.
        facts.pop("parameters", None)
    facts.update(training_of(model))
    return facts


def model_table(entries: Iterable[Entry]) -> Table:
    """Return the table of the facts of models, with one row per model and source of its results.

    Models without any known fact are left out. The source is a column if not all models were
    measured here.
    """
    # Collect the facts of all results of each model and source.
    facts_by_model: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for entry in entries:
        model = entry.stored.model if entry.stored else entry.model
        facts_by_model.setdefault((model, entry.source), []).append(facts_of(entry))
    known_models = [key for key in sorted(facts_by_model) if any(facts_by_model[key])]

    has_source = any(source != "measured" for _, source in known_models)
    records = []
    for model, source in known_models:
        record = {"model": model}
        if has_source:
            record["source"] = source
        facts = _join_facts(facts_by_model[model, source])
        for name, title in COLUMNS.items():
            record[title] = _fact_text(name, facts.get(name))
        records.append(record)

    # The names of a row are the model and perhaps the source. The next column, which also holds
    # texts, is the training data.
    n_text_columns = 3 if has_source else 2
    table = table_of_records(records, n_text_columns=n_text_columns)
    notes = _NOTES if has_source else _NOTES[:2]
    return table._replace(title="Models", notes=notes, label="models")


def _join_facts(facts_of_results: list[dict[str, Any]]) -> dict[str, Any]:
    """Join the facts that the results of one model have, by name.

    Results of older versions may lack facts that other results have. The speed in images per second
    is the median over the results. Every other fact comes from the last result that has it.
    """
    joined_facts: dict[str, Any] = {}
    speeds = []
    for facts in facts_of_results:
        joined_facts.update(facts)
        if "images_per_second" in facts:
            speeds.append(facts["images_per_second"])
    if speeds:
        joined_facts["images_per_second"] = median(speeds)
    return joined_facts


def _fact_text(name: str, value: Any) -> str:
    """Return a fact as text for the table, which is empty if the fact is unknown.

    Args:
        name: The name of the fact in results, such as "parameters".
        value: The fact, or None.

    Example:
        _fact_text("parameters", 151277313) -> "151.3", which are millions
        _fact_text("image_size", [224, 224]) -> "224"
    """
    if value is None:
        return ""
    if name == "samples_seen":
        return count_text(value)
    if name == "parameters":
        return str(rounded(value / 1e6, 1))
    if name == "image_size":
        distinct_sides = dict.fromkeys(value)  # one side for a square
        return "x".join(str(side) for side in distinct_sides)
    if isinstance(value, float):
        return str(rounded(value, 2))
    return str(value)


def count_text(count: float) -> str:
    """Return a count with three digits and a unit.

    Example: 34e9 -> "34B", 861.2e6 -> "861M", 999.6e6 -> "1B".
    """
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        rounds_to_one_unit = count >= 0.9995 * size
        if rounds_to_one_unit:
            return f"{count / size:.3g}{unit}"
    return f"{count:.3g}"
