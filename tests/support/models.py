"""Made-up models of some skill, and their results on images that are the same for all."""

from __future__ import annotations

import hashlib
import json
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from support.results import figures_of, metric_names
from support.rows import make_row, write_result

from cosmos_eval.results.record import ResultRow
from cosmos_eval.stats.segmentation import pack
from cosmos_eval.types import Samples

HASHES = {name: letter * 64 for name, letter in (("class_names", "a"), ("templates", "b"))}
IMAGES = 120
CLASSES = 4

# The same for every model: what is on the images.
_TRUTH = np.random.default_rng(0)
LABELS = _TRUTH.integers(0, CLASSES, IMAGES)
HARDNESS = _TRUTH.random(IMAGES)


def _right(skill: float, rng: np.random.Generator, n: int = IMAGES) -> NDArray[np.bool_]:
    """Return whether a model of this skill in [0, 1] gets each of n images right, (n,)."""
    return rng.random(n) < skill - 0.2 + 0.4 * HARDNESS[:n]


def cls_samples(skill: float, rng: np.random.Generator) -> Samples:
    first = np.where(_right(skill, rng), LABELS, (LABELS + 1) % CLASSES)
    top = (first[:, None] + np.arange(CLASSES)) % CLASSES
    confidence = rng.uniform(1 / CLASSES, 1, IMAGES).astype(np.float32)
    classes = np.array(list("abcd"))
    return {"labels": LABELS, "top5": top, "confidence": confidence, "classes": classes}


def retrieval_samples(skill: float, rng: np.random.Generator) -> Samples:
    """Every image has a short caption, and a long one, of which some are cut."""
    image_of_text = np.repeat(np.arange(IMAGES), 2)
    words = np.tile([8, 90], IMAGES)
    chance = np.clip(skill - 0.2 + 0.4 * HARDNESS, 0.05, 1)
    return {
        "image_to_text_rank": np.minimum(rng.geometric(chance), 2 * IMAGES),
        "text_to_image_rank": np.minimum(rng.geometric(chance[image_of_text]), IMAGES),
        "image_of_text": image_of_text,
        "words": words,
        "cut": (words > 50) & (image_of_text % 4 > 0),
    }


def select_samples(skill: float, rng: np.random.Generator, shared: int = 1) -> Samples:
    """`shared` items in a row have one image."""
    return {
        "correct": _right(skill, rng),
        "subset": np.arange(IMAGES) % 3 // 2,
        "subsets": np.array(["one", "two"]),
        "averaged": np.ones(2, bool),
        "cluster": np.arange(IMAGES) // shared,
    }


def seg_samples(skill: float, rng: np.random.Generator, images: int = 30) -> Samples:
    confusions = []
    for image in range(images):
        counts = np.zeros((CLASSES, CLASSES), np.int64)
        for label in {int(LABELS[image]), int(LABELS[image + 1])}:
            right = rng.binomial(100, np.clip(skill + 0.2 * HARDNESS[image] - 0.1, 0, 1))
            counts[label, label] = right
            counts[label, (label + 1) % CLASSES] = 100 - right
        confusions.append(counts)
    return {
        "name": np.array([f"{n:03}" for n in range(images)]),
        **pack(confusions)._asdict(),
        "classes": np.array(list("abcd")),
        "groups": np.array(["things"]),
        "members": np.array([[True, True, False, False]]),
    }


def loc_samples(skill: float, rng: np.random.Generator) -> Samples:
    """A small and a large thing an image, of its label's class and the next."""
    image = np.repeat(np.arange(IMAGES), 2)
    noise = rng.normal(0, 0.05, (3, 2 * IMAGES))
    good = np.clip(skill + 0.2 * HARDNESS[image] - 0.1 + noise, 0.05, 0.95).astype(np.float32)
    return {
        "name": np.array([f"{n:03}" for n in range(IMAGES)]),
        "image_pixels": np.full(IMAGES, 1000),
        "labelled_pixels": np.full(IMAGES, 900),
        "classes": np.array(list("abcd")),
        "bounds": np.array([0.06, 0.2]),
        "image": image,
        "class": (LABELS[image] + np.arange(2 * IMAGES) % 2) % CLASSES,
        "thing_pixels": np.tile([50, 300], IMAGES),
        "mass": good[0],
        "hit": (good[1] > 0.5).astype(np.float32),
        "auc": good[2],
        "other_names": good[0][::-1] / 2,
    }


