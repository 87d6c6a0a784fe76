"""Samples of all tasks in which an array is changed, with hashes and figures that follow from them.

`verify` may pass them only if every value is one that a measurement can give. That is decided here
by sets of Python's numbers, not by what the tasks declare.
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


def _one_value(rng: Random, array: Any) -> Any:
    if array.dtype.kind == "U":
        changed = array.astype("U9")
        changed.flat[rng.randrange(array.size)] = rng.choice(("", "x", "\0", "=1+1"))
        return changed
    number = rng.choice(_ODD_FLOATS)
    changed = array.copy()
    if array.dtype.kind == "f" or number != number or rng.random() < 0.3:
        changed = array.astype(np.float64)
    elif not isinstance(number, int):
        number = 0
    with np.errstate(all="ignore"):
        try:
            changed.flat[rng.randrange(array.size)] = number
        except OverflowError:  # 10**10 is no int8
            return changed.astype(np.float64) + number
    return changed


def _other_type(rng: Random, array: Any) -> Any:
    try:
        return array.astype(rng.choice(_TYPES))
    except ValueError:
        return array.astype("U5")


CHANGES: Mapping[str, Callable[[Random, Any], Any]] = {
    "one value": _one_value,
    "one value again": _one_value,
    "another type": _other_type,
    "shorter": lambda rng, array: array[: rng.randrange(len(array))],
    "longer": lambda rng, array: np.concatenate([array, array[: rng.randrange(1, len(array) + 1)]]),
    "very long": lambda rng, array: np.zeros((5_000_000, *array.shape[1:]), "int8"),
    "an axis more": lambda rng, array: array[None],
    "flat": lambda rng, array: array.ravel(),
    "one number": lambda rng, array: np.array(rng.choice((0, 3))),
    "in another order": lambda rng, array: array[::-1],
}


def change_array(rng: Random, folder: Path) -> str:
    """Change or remove one array of the result in a folder, and forge what follows from it."""
    (path,) = (folder / "results").glob("*.json")
    with np.load(path.with_name(read_result(path).samples)) as archive:
        samples = {name: archive[name] for name in archive}
    name = rng.choice(sorted(samples))
    how = rng.choice([*CHANGES, "removed", "that of another array"])
    if how == "removed":
        del samples[name]
    elif how == "that of another array":
        samples[name] = samples[rng.choice(sorted(samples))]
    else:
        samples[name] = CHANGES[how](rng, samples[name])
    try:
        if max(array.size for array in samples.values()) > 100_000 or _has_large_index(samples):
            raise ValueError("figures of it are not to be computed here")
        with np.errstate(all="ignore"):
            forge_samples(path, samples)
            read_result(path)
    except Exception:  # no figures follow: they stay as they were
        (path,) = (folder / "results").glob("*.json")
        _restore(path, folder)
        forge(path, packed(samples))
    return f"`{name}`: {how}"


def _has_large_index(samples: Samples) -> bool:
    whole = [a for a in samples.values() if a.dtype.kind in "iu" and a.size]
    return any(int(array.max()) > 1_000_000 for array in whole)


def _restore(path: Path, folder: Path) -> None:
    for file in (folder.with_name("pristine") / "results").iterdir():
        path.with_name(file.name).write_bytes(file.read_bytes())


def _is_within(array: Any, values: range) -> bool:
    return set(array.ravel().tolist()) <= set(values)


def _is_share(array: Any, least: float = 0.0) -> bool:
    return all(least - 0.01 <= value <= 1.01 for value in array.ravel().tolist())


def _retrieval(s: Samples) -> bool:
    images, texts = len(s["image_to_text_rank"]), len(s["text_to_image_rank"])
    ranks = _is_within(s["image_to_text_rank"], range(1, texts + 1))
    ranks &= _is_within(s["text_to_image_rank"], range(1, images + 1))
    owners = set(s["image_of_text"].tolist()) == set(range(images))
    return ranks and owners and len(s["image_of_text"]) == texts


def _cls(s: Samples) -> bool:
    n, classes = len(s["labels"]), len(s["classes"])
    indices = _is_within(s["labels"], range(classes)) and s["top5"].ndim == 2
    indices &= _is_within(s["top5"], range(-1, classes)) and len(s["top5"]) == n
    return indices and ("confidence" not in s or _is_share(s["confidence"]))


def _multilabel(s: Samples) -> bool:
    shape = s["scores"].shape
    return (
        s["labels"].shape == shape
        and shape[1] == len(s["classes"])
        and _is_within(s["labels"], range(2))
        and _is_share(s["scores"], -1.0)
    )


def _faces(s: Samples) -> bool:
    questions = [name.partition(":")[0] for name in s["classes"].tolist()]
    counts = {name: range(questions.count(name)) for name in ("race", "gender", "age", "toxic")}
    of_labels = counts["age"], counts["gender"], counts["race"], range(2)
    pairs = [*zip(s["labels"].T, of_labels, strict=True)]
    pairs += zip(s["predicted"].T, counts.values(), strict=True)
    return all(_is_within(column, values) for column, values in pairs)


def _seg(s: Samples) -> bool:
    images, classes = len(s["name"]), len(s["classes"])
    lengths = {len(s[name]) for name in ("image", "pair", "pixels")}
    indices = _is_within(s["image"], range(images)) and _is_within(s["pair"], range(classes**2))
    whole = all(isinstance(n, int) and n >= 0 for n in s["pixels"].tolist())
    return indices and whole and len(lengths) == 1


def _select(s: Samples) -> bool:
    return _is_within(s["subset"], range(len(s["subsets"]))) and _is_within(s["correct"], range(2))


def _loc(s: Samples) -> bool:
    shares = all(_is_share(s[name]) for name in ("mass", "hit", "auc", "bounds"))
    others = _is_share(s["other_names"][~np.isnan(s["other_names"])])
    indices = _is_within(s["image"], range(len(s["name"])))
    return shares and others and indices and _is_within(s["class"], range(len(s["classes"])))


def _assoc(s: Samples) -> bool:
    return _is_share(s["jaccard"]) and min(s["candidates"].tolist()) >= 1


def _ratings(s: Samples) -> bool:
    scores = s["clip_score"]
    is_score = scores.min() >= -0.005 and scores.max() <= 2.505
    return bool(is_score) and s["image"].min() >= 0 and s["variant"][0] in ("b", "c")


def _ranking(s: Samples) -> bool:
    queries = range(len(s["cluster"]))
    return set(s["query"].tolist()) == set(queries) and min(s["rank"].tolist()) >= 1


def _probe(s: Samples) -> bool:
    classes = range(len(s["classes"]))
    indices = all(_is_within(s[name], classes) for name in ("labels", "linear", "neighbours"))
    return indices and _is_within(s["fewshot_correct"], range(2)) and min(s["shots"].tolist()) > 0


def _ood(s: Samples) -> bool:
    is_cosine = bool((np.abs(s["max_logit"]) <= 1).all())
    return _is_within(s["inside"], range(2)) and _is_share(s["mcm"]) and is_cosine


def _depth_probe(s: Samples) -> bool:
    known = s["pixels"] > 0
    shares = all(_is_share(s[f"delta{n}"][known]) for n in (1, 2, 3))
    return shares and all(bool((s[name][known] >= 0).all()) for name in ("rmse", "abs_rel"))


def _boxes(s: Samples) -> bool:
    return _cls(s) and _is_share(s["area"]) and _is_share(s["bounds"])


POSSIBLE: Mapping[str, Callable[[Samples], bool]] = {
    "retrieval": _retrieval,
    "cls": _cls,
    "multilabel": _multilabel,
    "faces": _faces,
    "seg": _seg,
    "select": _select,
    "loc": _loc,
    "assoc": _assoc,
    "ratings": _ratings,
    "probe": _probe,
    "ood": _ood,
    "seg-probe": _seg,
    "depth-probe": _depth_probe,
    "boxes": _boxes,
    "ranking": _ranking,
}


def _judge(task: str, copy: Path, _: Path, __: Outcome, ___: Outcome) -> Iterator[str]:
    (path,) = (copy / "results").glob("*.json")
    with np.load(path.with_name(json.loads(path.read_text())["samples"])) as archive:
        samples = {name: archive[name] for name in archive}
    if not POSSIBLE[task](samples):
        yield "samples that no measurement gives pass"


def _store(task: str, folder: Path) -> None:
    store(folder / "results", task)


KINDS = tuple(
    Kind(
        f"samples {task}",
        partial(_store, task),
        change_array,
        lambda folder: ["verify", str(folder / "results")],
        partial(_judge, task),
        reports=True,
        verdicts=(1,),
        memory=MEMORY,
    )
    for task in POSSIBLE
)
