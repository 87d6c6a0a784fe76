"""No metric of any task is known exactly, not even of samples that are all right or all alike."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from support.results import store_result

from cosmos_eval.stats.segmentation import pack
from cosmos_eval.tasks import TASKS, task_named
from cosmos_eval.types import Samples

NAMES = np.array(list("abc"))


def cls(n: int, labels: np.ndarray, score: float) -> Samples:
    predicted = labels if score == 1 else (labels + 1) % 3
    if score == 0.5:
        predicted = np.zeros(n, int)
    return {
        "labels": labels,
        "top5": (predicted[:, None] + np.arange(3)) % 3,
        "confidence": np.full(n, score or 0.9, np.float32),
        "classes": NAMES,
        "group": np.arange(n) % 2,
        "groups": NAMES[:2],
        "metrics": np.array(["worst_group_acc5", "f1_macro"]),
    }


def multilabel(n: int, labels: np.ndarray, score: float) -> Samples:
    is_of = labels[:, None] == np.arange(3)
    scores = np.full((n, 3), 0.5) if score == 0.5 else is_of * (2 * score - 1)
    return {"labels": is_of, "scores": scores.astype(np.float32), "classes": NAMES}


def faces(n: int, labels: np.ndarray, score: float) -> Samples:
    truth = np.stack([labels, labels % 2, labels, labels != 1], axis=1)
    answers = np.stack([labels, labels % 2, labels, np.zeros(n, int)], axis=1)
    wrong = np.stack([(labels + 1) % 3, 1 - labels % 2, (labels + 1) % 3, np.full(n, 18)], axis=1)
    return {"labels": truth, "predicted": answers if score == 1 else wrong, "classes": NAMES}


def retrieval(n: int, labels: np.ndarray, score: float) -> Samples:
    rank = 1 if score == 1 else 2 * n
    images = np.repeat(np.arange(n), 2)
    return {
        "image_to_text_rank": np.full(n, rank),
        "text_to_image_rank": np.full(2 * n, rank),
        "image_of_text": images,
        "words": np.full(2 * n, 7),
        "cut": np.zeros(2 * n, bool),
    }


def select(n: int, labels: np.ndarray, score: float) -> Samples:
    """Of scores of 0.5, all items of one subset are right and all of another are wrong."""
    hits = np.full(n, score == 1) if score != 0.5 else labels == 0
    return {
        **dict.fromkeys(("correct", "text_correct", "image_correct"), hits),
        "subset": labels,
        "subsets": NAMES,
        "averaged": np.ones(3, bool),
        "cluster": np.arange(n) // 2,
        "pair": np.arange(n) // 2,
        "set": np.arange(n) // 4,
    }


def assoc(n: int, labels: np.ndarray, score: float) -> Samples:
    candidates = np.where(np.arange(n) < n // 2, 6, 12)
    return {"jaccard": np.full(n, score), "candidates": candidates, "cluster": np.arange(n)}


def seg(n: int, labels: np.ndarray, score: float) -> Samples:
    confusions = []
    for label in labels:
        pixels = np.zeros((3, 3), np.int64)
        pixels[label, label], pixels[label, (label + 1) % 3] = 100 * score, 100 * (1 - score)
        confusions.append(pixels)
    return {
        "name": np.arange(n).astype(str),
        **pack(confusions)._asdict(),
        "classes": NAMES,
        "groups": np.array(["things"]),
        "members": np.array([[True, True, True]]),
    }


def loc(n: int, labels: np.ndarray, score: float) -> Samples:
    return {
        "name": np.arange(n).astype(str),
        "image_pixels": np.full(n, 100),
        "labelled_pixels": np.full(n, 80),
        "classes": NAMES,
        "bounds": np.array([0.06, 0.2]),
        "image": np.repeat(np.arange(n), 2),
        "class": np.repeat(labels, 2),
        "thing_pixels": np.tile([5, 40], n),
        **{name: np.full(2 * n, score, np.float32) for name in ("mass", "hit", "auc")},
        "other_names": np.full(2 * n, 0.25, np.float32),
    }


def probe(n: int, labels: np.ndarray, score: float) -> Samples:
    predicted = labels if score == 1 else (labels + 1) % 3
    return {
        "labels": labels,
        "linear": predicted if score != 0.5 else np.zeros(n, int),
        "neighbours": predicted,
        "shots": np.array([1]),
        "fewshot_correct": np.full((1, n, 3), score == 1),
        "classes": NAMES,
    }


def ood(n: int, labels: np.ndarray, score: float) -> Samples:
    inside = np.arange(max(2, n)) % 2 == 0  # one image of each kind at least
    scores = np.where(inside, score, 1 - score).astype(np.float32)
    return {"inside": inside, "mcm": scores, "max_logit": scores}


def depth_probe(n: int, labels: np.ndarray, score: float) -> Samples:
    error = np.full(n, 1.0 - score)
    return {
        "name": np.array([f"{number}" for number in range(n)]),
        "pixels": np.full(n, 9),
        **dict.fromkeys(("rmse", "abs_rel"), error),
        **{f"delta{power}": np.full(n, float(score)) for power in (1, 2, 3)},
    }


def boxes(n: int, labels: np.ndarray, score: float) -> Samples:
    samples = {name: cls(n, labels, score)[name] for name in ("labels", "confidence", "classes")}
    return {
        **samples,
        "top5": np.pad(cls(n, labels, score)["top5"], ((0, 0), (0, 2)), constant_values=-1),
        "image": np.arange(n) // 2,
        "area": np.full(n, 0.5),
        "bounds": np.array([0.01, 0.1]),
    }


def ranking(n: int, labels: np.ndarray, score: float) -> Samples:
    return {
        "cluster": np.arange(n),
        "direction": np.full(n, ""),
        "query": np.arange(n),
        "rank": np.full(n, 1 if score == 1 else 60),
        "item": np.zeros(n, int),
        "metrics": np.array(["mAP@R", "R-precision", "R@1", "mAP@5"]),
    }


SAMPLES: dict[str, Callable[[int, np.ndarray, float], Samples]] = {
    **{"cls": cls, "multilabel": multilabel, "faces": faces, "retrieval": retrieval},
    **{"select": select, "assoc": assoc, "seg": seg, "loc": loc, "probe": probe, "ood": ood},
    **{"seg-probe": seg, "depth-probe": depth_probe, "boxes": boxes, "ranking": ranking},
}
CASES = {
    **{f"all {name}": (12, 3, score) for name, score in (("right", 1), ("wrong", 0))},
    **{f"one sample {name}": (1, 1, score) for name, score in (("right", 1), ("wrong", 0))},
    **{f"one class {name}": (12, 1, score) for name, score in (("right", 1), ("wrong", 0))},
    **{"constant scores": (12, 3, 0.5), "constant scores of one class": (12, 1, 0.5)},
    **{"classes of one sample": (3, 3, 1), "a constant sample": (1, 1, 0.5)},
}


def samples_of(task: str, case: str) -> Samples:
    n, n_classes, score = CASES[case]
    return SAMPLES[task](n, np.arange(n) % n_classes, score)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", [name for name in TASKS if name != "ratings"])
def test_every_interval_has_a_width(name: str, case: str) -> None:
    """Fractions have an interval; ranks and ratios, which have no upper end, may have none. A
    median may be known exactly: more than half of all ranks are the same."""
    task = task_named(name)
    figures = task.figures(samples_of(name, case), 0)
    assert figures.metrics
    for metric, value in figures.metrics.items():
        known = task.metric(metric)
        interval = figures.intervals.get(metric)
        if known.reference or "median" in metric or (known.unit != "fraction" and not interval):
            continue
        assert interval, metric
        assert interval.high - interval.low > 0.01, metric
        assert interval.low - 1e-9 <= value <= interval.high + 1e-9, metric
        if known.unit == "fraction":
            assert 0 <= interval.low < interval.high <= 1, metric


@pytest.mark.parametrize("name", ["loc", "retrieval"])
def test_results_of_one_sample_are_verified_and_shown(name, command, tmp_path):
    store_result(tmp_path, name, samples_of(name, "one sample right"), dataset="own-set")
    assert "1 verified" in command("verify", str(tmp_path)).out
    shown = command("leaderboard", str(tmp_path), "--format", "md")
    assert shown.status == 0
    assert "100.0" in shown.out
    for form in ("csv", "json", "html", "tex"):
        assert command("leaderboard", str(tmp_path), "--format", form).status == 0
    report = command("report", str(tmp_path), "--output", str(tmp_path / "report.html"))
    assert report.status == 0, report.err
