"""Probes of frozen image features: linear, of few examples per class, and nearest neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from cosmos_eval import types
from cosmos_eval.data import classification
from cosmos_eval.data.class_folders import find_folder
from cosmos_eval.data.class_names import ClassData
from cosmos_eval.data.folders import ADVICE, Survey, content_hash, fingerprint
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.stats.estimates import CrossedMean, GroupMean, Proportion, means_of_groups
from cosmos_eval.tasks.arrays import SampleArray
from cosmos_eval.tasks.metric import Derived, Metric
from cosmos_eval.tasks.probe.fits import MOST_HELD_OUT, LinearProbe, Probe
from cosmos_eval.tasks.task import NAME, Task

# Stored arrays of N test images, C classes, S numbers of shots and D draws.
LABELS = "labels"  # (N,) classes of the test images
LINEAR = "linear"  # (N,) classes that the linear probe predicts
NEIGHBOURS = "neighbours"  # (N,) classes that the nearest training images vote for
SHOTS = "shots"  # (S,) training images per class
CORRECT = "fewshot_correct"  # (S, N, D) whether the probe of a draw predicts the correct class
CLASSES = "classes"  # (C,) names
ARRAYS = (
    SampleArray(LABELS, "whole number", ("images",), least=0, below="classes"),
    SampleArray(LINEAR, "whole number", ("images",), least=0, below="classes"),
    SampleArray(NEIGHBOURS, "whole number", ("images",), least=0, below="classes"),
    SampleArray(SHOTS, "whole number", ("shots",), least=1),
    SampleArray(CORRECT, "truth value", ("shots", "images", "draws")),
    SampleArray(CLASSES, "text", ("classes",)),
    SampleArray(NAME, "text", ("images",), optional=True),
)
# Intervals of probes that are fitted once hold for these training images only.
_TRAINING = "training images"


class ProbeData(NamedTuple):
    """Training and test images of the same classes."""

    train: ClassData
    test: ClassData

    @property
    def found_samples(self) -> types.FoundSamples | None:
        """How many test images of an incomplete known data set there are."""
        return self.test.found_samples


def _linear_acc1(samples: Derived) -> Proportion:
    return Proportion(samples[LINEAR] == samples[LABELS])


def _linear_mean_per_class_recall(samples: Derived) -> GroupMean:
    return GroupMean(samples[LINEAR] == samples[LABELS], groups=samples[LABELS])


def _knn_acc1(samples: Derived) -> Proportion:
    return Proportion(samples[NEIGHBOURS] == samples[LABELS])


def _few_shot_acc1(samples: Derived, member: str) -> CrossedMean:
    """Return the mean over test images and draws; `member` is `16_acc1` for 16 shots."""
    shots = int(member.removesuffix("_acc1"))
    row = samples[SHOTS].tolist().index(shots)
    return CrossedMean(samples[CORRECT][row])


def _few_shot_members(samples: Derived) -> list[str]:
    return [f"{shots}_acc1" for shots in samples[SHOTS]]


class Probes(Task):
    """Probes that are fitted to training images, measured on test images."""

    protocol = types.ProbeProtocol
    metrics = (
        Metric(
            "linear_acc1",
            _linear_acc1,
            label="linear probe acc1",
            primary=True,
            conditional_on=_TRAINING,
        ),
        Metric(
            "linear_mean_per_class_recall",
            _linear_mean_per_class_recall,
            conditional_on=_TRAINING,
        ),
        Metric("knn_acc1", _knn_acc1, label="kNN acc1", headline=True, conditional_on=_TRAINING),
        Metric("fewshot_*", _few_shot_acc1, members=_few_shot_members),
    )
    truth = (LABELS, SHOTS)
    checked = "class folders of training and test images, and how many images are there"
    arrays = ARRAYS

    def open_data(self, protocol: types.ProbeProtocol, options: types.RunOptions) -> ProbeData:
        """List the images; `options.limit` keeps the first test images of classes in turn.

        Raises UsageError if the test images have other classes than the training images, and if a
        class has too few training images.
        """
        _require_valid(protocol)
        train_split, test_split = _splits(protocol)
        train = _open_training(train_split, replace(options, limit=None, allow_partial=False))
        test = classification.open_data(test_split, options)
        classification.require_choice(test_split, options, test)
        _require_same_classes(protocol, train, test)
        _require_enough_shots(protocol, train)
        return ProbeData(train, test)

    def measure(
        self,
        encoder: Encoder,
        protocols: Sequence[types.ProbeProtocol],
        data: Sequence[ProbeData],
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> Iterator[types.Measurement]:
        """Yield the accuracy of all probes of every protocol on the test images."""
        for protocol, images in zip(protocols, data, strict=True):
            yield self._measure_protocol(encoder, protocol, images, options, progress)

    def _measure_protocol(
        self,
        encoder: Encoder,
        protocol: types.ProbeProtocol,
        data: ProbeData,
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> types.Measurement:
        """Embed the images of a protocol, fit its probes, and return their accuracy."""
        from cosmos_eval.embedding.embed import embed_images

        started = perf_counter()
        train = embed_images(encoder, data.train.images, options, progress)
        test = embed_images(encoder, data.test.images, options, progress)
        images_done = perf_counter()
        probe = Probe(
            protocol,
            train.features,
            data.train.labels,
            test.features,
            options.seed,
            encoder.info.device,
            progress,
        )
        linear = probe.fit_linear()
        few_shots = probe.fit_few_shots()
        samples = {
            LABELS: data.test.labels,
            LINEAR: linear.predicted,
            NEIGHBOURS: probe.predict_neighbours(),
            SHOTS: np.array(protocol.shots),
            CORRECT: (few_shots.predicted == data.test.labels).transpose(0, 2, 1),
            CLASSES: np.array(data.test.classes),
        }
        shots_as_text = [str(shots) for shots in protocol.shots]
        record = {
            "solver": "L-BFGS, float32",
            "C": linear.c,
            "training_images": len(data.train.labels),
            "validation_images": linear.n_held_out,
            "draw_seeds": probe.draw_seeds,
            "fewshot_C": dict(zip(shots_as_text, few_shots.c_values, strict=True)),
        }
        return self.measurement(
            samples,
            options,
            names=data.test.names,
            sample_list=[data.train.names, data.test.names],
            content=content_hash(
                [*train.image_sha256s, *test.image_sha256s],
                np.concatenate([data.train.labels, data.test.labels]),
            ),
            hashes={"probe": _constants_hash(protocol, options.seed)},
            settings={"probe": record},
            seconds={
                "images": images_done - started,
                "probes": perf_counter() - images_done,
            },
            notes=_notes(probe, linear),
        )

    def require_consistent(self, samples: types.Samples) -> None:
        """Raise ValueError for a number of shots that is there twice."""
        if len(np.unique(samples[SHOTS])) < len(samples[SHOTS]):
            raise ValueError(f"`{SHOTS}` holds a number twice")

    def per_class(self, samples: types.Samples) -> Mapping[str, Mapping[str, float | None]]:
        """Return the recall of the linear probe and the number of images of every class."""
        is_right = samples[LINEAR] == samples[LABELS]
        classes = samples[CLASSES].tolist()
        return means_of_groups(classes, samples[LABELS], {"recall": is_right}, "images")

    def columns(self, samples: types.Samples) -> Mapping[str, Any]:
        """Return one row per test image: the label and the predictions."""
        classes = samples[CLASSES]
        return {
            "label": classes[samples[LABELS]],
            LINEAR: classes[samples[LINEAR]],
            NEIGHBOURS: classes[samples[NEIGHBOURS]],
        }

    def survey(
        self, protocol: types.ProbeProtocol, options: types.RunOptions, progress: types.OnProgress
    ) -> Survey:
        """Count the images. Raises UsageError for images that `open_data` refuses."""
        train, test = self.open_data(protocol, options)
        n_images = len(train.images) + len(test.images)
        return Survey(
            folder=protocol.root or options.data_root,
            expected=n_images,
            images=n_images,
            n_classes=len(test.classes),
        )

    def is_there(self, protocol: types.ProbeProtocol, root: Path) -> bool:
        options = types.RunOptions(data_root=str(root))
        try:
            return all(find_folder(split, options) for split in _splits(protocol))
        except types.UsageError:
            return False

    def fetch(self, protocol: types.ProbeProtocol, options: types.RunOptions) -> None:
        for split in protocol.splits or ():
            classification.fetch(split, options)


def _splits(
    protocol: types.ProbeProtocol,
) -> tuple[types.ClassificationProtocol, types.ClassificationProtocol]:
    """Return the protocols of the training and the test images."""
    if protocol.splits is not None:
        return protocol.splits
    train, test = (
        types.ClassificationProtocol(
            dataset=protocol.dataset,
            protocol_name=protocol.protocol_name,
            root=protocol.root,
            folder=folder,
        )
        for folder in (protocol.train, protocol.test)
    )
    return train, test


def _open_training(split: types.ClassificationProtocol, options: types.RunOptions) -> ClassData:
    """List the training images, all of which must be there. Raises UsageError."""
    try:
        return classification.open_data(split, options)
    except types.UsageError as error:
        fault, incomplete, _ = str(error).partition(ADVICE)
        if incomplete:  # the advice to measure the images found does not hold for training
            fault += "; a probe needs all training images"
        raise types.UsageError(fault) from error


def _require_valid(protocol: types.ProbeProtocol) -> None:
    """Raise UsageError for constants by which no probe can be fitted."""
    shots = protocol.shots
    fault = ""
    if protocol.train == protocol.test:
        fault = "train and test must be different folders"
    elif min(shots) < 1 or len(set(shots)) < len(shots):
        fault = "shots must be different numbers from 1"
    elif min(protocol.draws, protocol.neighbours) < 1:
        fault = "draws and neighbours must be 1 or more"
    elif min(protocol.temperature, *protocol.c_values) <= 0:
        fault = "temperature and c_values must be above 0"
    elif not 0 < protocol.validation < 1:
        fault = "validation must be a share between 0 and 1"
    if fault:
        raise types.UsageError(f"{protocol.dataset}: {fault}")


def _require_same_classes(protocol: types.ProbeProtocol, train: ClassData, test: ClassData) -> None:
    """Raise UsageError for a class that only the training or only the test images have."""
    for name in sorted(set(train.classes) ^ set(test.classes)):
        if name in test.classes:
            places = f"in {protocol.test}, but not in {protocol.train}"
        else:
            places = f"in {protocol.train}, but not in {protocol.test}"
        raise types.UsageError(f"{protocol.dataset}: class {name} is {places}")


def _require_enough_shots(protocol: types.ProbeProtocol, train: ClassData) -> None:
    """Raise UsageError for a class with too few images for the largest number of shots."""
    n_images = np.bincount(train.labels)
    most_shots = max(protocol.shots)
    n_needed = most_shots + min(most_shots, MOST_HELD_OUT)
    if n_images.min() < n_needed:
        name = train.classes[n_images.argmin()]
        raise types.UsageError(
            f"{protocol.dataset}: class {name} has {n_images.min()} training images, and "
            f"{most_shots} shots need {n_needed}, some to choose by: set `shots` lower"
        )


def _constants_hash(protocol: types.ProbeProtocol, seed: int) -> str:
    """Return the hash of the constants that define the numbers of probes."""
    return fingerprint(
        [
            protocol.shots,
            protocol.draws,
            protocol.validation,
            seed,
            protocol.neighbours,
            protocol.temperature,
            protocol.c_values,
        ]
    )


def _notes(probe: Probe, linear: LinearProbe) -> list[str]:
    """Return the notes that a reader of the numbers must know."""
    notes = []
    c_values = probe.protocol.c_values
    test_features = {row.tobytes() for row in probe.test_features}
    training_features = {row.tobytes() for row in probe.train_features}
    shared_features = test_features & training_features
    if shared_features:
        notes.append(f"{len(shared_features)} test images have the features of training images")
    if linear.c in (min(c_values), max(c_values)):
        notes.append(
            f"C of the linear probe, {linear.c:g}, is at the end of c_values: others may be best"
        )
    if not probe.converged:
        notes.append("a fit of a probe ended before it converged")
    return notes


TASK = Probes()
