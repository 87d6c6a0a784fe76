"""The setting of a result: the fields that decide which number is measured.

Numbers of two models are comparable only if the settings of their results agree. Imports neither
torch nor SciPy.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from typing import Any

from cosmos_eval.results.identity import CONTENT, STOPPED, has_other_attention
from cosmos_eval.results.record import ResultRow
from cosmos_eval.types import SUM_OF_FEATURES

_TUNED_FIELDS = ("attention", "hashes.constants", "hashes.queries", "hashes.templates")
"""Fields of a setting that are left out if a search chose their values for each model."""
SAMPLE_LISTS = ("hashes.sample_list", "hashes.samples")
"""Fields that may hold the hash of the list of samples. A setting has one of them."""
_CONTENT = f"hashes.{CONTENT}"
DATA_FIELDS = ("repository", "revision", _CONTENT)
"""Fields of a setting that are compared only if both have them: not every result records them."""
TEXT_WEIGHT = "text weight"
FIELDS_OF_SAMPLES = ("sample list", "samples")
"""Fields of `column_fields` about the samples that were measured, not about how."""
CONDITIONS = ("map", "pair_score", "composition", "precision", "device", "version", "dirty")
"""Fields of the provenance that may differ between comparable results, with a note."""
_PROVENANCE_FIELDS = ("attention", "limit", "partial", STOPPED, "repository", "revision")
_EXPLANATIONS = {_CONTENT: " (images, label maps and labels that were measured)"}
_HASH_LENGTH = 12  # characters of a hash that is shown


def setting_of_result(row: ResultRow) -> dict[str, Any]:
    """Return the setting of a result: all fields except the model that decide what it measures.

    Results can be compared if their settings agree.

    Example:
        {"task": "cls", "dataset": "imagenet1k", "protocol": "clip", "limit": None,
        "n_samples": 50000, "hashes.sample_list": "1a2b...", "hashes.templates": "3c4d..."}
    """
    return make_setting(row.task, row.dataset, row.protocol, row.n_samples, row.provenance)


def make_setting(
    task: str, dataset: str, protocol: str, n_samples: int, provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the setting of a result, see `setting_of_result`, from the fields that it needs.

    Args:
        task: The name of the task.
        dataset: The name of the data set.
        protocol: The name of the protocol.
        n_samples: The number of samples.
        provenance: The provenance, or those fields of it that are known before a measurement.
    """
    setting: dict[str, Any] = {"task": task, "dataset": dataset, "protocol": protocol}
    for name in _PROVENANCE_FIELDS:
        if name in provenance:
            setting[name] = provenance[name]
    setting["n_samples"] = n_samples
    for name, sha256 in sorted(provenance["hashes"].items()):
        setting[f"hashes.{name}"] = sha256

    # Fields that a search chose for each model may differ between comparable results.
    is_tuned = "tuned" in provenance
    if is_tuned:
        for name in _TUNED_FIELDS:
            setting.pop(name, None)
    return setting


def column_fields(row: ResultRow) -> dict[str, str]:
    """Return the fields of a setting in which results of one column of a table must agree, as text.

    These are all fields but the data set and its version, see `data_identity`, the number of
    samples, which follows from their list, and what was measured in part, which is never ranked.
    A field that is not recorded is left out. So is what follows from another form of attention than
    the protocol's, which the label of the model names.

    Example:
        {"templates": "1a2b...", "sample list": "3c4d..."}
    """
    setting = setting_of_result(row)
    names = ["attention", *sorted(name for name in setting if name.startswith("hashes."))]
    if has_other_attention(row.provenance):
        names = [name for name in names if name not in ("attention", "hashes.constants")]
    fields = {}
    for name in names:
        if name not in DATA_FIELDS and setting.get(name) is not None:
            fields[name.removeprefix("hashes.").replace("_", " ")] = str(setting[name])
    text_weight = text_weight_of(row.provenance)
    if text_weight is not None:
        fields[TEXT_WEIGHT] = text_weight
    return fields


def text_weight_of(provenance: Mapping[str, Any]) -> str | None:
    """Return the weight of texts in queries of an image and a text, by the protocol, as text.

    None if there are no such queries, or if the model has its own way to compose them.
    """
    composition = str(provenance.get("composition", ""))
    if not composition.startswith(SUM_OF_FEATURES):
        return None
    return composition.removeprefix(SUM_OF_FEATURES)


def differing_conditions(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[str]:
    """Yield one line for each of `CONDITIONS` in which the provenances of two results differ.

    Example:
        "precision is fp32 and bf16"
    """
    for name in CONDITIONS:
        value_a, value_b = a.get(name), b.get(name)
        if value_a != value_b:
            yield f"{name} is {value_a} and {value_b}"


def describe_mismatches(setting_a: Mapping[str, Any], setting_b: Mapping[str, Any]) -> list[str]:
    """Return one line for each field in which two settings differ, such as "limit is 100 and none".

    A field that only one setting has is a difference, except for the repository, the revision and
    the hash of the content, which older results do not record. Settings without a hash of the list
    of samples never agree, since it is unknown whether they have the same samples. The setting of a
    run that stopped before the last sample agrees with no other one.

    Args:
        setting_a: The setting of a result A, from `setting_of_result`.
        setting_b: The setting of a result B.
    """
    if STOPPED in setting_a or STOPPED in setting_b:
        return ["a run stopped before the last sample, which only `check --sequential` judges"]
    mismatches = []
    all_names = dict.fromkeys([*setting_a, *setting_b])
    for name in all_names:
        is_in_both = name in setting_a and name in setting_b
        if is_in_both and setting_a[name] == setting_b[name]:
            continue
        if not is_in_both and name in DATA_FIELDS:
            continue
        explanation = _EXPLANATIONS.get(name, "")
        value_a = _field_text(setting_a, name)
        value_b = _field_text(setting_b, name)
        mismatches.append(f"{name}{explanation} is {value_a} and {value_b}")

    has_sample_list = any(setting_a.get(name) for name in SAMPLE_LISTS)
    if not has_sample_list:
        mismatches.append("hashes.sample_list is not recorded, so that the samples may differ")
    return mismatches


def require_same_settings(settings: Iterable[Mapping[str, Any]]) -> None:
    """Raise ValueError if any two of several settings differ, and name the fields.

    All pairs are compared. It is not enough to compare with the first setting: a field that it does
    not record may still differ between two others.

    Args:
        settings: The settings of results, from `setting_of_result`.
    """
    for setting_a, setting_b in combinations(settings, 2):
        mismatches = describe_mismatches(setting_a, setting_b)
        if mismatches:
            raise ValueError("; ".join(mismatches))


def has_content(setting: Mapping[str, Any]) -> bool:
    """Return whether a setting has the hash of the images and labels themselves."""
    return bool(setting.get(_CONTENT))


def _field_text(setting: Mapping[str, Any], name: str) -> str:
    """Return the value of a field of a setting as text, in which hashes are cut short.

    A field that the setting does not have is "missing", and the value None is "none".
    """
    value = setting.get(name, "missing")
    if value is None:
        return "none"
    text = str(value)
    is_hash = name.startswith("hashes.") or name == "revision"
    if is_hash:
        return text[:_HASH_LENGTH]
    return text
