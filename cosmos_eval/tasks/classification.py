"""Zero-shot classification on image folders, webdatasets and torchvision's sets."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval import types
from cosmos_eval.data import classification as class_data
from cosmos_eval.data.class_folders import find_folder
from cosmos_eval.data.class_names import class_names, displayed_class_names, templates_of
from cosmos_eval.data.classification import ClassData
from cosmos_eval.data.folders import Survey, content_hash, fingerprint
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.stats import choices
from cosmos_eval.stats.calibration import calibration_error
from cosmos_eval.stats.choices import TOP
from cosmos_eval.stats.estimates import (
    Features,
    FunctionOfSums,
    FunctionOfWeights,
    GroupMean,
    Proportion,
    means_of_groups,
)
from cosmos_eval.tasks.arrays import SampleArray
from cosmos_eval.tasks.metric import Derived, Metric
from cosmos_eval.tasks.task import NAME, Task

# Stored arrays of N images, C classes and G groups.
LABELS = "labels"  # (N,) class numbers
TOP5 = "top5"  # (N, 5) predicted class numbers, best first, -1 if there are fewer classes;
# older results have as many columns as classes then
CONFIDENCE = "confidence"  # (N,) probability of the first prediction; older results lack it
CLASSES = "classes"  # (C,) the data's own names, since several classes may share a prompt name
SHOWN = "class_names"  # (C,) displayed names, if the protocol names the classes otherwise
GROUP = "group"  # (N,) group numbers, if the data have groups
GROUPS = "groups"  # (G,) names of the groups
METRICS = "metrics"  # (M,) names of metrics beside the usual ones, if the protocol has any
ARRAYS = (
    SampleArray(LABELS, "whole number", ("images",), least=0, below="classes"),
    SampleArray(TOP5, "whole number", ("images", None), least=-1, below="classes"),
    SampleArray(CONFIDENCE, "number", ("images",), least=0, most=1, optional=True),
    SampleArray(CLASSES, "text", ("classes",)),
    SampleArray(SHOWN, "text", ("classes",), optional=True),
    SampleArray(GROUP, "whole number", ("images",), least=0, below="groups", optional=True),
    SampleArray(GROUPS, "text", ("groups",), optional=True),
    SampleArray(METRICS, "text", ("metrics",), optional=True),
    SampleArray(NAME, "text", ("images",), optional=True),
)
HITS = "hits"  # (N, 5) derived: whether each prediction is the label
_LOGIT_SCALE = 100  # CLIP's (Radford et al. 2021, section 2.5), which CLIP Benchmark uses for all


class Prompts(NamedTuple):
    """The names of classes, and the templates that they are put into."""

    names: Sequence[str]
    # Texts with one `{}`, or the name of a known set of them.
    templates: tuple[str, ...] | str


class ClassTask(Task):
    """The common part of tasks that compare images with prompts of classes."""

    by_image = True
    names_hash = "sample_list"
    resamples = False

    def open_data(
        self, protocol: types.ClassificationProtocol, options: types.RunOptions
    ) -> ClassData:
        """List the images and labels; `options.limit` keeps the first images of classes in turn.

        Raises UsageError for data that are missing or inconsistent.
        """
        return class_data.open_data(protocol, options)

    def check(
        self, protocol: types.ClassificationProtocol, options: types.RunOptions, data: ClassData
    ) -> None:
        class_data.require_prompts(protocol, options, data)

    def survey(
        self,
        protocol: types.ClassificationProtocol,
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> Survey:
        return class_data.survey(protocol, options, progress)

    def is_there(self, protocol: types.ClassificationProtocol, root: Path) -> bool:
        try:
            return bool(find_folder(protocol, types.RunOptions(data_root=str(root))))
        except types.UsageError:
            return False

    def n_samples(self, protocol: types.ClassificationProtocol) -> int | None:
        return protocol.n_images

    def fetch(self, protocol: types.ClassificationProtocol, options: types.RunOptions) -> None:
        class_data.fetch(protocol, options)

    def prompts(self, protocol: types.ClassificationProtocol, data: ClassData) -> Sequence[Prompts]:
        """Return the prompts of each question that is asked about an image: of one by default."""
        return [Prompts(class_names(protocol, data), templates_of(protocol, data))]

    @abstractmethod
    def make_samples(
        self,
        protocol: Any,
        data: ClassData,
        image_features: Features,
        class_embeddings: Features,
    ) -> types.Samples:
        """Return the arrays to store, from image features (N, D) and class embeddings (C, D).

        The classes of all questions follow each other.
        """

    def measure(
        self,
        encoder: Encoder,
        protocols: Sequence[types.ClassificationProtocol],
        data: Sequence[ClassData],
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> Iterator[types.Measurement]:
        """Yield the measurement of every protocol, from its images and prompts."""
        for protocol, images in zip(protocols, data, strict=True):
            yield self._measure_protocol(encoder, protocol, images, options, progress)

    def _measure_protocol(
        self,
        encoder: Encoder,
        protocol: types.ClassificationProtocol,
        data: ClassData,
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> types.Measurement:
        from cosmos_eval.embedding.embed import embed_images
        from cosmos_eval.tasks.prompts import prompt_embeddings

        started = perf_counter()
        prompts = self.prompts(protocol, data)
        embeddings_of_questions = [
            prompt_embeddings(encoder, question.names, question.templates, options, progress)
            for question in prompts
        ]
        class_embeddings = np.concatenate(embeddings_of_questions)
        prompts_done = perf_counter()
        images = embed_images(encoder, data.images, options, progress)
        return self.measurement(
            self.make_samples(protocol, data, images.features, class_embeddings),
            options,
            names=data.names,
            content=content_hash(images.image_sha256s, data.labels),
            hashes=_hashes(data, prompts),
            seconds={"prompts": prompts_done - started, "images": perf_counter() - prompts_done},
            notes=[f"{protocol.dataset}: {protocol.remark}"] if protocol.remark else [],
        )


def _hashes(data: ClassData, prompts: Sequence[Prompts]) -> dict[str, str]:
    """Return the hashes of class names, templates, the list of samples, and groups."""
    from cosmos_eval.tasks.prompts import resolve_templates

    names: list[str] = []
    templates: list[str] = []
    for question in prompts:
        names.extend(question.names)
        templates.extend(resolve_templates(question.templates))
    hashes = {
        "class_names": fingerprint(names),
        "templates": fingerprint(templates),
        "sample_list": class_data.sample_list_hash(data),
    }
    if data.group_of_image is not None:
        hashes["groups"] = fingerprint([data.group_names, data.group_of_image.tolist()])
    return hashes


def displayed_names_array(
    protocol: types.ClassificationProtocol, data: ClassData
) -> dict[str, NDArray[np.str_]]:
    """Return the displayed names of classes as the array SHOWN (C,).

    Return an empty dict if the names in the data are displayed.
    """
    if protocol.class_names or protocol.class_list:
        return {SHOWN: np.array(displayed_class_names(protocol, data))}
    return {}


def displayed_names(samples: types.Samples) -> list[str]:
    """Return the displayed names of the C classes."""
    names: list[str] = samples.get(SHOWN, samples[CLASSES]).tolist()
    return names


def _has_five_classes(samples: Derived) -> bool:
    """Return whether every image has five predictions; -1 stands for a missing one."""
    return bool((samples[TOP5] >= 0).all())


def _acc1(samples: Derived) -> Proportion:
    return Proportion(samples[HITS][:, 0])


def _acc5(samples: Derived) -> Proportion | None:
    """Return the top-5 accuracy; None for fewer than five classes, as in CLIP Benchmark."""
    if not _has_five_classes(samples):
        return None
    return Proportion(samples[HITS].any(axis=1))


def _mean_per_class_recall(samples: Derived) -> GroupMean:
    return GroupMean(samples[HITS][:, 0], groups=samples[LABELS])


def _ece(samples: Derived) -> FunctionOfSums | None:
    if CONFIDENCE not in samples:
        return None
    return calibration_error(samples[CONFIDENCE], samples[HITS][:, 0])


def _f1(samples: Derived) -> FunctionOfWeights | None:
    if "f1_macro" not in samples.get(METRICS, ()):
        return None
    return choices.macro_f1(samples[LABELS], samples[TOP5][:, 0])


def _worst_group_acc1(samples: Derived) -> GroupMean | None:
    if GROUP not in samples:
        return None
    return GroupMean(samples[HITS][:, 0], groups=samples[GROUP], lowest=True)


def _worst_group_acc5(samples: Derived) -> GroupMean | None:
    """Return the lowest top-5 accuracy of a group.

    Return None if the protocol does not ask for it, and for fewer than five classes.
    """
    if GROUP not in samples or "worst_group_acc5" not in samples.get(METRICS, ()):
        return None
    if not _has_five_classes(samples):
        return None
    return GroupMean(samples[HITS].any(axis=1), groups=samples[GROUP], lowest=True)


def _acc1_of_group(samples: Derived, group: str) -> Proportion:
    group_number = samples[GROUPS].tolist().index(group)
    return Proportion(samples[HITS][samples[GROUP] == group_number, 0])


def _groups_with_images(samples: Derived) -> Sequence[str]:
    """Return the names of groups that have images."""
    if GROUP not in samples:
        return ()
    return [str(name) for name in samples[GROUPS][np.unique(samples[GROUP])]]


class Classification(ClassTask):
    """Zero-shot classification of images with one class each."""

    protocol = types.ClassificationProtocol
    metrics = (
        Metric("acc1", _acc1, primary=True),
        Metric("acc5", _acc5),
        Metric("mean_per_class_recall", _mean_per_class_recall),
        Metric("ece", _ece, higher_is_better=False, label="ECE"),
        Metric("worst_group_acc1", _worst_group_acc1, label="worst-group acc1", headline=True),
        Metric("worst_group_acc5", _worst_group_acc5, label="worst-group acc5", headline=True),
        Metric("f1_macro", _f1, label="macro F1", headline=True),
        Metric("acc1_*", _acc1_of_group, members=_groups_with_images),
    )
    truth = (LABELS,)
    checked = "class folders or lists, and how many images are there"
    arrays = ARRAYS

    def make_samples(
        self,
        protocol: types.ClassificationProtocol,
        data: ClassData,
        image_features: Features,
        class_embeddings: Features,
    ) -> types.Samples:
        best_classes = choices.top_classes(image_features, class_embeddings)
        n_missing = TOP - best_classes.shape[1]
        samples = {
            LABELS: data.labels,
            TOP5: np.pad(best_classes, ((0, 0), (0, n_missing)), constant_values=-1),
            CONFIDENCE: choices.top_confidences(image_features, class_embeddings, _LOGIT_SCALE),
            CLASSES: np.array(data.classes),
            **displayed_names_array(protocol, data),
        }
        if protocol.metrics:
            samples[METRICS] = np.array(protocol.metrics)
        if data.group_of_image is not None:
            samples[GROUP] = data.group_of_image
            samples[GROUPS] = np.array(data.group_names)
        return samples

    def derive(self, samples: types.Samples) -> Derived:
        return {**samples, HITS: samples[TOP5] == samples[LABELS][:, None]}

    def require_consistent(self, samples: types.Samples) -> None:
        """Raise ValueError for images without a prediction, and for groups without names."""
        n_columns = samples[TOP5].shape[1]
        if not 1 <= n_columns <= TOP or (samples[TOP5][:, 0] < 0).any():
            raise ValueError(
                f"`{TOP5}` has no first prediction, or more than {TOP} predictions, of an image"
            )
        if (GROUP in samples) != (GROUPS in samples):
            raise ValueError(f"`{GROUP}` and `{GROUPS}` are stored together")

    def per_class(self, samples: types.Samples) -> Mapping[str, Mapping[str, float | None]]:
        """Return the recall and the number of images of every class."""
        is_right = samples[TOP5][:, 0] == samples[LABELS]
        return means_of_groups(
            displayed_names(samples), samples[LABELS], {"recall": is_right}, "images"
        )

    def confusion_pairs(self, samples: types.Samples) -> Sequence[Mapping[str, Any]]:
        """Return the most frequent pairs of a true class and another, predicted class."""
        classes = displayed_names(samples)
        pairs = choices.confusion_pairs(samples[LABELS], samples[TOP5][:, 0])
        return [
            {"true": classes[true], "predicted": classes[predicted], "images": n_images}
            for true, predicted, n_images in pairs
        ]

    def mistakes(self, samples: types.Samples) -> types.Mistakes:
        """Count the images of every class that were given another class."""
        labels, predicted = samples[LABELS].astype(np.int64), samples[TOP5][:, 0]
        classes = displayed_names(samples)
        # Each pair of a true and a predicted class is numbered true * C + predicted.
        pair_numbers = labels * len(classes) + predicted
        occurring_pairs, n_images = np.unique(pair_numbers, return_counts=True)
        true_classes, predicted_classes = np.divmod(occurring_pairs, len(classes))
        is_wrong = true_classes != predicted_classes
        return types.Mistakes(
            unit="images",
            classes=classes,
            true=true_classes[is_wrong],
            predicted=predicted_classes[is_wrong],
            amounts=n_images[is_wrong],
            totals=np.bincount(labels, minlength=len(classes)),
        )

    def upgrade(self, samples: types.Samples, record: Mapping[str, Any]) -> types.Samples:
        """Add the names of the classes, which records of version 1 hold in alphabetical order.

        Raises ValueError if the classes have other numbers of images in this order.
        """
        classes = sorted(record["per_class"])
        n_images = [record["per_class"][name].get("images") for name in classes]
        if n_images != np.bincount(samples[LABELS], minlength=len(classes)).tolist():
            raise ValueError("the order of the classes is unknown")
        return {**samples, CLASSES: np.array(classes)}

    def columns(self, samples: types.Samples) -> Mapping[str, Any]:
        """Return one row per image: label, prediction, score, and the rank of the label.

        The rank is 1 to 5, or NaN if the label is not among the five predictions.
        """
        classes = np.array(displayed_names(samples))
        hits = samples[TOP5] == samples[LABELS][:, None]
        columns = {
            "label": classes[samples[LABELS]],
            "prediction": classes[samples[TOP5][:, 0]],
            "score": samples.get(CONFIDENCE),
            "rank": np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, np.nan),
        }
        if GROUP in samples:
            columns["group"] = samples[GROUPS][samples[GROUP]]
        return columns


TASK = Classification()
