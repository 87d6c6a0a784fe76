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
from cosmos_eval.data.sources import image_sources
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.stats.estimates import CrossedMean, GroupMean, Proportion, means_of_groups
from cosmos_eval.tasks.arrays import SampleArray
from cosmos_eval.tasks.metric import Derived, Metric
from cosmos_eval.tasks.probe import coop, coop_metrics
from cosmos_eval.tasks.probe.fits import MOST_HELD_OUT, FewShotProbes, LinearProbe, Probe
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
    SampleArray(LINEAR, "whole number", ("images",), least=0, below="classes", optional=True),
    SampleArray(NEIGHBOURS, "whole number", ("images",), least=0, below="classes", optional=True),
    SampleArray(SHOTS, "whole number", ("shots",), least=1),
    SampleArray(CORRECT, "truth value", ("shots", "images", "draws"), optional=True),
    SampleArray(CLASSES, "text", ("classes",)),
    SampleArray(NAME, "text", ("images",), optional=True),
    *coop_metrics.ARRAYS,
)
# The arrays of probes that are not measured by CoOp's rules.
_PROBE_ARRAYS = (LINEAR, NEIGHBOURS, CORRECT)
# Intervals of probes that are fitted once hold for these training images only.
_TRAINING = "training images"


class ProbeData(NamedTuple):
    """Training and test images of the same classes."""

    train: ClassData
    test: ClassData

    @property
    def found_samples(self) -> types.FoundSamples | None:
        """How many test images there are, if a known data set is incomplete; otherwise None."""
        return self.test.found_samples


def _labelled_splits(data: ProbeData | coop.CoopData) -> list[ClassData]:
    """Return the training images, the validation images if there are any, and the test images."""
    if isinstance(data, coop.CoopData) and data.validation is not None:
        return [data.train, data.validation, data.test]
    return [data.train, data.test]


def _linear_accuracy(samples: Derived) -> Proportion | None:
    """Return the accuracy of the linear probe on the test images; None under CoOp's rules."""
    if LINEAR not in samples:
        return None
    return Proportion(samples[LINEAR] == samples[LABELS])


def _linear_mean_per_class_recall(samples: Derived) -> GroupMean | None:
    """Return the mean over the classes of the linear probe's accuracy on the images of a class.

    Return None under CoOp's rules, by which no probe is fitted to all training images.
    """
    if LINEAR not in samples:
        return None
    return GroupMean(samples[LINEAR] == samples[LABELS], groups=samples[LABELS])


def _neighbours_accuracy(samples: Derived) -> Proportion | None:
    """Return the accuracy of the votes of nearest training images; None under CoOp's rules."""
    if NEIGHBOURS not in samples:
        return None
    return Proportion(samples[NEIGHBOURS] == samples[LABELS])


def _few_shot_accuracy(samples: Derived, member: str) -> CrossedMean:
    """Return the accuracy of few-shot probes, as the mean over test images and draws.

    Args:
        samples: The stored arrays by name.
        member: The end of the metric's name after `fewshot_`. For example, `16_acc1` stands for
            probes of 16 training images per class.
    """
    shots = int(member.removesuffix("_acc1"))
    row = samples[SHOTS].tolist().index(shots)
    return CrossedMean(samples[CORRECT][row])


def _few_shot_members(samples: Derived) -> list[str]:
    """Return what completes the names of the few-shot metrics, such as ["1_acc1", "16_acc1"]."""
    return [f"{shots}_acc1" for shots in samples[SHOTS]] if CORRECT in samples else []