def multilabel_samples(skill: float, rng: np.random.Generator) -> Samples:
    """Images of a class or of two, which score higher the better the model is."""
    first, second = LABELS[:IMAGES, None], (LABELS[:IMAGES, None] + 1) % CLASSES
    classes, has_two = np.arange(CLASSES), np.arange(IMAGES)[:, None] % 3 == 0
    labels = (classes == first) | ((classes == second) & has_two)
    scores = np.clip(skill * labels + rng.normal(0, 0.3, labels.shape), -1, 1)
    return {
        "labels": labels,
        "scores": scores.astype(np.float32),
        "classes": np.array(list("abcd")),
    }


def faces_samples(skill: float, rng: np.random.Generator) -> Samples:
    """Labels that the model gives with a probability, else the next class."""
    labels = np.stack([LABELS, LABELS % 2, LABELS, LABELS != 1], axis=1).astype(np.int64)
    right = np.stack([_right(skill, rng) for _ in range(4)], axis=1)
    answers = labels[:, [2, 1, 0, 3]] * [1, 1, 1, 18]
    counts = {"race": CLASSES, "gender": 2, "age": CLASSES, "toxic": 21}
    return {
        "labels": labels,
        "predicted": np.where(right, answers, (answers + 1) % [*counts.values()]),
        "classes": np.array([f"{name}:{i}" for name, n in counts.items() for i in range(n)]),
    }


