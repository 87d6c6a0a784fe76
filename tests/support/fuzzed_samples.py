"""Samples of all tasks with a changed array, and results whose hashes and figures follow from them.

`verify` may pass them only if a measurement can give every value. This module decides that by sets
of Python's numbers, not by what the tasks declare.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from support.forging import forge, forge_samples, packed
from support.fuzzing import Kind, Outcome
from support.models import store

from cosmos_eval.results.store import read_result

MEMORY = 2 << 30
"""Bytes that `verify` may take for files of some kilobytes."""

Samples = dict[str, Any]
_ODD_NUMBERS = (0, 1, -1, -2, 2, 7, 255, 2**31, 10**10, 2**62, 0.5, 1.5, -0.5, 1e300)
_ODD_FLOATS = (*_ODD_NUMBERS, float("nan"), float("inf"), float("-inf"))
_TYPES = ("int8", "uint64", "float64", "float16", "bool", "complex64", "U3", "S3", "M8[s]")


def _change_one_value(rng: Random, array: Any) -> Any:
    if array.dtype.kind == "U":
        changed = array.astype("U9")
        changed.flat[rng.randrange(array.size)] = rng.choice(("", "x", "\0", "=1+1"))
        return changed
    number = rng.choice(_ODD_FLOATS)
    changed = array.copy()
    if array.dtype.kind == "f" or np.isnan(number) or rng.random() < 0.3:
        changed = array.astype(np.float64)
    elif not isinstance(number, int):
        number = 0
    with np.errstate(all="ignore"):
        try:
            changed.flat[rng.randrange(array.size)] = number
        except OverflowError:  # 10**10, for example, is too large for int8
            return changed.astype(np.float64) + number
    return changed


def _change_type(rng: Random, array: Any) -> Any:
    try:
        return array.astype(rng.choice(_TYPES))
    except ValueError:
        return array.astype("U5")


def _shorten(rng: Random, array: Any) -> Any:
    return array[: rng.randrange(len(array))]


def _lengthen(rng: Random, array: Any) -> Any:
    return np.concatenate([array, array[: rng.randrange(1, len(array) + 1)]])


def _make_very_long(rng: Random, array: Any) -> Any:
    return np.zeros((5_000_000, *array.shape[1:]), "int8")


def _add_axis(rng: Random, array: Any) -> Any:
    return array[None]


def _flatten(rng: Random, array: Any) -> Any:
    return array.ravel()


def _replace_by_a_number(rng: Random, array: Any) -> Any:
    return np.array(rng.choice((0, 3)))


def _reverse(rng: Random, array: Any) -> Any:
    return array[::-1]


CHANGES: Mapping[str, Callable[[Random, Any], Any]] = {
    "one value": _change_one_value,
    "one value again": _change_one_value,  # as likely as two other changes
    "another type": _change_type,
    "shorter": _shorten,
    "longer": _lengthen,
    "very long": _make_very_long,
    "an axis more": _add_axis,
    "flat": _flatten,
    "one number": _replace_by_a_number,
    "in another order": _reverse,
}


def _read_samples(folder: Path) -> tuple[Path, Samples]:
    """Return the path of the one result in a folder, and its samples."""
    (path,) = (folder / "results").glob("*.json")
    with np.load(path.with_name(json.loads(path.read_text())["samples"])) as archive:
        return path, {name: archive[name] for name in archive}


def change_array(rng: Random, folder: Path) -> str:
    """Change or remove one array of the result in a folder, and forge hashes and figures to match.

    If no figures follow from the changed array, the stored ones are kept.
    """
    path, samples = _read_samples(folder)
    name = rng.choice(sorted(samples))
    change = rng.choice([*CHANGES, "removed", "that of another array"])
    if change == "removed":
        del samples[name]
    elif change == "that of another array":
        samples[name] = samples[rng.choice(sorted(samples))]
    else:
        samples[name] = CHANGES[change](rng, samples[name])
    try:
        if max(array.size for array in samples.values()) > 100_000 or _has_large_index(samples):
            raise ValueError("figures of such samples take too much time or memory")
        with np.errstate(all="ignore"):
            forge_samples(path, samples)
            read_result(path)
    except Exception:
        (path,) = (folder / "results").glob("*.json")
        _restore(path, folder)
        forge(path, packed(samples))
    return f"`{name}`: {change}"


def _has_large_index(samples: Samples) -> bool:
    for array in samples.values():
        if array.dtype.kind in "iu" and array.size and int(array.max()) > 1_000_000:
            return True
    return False


def _restore(path: Path, folder: Path) -> None:
    """Write the undamaged files of the result again."""
    for file in (folder.with_name("pristine") / "results").iterdir():
        path.with_name(file.name).write_bytes(file.read_bytes())


def _is_within(array: Any, values: range) -> bool:
    return set(array.ravel().tolist()) <= set(values)


def _is_fraction(array: Any, low: float = 0.0) -> bool:
    """Return whether all values are in [low, 1], with 0.01 at both ends for rounding errors."""
    return all(low - 0.01 <= value <= 1.01 for value in array.ravel().tolist())


def _is_possible_retrieval(samples: Samples) -> bool:
    n_images, n_texts = len(samples["image_to_text_rank"]), len(samples["text_to_image_rank"])
    return (
        _is_within(samples["image_to_text_rank"], range(1, n_texts + 1))
        and _is_within(samples["text_to_image_rank"], range(1, n_images + 1))
        and set(samples["image_of_text"].tolist()) == set(range(n_images))
        and len(samples["image_of_text"]) == n_texts
    )


def _is_possible_classification(samples: Samples) -> bool:
    n_classes = len(samples["classes"])
    return (
        _is_within(samples["labels"], range(n_classes))
        and samples["top5"].ndim == 2
        and _is_within(samples["top5"], range(-1, n_classes))
        and len(samples["top5"]) == len(samples["labels"])
        and ("confidence" not in samples or _is_fraction(samples["confidence"]))
    )


def _is_possible_multilabel(samples: Samples) -> bool:
    shape = samples["scores"].shape
    return (
        samples["labels"].shape == shape
        and shape[1] == len(samples["classes"])
        and _is_within(samples["labels"], range(2))
        and _is_fraction(samples["scores"], -1.0)
    )


def _is_possible_faces(samples: Samples) -> bool:
    """The columns of labels are age, gender, race and whether a face is not white; the columns of
    predictions are race, gender, age and toxic."""
    questions = [name.partition(":")[0] for name in samples["classes"].tolist()]
    answers = {name: range(questions.count(name)) for name in ("race", "gender", "age", "toxic")}
    values_of_labels = answers["age"], answers["gender"], answers["race"], range(2)
    columns = [*zip(samples["labels"].T, values_of_labels, strict=True)]
    columns += zip(samples["predicted"].T, answers.values(), strict=True)
    return all(_is_within(column, values) for column, values in columns)


def _is_possible_segmentation(samples: Samples) -> bool:
    lengths = {len(samples[name]) for name in ("image", "pair", "pixels")}
    pixels = samples["pixels"].tolist()
    return (
        _is_within(samples["image"], range(len(samples["name"])))
        and _is_within(samples["pair"], range(len(samples["classes"]) ** 2))
        and all(isinstance(count, int) and count >= 0 for count in pixels)
        and len(lengths) == 1
    )


def _is_possible_selection(samples: Samples) -> bool:
    subsets = range(len(samples["subsets"]))
    return _is_within(samples["subset"], subsets) and _is_within(samples["correct"], range(2))


def _is_possible_localisation(samples: Samples) -> bool:
    other_names = samples["other_names"]
    return (
        all(_is_fraction(samples[name]) for name in ("mass", "hit", "auc", "bounds"))
        and _is_fraction(other_names[~np.isnan(other_names)])
        and _is_within(samples["image"], range(len(samples["name"])))
        and _is_within(samples["class"], range(len(samples["classes"])))
    )


def _is_possible_association(samples: Samples) -> bool:
    return _is_fraction(samples["jaccard"]) and min(samples["candidates"].tolist()) >= 1


def _are_possible_ratings(samples: Samples) -> bool:
    """CLIPScore is 2.5 times the cosine and at least 0; 0.005 at both ends is for rounding."""
    scores = samples["clip_score"]
    is_clip_score = scores.min() >= -0.005 and scores.max() <= 2.505
    is_index = samples["image"].min() >= 0
    return bool(is_clip_score) and is_index and samples["variant"][0] in ("b", "c")


def _is_possible_ranking(samples: Samples) -> bool:
    queries = set(range(len(samples["cluster"])))
    return set(samples["query"].tolist()) == queries and min(samples["rank"].tolist()) >= 1


def _is_possible_probe(samples: Samples) -> bool:
    classes = range(len(samples["classes"]))
    return (
        all(_is_within(samples[name], classes) for name in ("labels", "linear", "neighbours"))
        and _is_within(samples["fewshot_correct"], range(2))
        and min(samples["shots"].tolist()) > 0
    )


def _is_possible_ood(samples: Samples) -> bool:
    is_cosine = bool((np.abs(samples["max_logit"]) <= 1).all())
    return _is_within(samples["inside"], range(2)) and _is_fraction(samples["mcm"]) and is_cosine


def _is_possible_depth_probe(samples: Samples) -> bool:
    has_depth = samples["pixels"] > 0
    deltas = [samples[f"delta{number}"][has_depth] for number in (1, 2, 3)]
    errors = [samples[name][has_depth] for name in ("rmse", "abs_rel")]
    return all(map(_is_fraction, deltas)) and all(bool((error >= 0).all()) for error in errors)


def _are_possible_boxes(samples: Samples) -> bool:
    return (
        _is_possible_classification(samples)
        and _is_fraction(samples["area"])
        and _is_fraction(samples["bounds"])
    )


POSSIBLE: Mapping[str, Callable[[Samples], bool]] = {
    "retrieval": _is_possible_retrieval,
    "cls": _is_possible_classification,
    "multilabel": _is_possible_multilabel,
    "faces": _is_possible_faces,
    "seg": _is_possible_segmentation,
    "select": _is_possible_selection,
    "loc": _is_possible_localisation,
    "assoc": _is_possible_association,
    "ratings": _are_possible_ratings,
    "probe": _is_possible_probe,
    "ood": _is_possible_ood,
    "seg-probe": _is_possible_segmentation,
    "depth-probe": _is_possible_depth_probe,
    "boxes": _are_possible_boxes,
    "ranking": _is_possible_ranking,
}
"""Whether a measurement of a task can give such samples."""


def _judge(
    task: str, copy: Path, pristine: Path, outcome: Outcome, reference: Outcome
) -> Iterator[str]:
    _, samples = _read_samples(copy)
    if not POSSIBLE[task](samples):
        yield "samples that no measurement gives pass"


def _store(task: str, folder: Path) -> None:
    store(folder / "results", task)


def _verify(folder: Path) -> list[str]:
    return ["verify", str(folder / "results")]


KINDS = tuple(
    Kind(
        f"samples {task}",
        partial(_store, task),
        change_array,
        _verify,
        partial(_judge, task),
        reports=True,
        verdicts=(1,),
        memory=MEMORY,
    )
    for task in POSSIBLE
)