class Probes(Task):
    """Probes that are fitted to training images, measured on test images."""

    protocol = types.ProbeProtocol
    metrics = (
        Metric(
            "linear_acc1",
            _linear_accuracy,
            label="linear probe acc1",
            primary=True,
            conditional_on=_TRAINING,
        ),
        Metric(
            "linear_mean_per_class_recall",
            _linear_mean_per_class_recall,
            conditional_on=_TRAINING,
        ),
        Metric(
            "knn_acc1",
            _neighbours_accuracy,
            label="kNN acc1",
            headline=True,
            conditional_on=_TRAINING,
        ),
        Metric("fewshot_*", _few_shot_accuracy, members=_few_shot_members),
        *coop_metrics.METRICS,
    )
    truth = (LABELS, SHOTS)
    checked = "class folders of training and test images, and how many images are there"
    arrays = ARRAYS

    def open_data(
        self, protocol: types.ProbeProtocol, options: types.RunOptions
    ) -> ProbeData | coop.CoopData:
        """List the training images and the test images of a data set.

        By CoOp's rules, the validation images are listed too, and few training images are drawn.

        Args:
            protocol: The protocol, which names the folders of training and test images.
            options: The options of the run. If their `limit` is set, the first test image of every
                class is kept, then the second one of every class, and so on until that many are
                kept. All training images are always used.

        Raises UsageError if training and test images have different classes, and if a class has too
        few training images.
        """
        _require_valid(protocol)
        splits = _splits_of(protocol)
        train = _open_training(splits["train"], options)
        test = classification.open_data(splits["test"], options)
        classification.require_choice(splits["test"], options, test)
        _require_same_classes(protocol, train, test)
        if protocol.uses_coop_rules:
            validation = _open_training(splits["val"], options) if "val" in splits else None
            coop.require_halves(protocol, validation, test)
            return coop.draw_data(protocol, train, validation, test)
        _require_enough_shots(protocol, train)
        return ProbeData(train, test)

    def measure(
        self,
        encoder: Encoder,
        protocols: Sequence[types.ProbeProtocol],
        data: Sequence[ProbeData | coop.CoopData],
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> Iterator[types.Measurement]:
        """Yield the accuracy of all probes of every protocol on the test images."""
        for protocol, split_images in zip(protocols, data, strict=True):
            if isinstance(split_images, coop.CoopData):
                yield self._measure_coop(encoder, protocol, split_images, options, progress)
            else:
                yield self._measure_protocol(encoder, protocol, split_images, options, progress)

    def _measure_coop(
        self,
        encoder: Encoder,
        protocol: types.ProbeProtocol,
        data: coop.CoopData,
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> types.Measurement:
        """Measure a protocol by CoOp's rules, and return the measurement.

        Args:
            encoder: The model.
            protocol: The protocol: the numbers of shots, and how constants are chosen.
            data: The images, and the draws of training images.
            options: The options of the run.
            progress: Called with the number of images that are embedded, and of measured draws.
        """
        test_split = _splits_of(protocol)["test"]
        measured = coop.measure_coop(encoder, protocol, test_split, data, options, progress)
        labelled = _labelled_splits(data)
        return self.measurement(
            measured.samples,
            options,
            names=data.test.names,
            sample_list=[split.names for split in labelled],
            content=content_hash(
                measured.image_sha256s, np.concatenate([split.labels for split in labelled])
            ),
            hashes={"probe": coop.hash_constants(protocol, test_split, data.test)},
            settings={"coop": measured.record},
            seconds=measured.seconds,
            notes=measured.notes,
        )

    def _measure_protocol(
        self,
        encoder: Encoder,
        protocol: types.ProbeProtocol,
        data: ProbeData,
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> types.Measurement:
        """Embed the images of a protocol, fit its probes, and return the measurement.

        Args:
            encoder: The model.
            protocol: The protocol: the numbers of shots, and how probes are fitted.
            data: The training and the test images.
            options: The options of the run, such as the seed.
            progress: Called with the number of images that are embedded, and of fitted probes.
        """
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
        few_shots_are_correct = few_shots.predicted == data.test.labels  # (S, D, N)
        samples = {
            LABELS: data.test.labels,
            LINEAR: linear.predicted,
            NEIGHBOURS: probe.predict_neighbours(),
            SHOTS: np.array(protocol.shots),
            CORRECT: few_shots_are_correct.transpose(0, 2, 1),  # (S, N, D)
            CLASSES: np.array(data.test.classes),
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
            hashes={"probe": _hash_constants(protocol, options.seed)},
            settings={"probe": _record_fits(probe, linear, few_shots)},
            seconds={
                "images": images_done - started,
                "probes": perf_counter() - images_done,
            },
            notes=_notes(probe, linear),
        )

    def data_hashes(
        self,
        protocol: types.ProbeProtocol,
        data: ProbeData | coop.CoopData,
        options: types.RunOptions,
    ) -> Mapping[str, str]:
        """Return the hashes of the files and labels of all splits, and of the images' names."""
        from cosmos_eval.embedding.hashing import hash_images

        labelled = _labelled_splits(data)
        sha256s = hash_images([image for split in labelled for image in split.images], options)
        hashes = {
            "sample_list": fingerprint([split.names for split in labelled]),
            "content": content_hash(sha256s, np.concatenate([split.labels for split in labelled])),
        }
        if isinstance(data, coop.CoopData):
            test_split = _splits_of(protocol)["test"]
            hashes["probe"] = coop.hash_constants(protocol, test_split, data.test)
        return hashes

    def require_consistent(self, samples: types.Samples) -> None:
        """Raise ValueError if two rows of few-shot probes have the same number of shots.

        Raise it as well if an array is missing.
        """
        if len(np.unique(samples[SHOTS])) < len(samples[SHOTS]):
            raise ValueError(f"`{SHOTS}` holds a number twice")
        if coop_metrics.ZERO_SHOT in samples:
            coop_metrics.require_consistent(samples)
            return
        for name in _PROBE_ARRAYS:
            if name not in samples:
                raise ValueError(f"there is no array `{name}`")

    def per_class(self, samples: types.Samples) -> Mapping[str, Mapping[str, float | None]]:
        """Return, for every class, the recall of a classifier and the number of test images.

        It is the linear probe of all training images, or by CoOp's rules the zero-shot classifier.
        """
        predicted = samples[coop_metrics.ZERO_SHOT if coop_metrics.ZERO_SHOT in samples else LINEAR]
        is_correct = predicted == samples[LABELS]
        classes = samples[CLASSES].tolist()
        return means_of_groups(classes, samples[LABELS], {"recall": is_correct}, "images")

    def columns(self, samples: types.Samples) -> Mapping[str, Any]:
        """Return a table with a row per test image: its label and the predictions, as names."""
        classes = samples[CLASSES]
        columns = {"label": classes[samples[LABELS]]}
        for name in (LINEAR, NEIGHBOURS, coop_metrics.ZERO_SHOT, coop_metrics.IN_HALF):
            if name in samples:
                columns[name] = classes[samples[name]]
        return columns

    def survey(
        self, protocol: types.ProbeProtocol, options: types.RunOptions, progress: types.OnProgress
    ) -> Survey:
        """Count the training and test images. Raises UsageError for data that cannot be opened."""
        data = self.open_data(protocol, options)
        n_images = len(image_sources(data))
        return Survey(
            folder=protocol.root or options.data_root,
            expected=n_images,
            images=n_images,
            n_classes=len(data.test.classes),
        )

    def is_there(self, protocol: types.ProbeProtocol, root: Path) -> bool:
        """Return whether the folder `root` holds both the training and the test images."""
        options = types.RunOptions(data_root=str(root))
        try:
            return all(find_folder(split, options) for split in _splits_of(protocol).values())
        except types.UsageError:
            return False

    def fetch(self, protocol: types.ProbeProtocol, options: types.RunOptions) -> None:
        """Download the training and test images of a known data set if `options` ask for it."""
        for split in protocol.splits or ():
            classification.fetch(split, options)


def _record_fits(probe: Probe, linear: LinearProbe, few_shots: FewShotProbes) -> dict[str, Any]:
    """Return how the probes were fitted, as a result records it.

    It is the solver, the numbers of training and held-out images, and each regularisation C that
    was chosen.

    Args:
        probe: The training images and the constants.
        linear: The linear probe of all training images.
        few_shots: The probes of few training images, with several draws for each number of shots.
    """
    c_by_shots = {}
    for shots, c_of_draws in zip(probe.protocol.shots, few_shots.c_values, strict=True):
        c_by_shots[str(shots)] = c_of_draws
    return {
        "solver": "L-BFGS, float32",
        "C": linear.c,
        "training_images": len(probe.train_labels),
        "validation_images": linear.n_held_out,
        "draw_seeds": probe.draw_seeds,
        "fewshot_C": c_by_shots,
    }


def _splits_of(protocol: types.ProbeProtocol) -> Mapping[str, types.ClassificationProtocol]:
    """Return the classification protocols by which images are read, by the name of the split.

    The splits are `train` and `test`, and `val` if validation images are read by CoOp's rules.
    Known data sets state them. For a user's data set, they are made of its folders of training and
    test images, or of its split file.
    """
    if protocol.uses_coop_rules:
        return coop.known_splits(protocol)
    if protocol.splits is not None:
        train, test = protocol.splits
        return {"train": train, "test": test}
    train = types.ClassificationProtocol(
        dataset=protocol.dataset,
        protocol_name=protocol.protocol_name,
        root=protocol.root,
        folder=protocol.train,
    )
    return {"train": train, "test": replace(train, folder=protocol.test)}


def _open_training(split: types.ClassificationProtocol, options: types.RunOptions) -> ClassData:
    """List the training images, without a limit. Raises UsageError unless all of them are there."""
    try:
        return classification.open_data(split, replace(options, limit=None, allow_partial=False))
    except types.UsageError as error:
        # If the data set is incomplete, the message ends with the advice to measure the images that
        # are there. This does not help for training images: replace the advice.
        fault, advice, _ = str(error).partition(ADVICE)
        is_incomplete = advice != ""
        if is_incomplete:
            fault += "; a probe needs all training images"
        raise types.UsageError(fault) from error


def _require_valid(protocol: types.ProbeProtocol) -> None:
    """Raise UsageError for contradictory paths, and for constants that no probe can have."""
    fault = _path_fault(protocol) or _constant_fault(protocol)
    if fault:
        raise types.UsageError(f"{protocol.dataset}: {fault}")


def _constant_fault(protocol: types.ProbeProtocol) -> str:
    """Return what is wrong with the constants of a protocol; empty if nothing is."""
    shots = protocol.shots
    if min(shots) < 1 or len(set(shots)) < len(shots):
        return "shots must be different numbers from 1"
    if min(protocol.draws, protocol.neighbours) < 1:
        return "draws and neighbours must be 1 or more"
    if min(protocol.temperature, *protocol.c_values) <= 0:
        return "temperature and c_values must be above 0"
    if min(protocol.cache_search) <= 0:
        return "cache_search must be above 0"
    if not 0 < protocol.validation < 1:
        return "validation must be a share between 0 and 1"
    return ""


def _path_fault(protocol: types.ProbeProtocol) -> str:
    """Return what is wrong with the folders and files of a protocol; empty if nothing is."""
    has_folders = bool(protocol.train and protocol.test)
    if protocol.split_file is not None:
        if protocol.train or protocol.test:
            return "give train and test, or split_file, not both"
    elif not has_folders:
        return "give train and test, the folders of images, or split_file"
    elif protocol.train == protocol.test:
        return "train and test must be different folders"
    return ""


def _require_same_classes(protocol: types.ProbeProtocol, train: ClassData, test: ClassData) -> None:
    """Raise UsageError for a class that only the training or only the test images have."""
    different_classes = set(train.classes) ^ set(test.classes)
    for name in sorted(different_classes):  # the first one raises the error
        if name in test.classes:
            places = f"in {protocol.test}, but not in {protocol.train}"
        else:
            places = f"in {protocol.train}, but not in {protocol.test}"
        raise types.UsageError(f"{protocol.dataset}: class {name} is {places}")


def _require_enough_shots(protocol: types.ProbeProtocol, train: ClassData) -> None:
    """Raise UsageError for a class with too few training images for the largest number of shots.

    Shots are the training images per class of a probe. For 16 shots, a class needs 16 images to
    train on, and 4 more to choose the regularisation by.
    """
    n_images_of_class = np.bincount(train.labels)
    most_shots = max(protocol.shots)
    n_needed = most_shots + min(most_shots, MOST_HELD_OUT)
    smallest_class = n_images_of_class.argmin()
    n_images = n_images_of_class[smallest_class]
    if n_images < n_needed:
        raise types.UsageError(
            f"{protocol.dataset}: class {train.classes[smallest_class]} has {n_images} training "
            f"images, and {most_shots} shots need {n_needed}, some to choose by: set `shots` lower"
        )


def _hash_constants(protocol: types.ProbeProtocol, seed: int) -> str:
    """Return the hash of all constants, with the seed, that decide the metrics of probes."""
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
    """Return notes on what makes the metrics of the probes doubtful.

    They tell of test images that are also training images, of a best regularisation C at the end of
    the values that were tried, and of fits that did not converge.

    Args:
        probe: The features of the training and test images, and the constants.
        linear: The linear probe of all training images.
    """
    notes = []
    test_features = {row.tobytes() for row in probe.test_features}
    training_features = {row.tobytes() for row in probe.train_features}
    n_shared = len(test_features & training_features)
    if n_shared:
        notes.append(f"{n_shared} test images have the features of training images")
    c_values = probe.protocol.c_values
    if linear.c in (min(c_values), max(c_values)):
        notes.append(
            f"C of the linear probe, {linear.c:g}, is at the end of c_values: others may be best"
        )
    if not probe.converged:
        notes.append("a fit of a probe ended before it converged")
    return notes


TASK = Probes()