def assoc_samples(skill: float, rng: np.random.Generator) -> Samples:
    """Two items of the same candidates after each other, of which five are right."""
    hits = rng.binomial(5, np.clip(skill + 0.2 * HARDNESS - 0.1, 0, 1))
    return {
        "jaccard": hits / (10 - hits),
        "candidates": np.where(np.arange(IMAGES) < IMAGES // 2, 6, 12),
        "cluster": np.arange(IMAGES) // 2,
    }


def ood_samples(skill: float, rng: np.random.Generator) -> Samples:
    """Images inside and outside, whose scores differ the more the better the model is."""
    inside = np.arange(IMAGES) % 2 == 0
    scores = np.clip(0.4 + 0.4 * skill * inside + rng.normal(0, 0.2, (2, IMAGES)), 0, 1)
    mcm, max_logit = scores.astype(np.float32)
    return {"inside": inside, "mcm": mcm, "max_logit": max_logit}


def ratings_samples(skill: float, rng: np.random.Generator) -> Samples:
    rating = np.random.default_rng(0).integers(1, 5, IMAGES).astype(float)
    noise = rng.uniform(0, 1, IMAGES)
    return {
        "clip_score": skill * rating / 4 + (1 - skill) * noise,
        "rating": rating,
        "image": np.arange(IMAGES) // 2,
        "variant": np.array(["c"]),
    }


def ranking_samples(skill: float, rng: np.random.Generator) -> Samples:
    """Every query has two positives, and two queries in a row depend on each other."""
    chance = np.clip(skill - 0.2 + 0.4 * HARDNESS, 0.05, 1)
    first = rng.geometric(chance)
    ranks = np.stack([first, first + rng.geometric(chance)], axis=1)
    return {
        "cluster": np.arange(IMAGES) // 2,
        "direction": np.full(IMAGES, "text_to_image"),
        "query": np.repeat(np.arange(IMAGES), 2),
        "rank": ranks.ravel(),
        "item": np.tile([3, 4], IMAGES),
        "metrics": np.array(["mAP@R", "R-precision", "R@1"]),
    }


def probe_samples(skill: float, rng: np.random.Generator) -> Samples:
    linear, neighbours = (
        np.where(_right(skill - less, rng), LABELS, (LABELS + 1) % CLASSES) for less in (0, 0.1)
    )
    draws = [np.stack([_right(skill - less, rng) for _ in range(3)], 1) for less in (0.3, 0.2)]
    return {
        "labels": LABELS,
        "linear": linear,
        "neighbours": neighbours,
        "shots": np.array([1, 4]),
        "fewshot_correct": np.stack(draws),
        "classes": np.array(list("abcd")),
    }


def depth_probe_samples(skill: float, rng: np.random.Generator) -> Samples:
    error = np.clip(1 - skill + 0.2 * HARDNESS + 0.1 * rng.normal(size=IMAGES), 0.01, 2)
    deltas = {f"delta{n}": np.clip(1 - error / n, 0, 1) for n in (1, 2, 3)}
    names = np.array([f"{number}" for number in range(IMAGES)])
    pixels = 100 + np.arange(IMAGES)
    return {"name": names, "pixels": pixels, "rmse": error, "abs_rel": error / 3, **deltas}


def boxes_samples(skill: float, rng: np.random.Generator) -> Samples:
    """Two boxes of an image after each other; every fourth box is small."""
    samples = dict(cls_samples(skill, rng))
    n_missing = 5 - samples["top5"].shape[1]
    samples["top5"] = np.pad(samples["top5"], ((0, 0), (0, n_missing)), constant_values=-1)
    n_boxes = len(samples["labels"])
    return {
        **{name: samples[name] for name in ("labels", "top5", "confidence", "classes")},
        "image": np.arange(n_boxes) // 2,
        "area": np.where(np.arange(n_boxes) % 4 == 0, 0.001, 0.3),
        "bounds": np.array([0.01, 0.1]),
    }


SAMPLES = {
    "cls": cls_samples,
    "retrieval": retrieval_samples,
    "select": select_samples,
    "seg": seg_samples,
    "loc": loc_samples,
    "assoc": assoc_samples,
    "ratings": ratings_samples,
    "multilabel": multilabel_samples,
    "faces": faces_samples,
    "probe": probe_samples,
    "ood": ood_samples,
    "seg-probe": seg_samples,
    "depth-probe": depth_probe_samples,
    "boxes": boxes_samples,
    "ranking": ranking_samples,
}
_DENSE = ("seg", "loc", "seg-probe", "depth-probe")
_MAP = {"map": "text-to-patch similarity", "protocol_map": "text-to-patch similarity"}


@cache
def _drawn(
    task: str, skill: float, seed: int, metrics: tuple[str, ...]
) -> tuple[Samples, dict[str, Any]]:
    """Return the samples of a model, and their figures; `metrics` are the task's metrics."""
    samples = SAMPLES[task](skill, np.random.default_rng(seed))
    return samples, figures_of(task, samples)


def make_result(
    task: str = "cls",
    skill: float = 0.6,
    seed: int = 1,
    *,
    samples: Samples | None = None,
    **changes: Any,
) -> tuple[ResultRow, Samples]:
    """Return a result and its samples.

    `changes` are arguments of `make_row`, and `hashes` of its provenance, without empty ones.
    """
    if samples is None:
        samples, figures = deepcopy(_drawn(task, skill, seed, metric_names(task)))
    else:
        figures = figures_of(task, samples)
    data = {"sample_list": "c" * 64, "content": "d" * 64}
    hashes = {**HASHES, **data, **changes.pop("hashes", {})}
    provenance = {
        "hashes": {name: value for name, value in hashes.items() if value},
        "commit": "1" * 40,
        "dirty": False,
        **({"attention": "csa", "protocol_attention": "csa"} if task in _DENSE else {}),
        **(_MAP if task == "loc" else {}),
        **changes.pop("provenance", {}),
    }
    fields = {"dataset": f"scenes-{task}", **changes}
    row = make_row(task=task, provenance=provenance, **{**figures, **fields})
    return row, samples


def store(folder: Path, task: str = "cls", skill: float = 0.6, seed: int = 1, **more: Any) -> Path:
    """Write a made-up result into a folder; returns its file."""
    return write_result(folder, *make_result(task, skill, seed, **more))


def seal(baseline: Path) -> None:
    """Give a baseline that was edited the hash that its content has now."""
    document = json.loads(baseline.read_text())
    document.pop("baseline_sha256", None)
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    document["baseline_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    baseline.write_text(json.dumps(document))
