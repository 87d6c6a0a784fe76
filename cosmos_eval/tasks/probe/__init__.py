"""Probes of frozen image features: linear, of few examples per class, and nearest neighbours.

Nothing is chosen by the test images: how much to regularise is, on training images held out. Few
shots as CoOp draws them (Zhou et al. 2022, arXiv 2109.01134, github.com/KaiyangZhou/CoOp): k images
per class to train on, min(k, 4) others to choose by.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval import types
from cosmos_eval.data import classification
from cosmos_eval.data.class_folders import find_folder
from cosmos_eval.data.class_names import ClassData
from cosmos_eval.data.folders import ADVICE, Survey, content_hash, fingerprint
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.stats.estimates import (
    CrossedMean,
    Features,
    GroupMean,
    Ints,
    Proportion,
    means_of_groups,
)
from cosmos_eval.tasks.arrays import SampleArray
from cosmos_eval.tasks.probe.classifiers import Labelled, choose, fit, nearest_classes, predict
from cosmos_eval.tasks.task import NAME, Derived, Metric, Task

LABELS = "labels"  # (N,) classes of the test images
LINEAR = "linear"  # (N,) predicted classes
NEIGHBOURS = "neighbours"  # (N,) predicted classes
SHOTS = "shots"  # (S,) training images per class
CORRECT = "fewshot_correct"  # (S, N, D) whether the classifier of a draw is right
CLASSES = "classes"  # (C,)
ARRAYS = (
    SampleArray(LABELS, "whole number", ("images",), least=0, below="classes"),
    SampleArray(LINEAR, "whole number", ("images",), least=0, below="classes"),
    SampleArray(NEIGHBOURS, "whole number", ("images",), least=0, below="classes"),
    SampleArray(SHOTS, "whole number", ("shots",), least=1),
    SampleArray(CORRECT, "truth value", ("shots", "images", "draws")),
    SampleArray(CLASSES, "text", ("classes",)),
    SampleArray(NAME, "text", ("images",), optional=True),
)
_TRAINING = "training images"  # what intervals of single fits are conditional on
_HELD_OUT = 4  # images per class, at most, that few shots hold out


class ProbeData(NamedTuple):
    """Images to train on and images to test, of the same classes."""

    train: ClassData
    test: ClassData

    @property
    def part(self) -> types.Part | None:
        """How many test images there are of an incomplete known set."""
        return self.test.part


def open_data(protocol: types.ProbeProtocol, options: types.RunOptions) -> ProbeData:
    """List the images; `options.limit` keeps the first test images of classes in turn. Raises
    UsageError for other classes in the test, and for too few training images of a class."""
    _require_valid(protocol)
    of_train, of_test = _splits(protocol)
    train = _open_training(of_train, replace(options, limit=None, allow_partial=False))
    test = classification.open_data(of_test, options)
    classification.require_choice(of_test, options, test)
    for name in sorted({*train.classes} ^ {*test.classes}):
        has, lacks = protocol.train, protocol.test
        if name in test.classes:
            has, lacks = lacks, has
        raise types.UsageError(f"{protocol.dataset}: class {name} is in {has}, but not in {lacks}")
    counts, most = np.bincount(train.labels), max(protocol.shots)
    if counts.min() < (least := most + min(most, _HELD_OUT)):
        raise types.UsageError(
            f"{protocol.dataset}: class {train.classes[counts.argmin()]} has {counts.min()} "
            f"training images, and {most} shots need {least}, some to choose by: set `shots` lower"
        )
    return ProbeData(train, test)


def _survey(
    protocol: types.ProbeProtocol, options: types.RunOptions, _: types.OnProgress
) -> Survey:
    train, test = open_data(protocol, options)
    n_images = len(train.images) + len(test.images)
    folder, n_classes = protocol.root or options.data_root, len(test.classes)
    return Survey(folder=folder, expected=n_images, images=n_images, n_classes=n_classes)


def _open_training(split: types.ClassificationProtocol, options: types.RunOptions) -> ClassData:
    try:
        return classification.open_data(split, options)
    except types.UsageError as error:
        fault, incomplete, _ = str(error).partition(ADVICE)
        needed = "; a probe needs all training images" if incomplete else ""
        raise types.UsageError(f"{fault}{needed}") from error


def _splits(protocol: types.ProbeProtocol) -> Sequence[types.ClassificationProtocol]:
    of_folder = partial(
        types.ClassificationProtocol,
        dataset=protocol.dataset,
        family=protocol.family,
        root=protocol.root,
    )
    return protocol.splits or [of_folder(folder=one) for one in (protocol.train, protocol.test)]


def _fetch(protocol: types.ProbeProtocol, options: types.RunOptions) -> None:
    for split in protocol.splits or ():
        classification.fetch(split, options)


def _is_there(protocol: types.ProbeProtocol, root: Path) -> bool:
    options = types.RunOptions(data_root=str(root))
    with suppress(types.UsageError):
        return all(find_folder(split, options) for split in _splits(protocol))
    return False


def _require_valid(protocol: types.ProbeProtocol) -> None:
    faults = {
        "train and test must be different folders": protocol.train == protocol.test,
        "shots must be different numbers from 1": (
            min(protocol.shots) < 1 or len({*protocol.shots}) < len(protocol.shots)
        ),
        "draws and neighbours must be 1 or more": min(protocol.draws, protocol.neighbours) < 1,
        "temperature and c_values must be above 0": (
            min(protocol.temperature, *protocol.c_values) <= 0
        ),
        "validation must be a share between 0 and 1": not 0 < protocol.validation < 1,
    }
    for fault in (fault for fault, is_one in faults.items() if is_one):
        raise types.UsageError(f"{protocol.dataset}: {fault}")


def in_random_order(labels: Ints, seed: int) -> list[Ints]:
    """Return the rows of each class of (N,) labels in an order that a seed decides."""
    rng = np.random.default_rng(seed)
    return [rng.permutation(np.flatnonzero(labels == one)) for one in range(labels.max() + 1)]


def few_shots(labels: Ints, shots: int, seed: int) -> tuple[Ints, Ints]:
    """Draw rows of (N,) labels: `shots` per class, and others to choose by. With the same seed,
    those of fewer shots are among those of more."""
    rows, held_out = in_random_order(labels, seed), min(shots, _HELD_OUT)
    drawn = [one[:shots] for one in rows], [one[shots : shots + held_out] for one in rows]
    return np.concatenate(drawn[0]), np.concatenate(drawn[1])


def split(labels: Ints, share: float, seed: int) -> tuple[Ints, Ints]:
    """Split rows of (N,) labels in two; about a share of each class, one at least, is held out."""
    kept, held_out = [], []
    for rows in in_random_order(labels, seed):
        n = min(max(1, round(share * len(rows))), len(rows) - 1)
        kept.append(rows[n:])
        held_out.append(rows[:n])
    return np.sort(np.concatenate(kept)), np.sort(np.concatenate(held_out))


class Probe:
    """The probes of one protocol on features of training (F, D) and test images (N, D)."""

    def __init__(
        self,
        protocol: types.ProbeProtocol,
        train: Features,
        labels: Ints,
        test: Features,
        seed: int,
        device: str,
        progress: types.OnProgress = types.no_progress,
    ) -> None:
        self.protocol, self.labels, self.seed, self.device = protocol, labels, seed, device
        self.train, self.test, self.progress = train, test, progress
        self.n_classes = int(labels.max()) + 1
        self.converged = True

    def neighbours(self) -> Ints:
        """Return the classes (N,) of the nearest training images."""
        of = self.protocol
        k = min(of.neighbours, len(self.labels))
        given = self._labelled(np.arange(len(self.labels))), self.test, self.n_classes, k
        return nearest_classes(*given, of.temperature, self.device)

    def linear(self) -> tuple[Ints, float, int]:
        """Return predicted classes (N,), the C that was chosen, and by how many images."""
        rows, held_out = split(self.labels, self.protocol.validation, self.seed)
        return *self._fitted(rows, held_out, np.arange(len(self.labels))), len(held_out)

    def few_shots(self) -> tuple[NDArray[np.integer], list[list[float]]]:
        """Return classes (S, D, N) predicted after each draw, and the C that each chose."""
        of = self.protocol
        predicted, chosen, total = [], list[list[float]](), len(of.shots) * of.draws
        for shots in of.shots:
            chosen.append([])
            for seed in self.seeds:
                rows, held_out = few_shots(self.labels, shots, seed)
                classes, c = self._fitted(rows, held_out, rows)
                predicted.append(classes)
                chosen[-1].append(c)
                self.progress(types.Progress("few shots", len(predicted), total))
        return np.stack(predicted).reshape(len(of.shots), of.draws, -1), chosen

    @property
    def seeds(self) -> list[int]:
        """The seed of each draw."""
        return [self.seed + draw for draw in range(self.protocol.draws)]

    def _labelled(self, rows: Ints) -> Labelled:
        return Labelled(self.train, self.labels, rows)

    def _fitted(self, rows: Ints, held_out: Ints, final: Ints) -> tuple[Ints, float]:
        """Choose C by rows held out; return what a fit to the final rows predicts, and C."""
        how = self.n_classes, self.protocol.c_values, self.device
        choice = choose(self._labelled(rows), held_out, *how)
        linear = fit(self._labelled(final), self.n_classes, choice.c, self.device)
        self.converged &= choice.converged and linear.converged
        return predict(linear, self.test, self.device), choice.c


def measure(
    encoder: Encoder,
    protocol: types.ProbeProtocol,
    options: types.RunOptions,
    progress: types.OnProgress = types.no_progress,
    data: ProbeData | None = None,
) -> types.Measurement:
    """Measure the accuracy of all probes on the test images."""
    from cosmos_eval.embedding.embed import embed_images

    data = data or open_data(protocol, options)
    started = perf_counter()
    train = embed_images(encoder, data.train.images, options, progress)
    test = embed_images(encoder, data.test.images, options, progress)
    imaged = perf_counter()
    labels, device = data.train.labels, encoder.info.device
    probe = Probe(protocol, train.features, labels, test.features, options.seed, device, progress)
    linear, c, n_held_out = probe.linear()
    drawn, fewshot_c = probe.few_shots()
    samples = {
        LABELS: data.test.labels,
        LINEAR: linear,
        NEIGHBOURS: probe.neighbours(),
        SHOTS: np.array(protocol.shots),
        CORRECT: (drawn == data.test.labels).transpose(0, 2, 1),
        CLASSES: np.array(data.test.classes),
    }
    recorded = {
        "solver": "L-BFGS, float32",
        "C": c,
        "training_images": len(labels),
        "validation_images": n_held_out,
        "draw_seeds": probe.seeds,
        "fewshot_C": dict(zip(map(str, protocol.shots), fewshot_c, strict=True)),
    }
    return TASK.measurement(
        samples,
        options,
        names=data.test.names,
        sample_list=[data.train.names, data.test.names],
        content=content_hash(
            [*train.image_sha256s, *test.image_sha256s],
            np.concatenate([data.train.labels, data.test.labels]),
        ),
        hashes={"probe": _fingerprint(protocol, options.seed)},
        settings={"probe": recorded},
        seconds={"images": imaged - started, "probes": perf_counter() - imaged},
        notes=[*_notes(probe, c)],
    )


def _fingerprint(protocol: types.ProbeProtocol, seed: int) -> str:
    of = protocol
    drawn = of.shots, of.draws, of.validation, seed
    return fingerprint([*drawn, of.neighbours, of.temperature, of.c_values])


def _notes(probe: Probe, c: float) -> Sequence[str]:
    notes, of = [], probe.protocol
    known = {row.tobytes() for row in probe.test} & {row.tobytes() for row in probe.train}
    if known:
        notes.append(f"{len(known)} test images have the features of training images")
    if c in (min(of.c_values), max(of.c_values)):
        notes.append(f"C of the linear probe, {c:g}, is at the end of c_values: others may be best")
    if not probe.converged:
        notes.append("a fit of a probe ended before it converged")
    return notes


def _require_distinct_shots(samples: types.Samples) -> None:
    """Raise ValueError for a number of shots that is there twice."""
    if len(np.unique(samples[SHOTS])) < len(samples[SHOTS]):
        raise ValueError(f"`{SHOTS}` holds a number twice")


def _few_shot(samples: Derived, member: str) -> CrossedMean:
    shots = samples[SHOTS].tolist()
    return CrossedMean(samples[CORRECT][shots.index(int(member.partition("_")[0]))])


TASK = Task(
    protocol=types.ProbeProtocol,
    metrics=(
        Metric(
            "linear_acc1",
            lambda samples: Proportion(samples[LINEAR] == samples[LABELS]),
            label="linear probe acc1",
            primary=True,
            conditional_on=_TRAINING,
        ),
        Metric(
            "linear_mean_per_class_recall",
            lambda samples: GroupMean(samples[LINEAR] == samples[LABELS], groups=samples[LABELS]),
            conditional_on=_TRAINING,
        ),
        Metric(
            "knn_acc1",
            lambda samples: Proportion(samples[NEIGHBOURS] == samples[LABELS]),
            label="kNN acc1",
            headline=True,
            conditional_on=_TRAINING,
        ),
        Metric("fewshot_*", _few_shot, members=lambda s: [f"{shots}_acc1" for shots in s[SHOTS]]),
    ),
    truth=(LABELS, SHOTS),
    arrays=ARRAYS,
    require_consistent=_require_distinct_shots,
    open_data=open_data,
    checked="class folders of training and test images, and how many images are there",
    measure=measure,
    survey=_survey,
    is_there=_is_there,
    fetch=_fetch,
    columns=lambda s: {
        "label": s[CLASSES][s[LABELS]],
        **{name: s[CLASSES][s[name]] for name in (LINEAR, NEIGHBOURS)},
    },
    per_class=lambda s: means_of_groups(
        s[CLASSES].tolist(), s[LABELS], {"recall": s[LINEAR] == s[LABELS]}, "images"
    ),
)
