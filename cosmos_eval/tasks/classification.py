"""Zero-shot classification on image folders, webdatasets and torchvision's sets."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval import types
from cosmos_eval.data import classification as class_data
from cosmos_eval.data.class_folders import (
    UNREADABLE_IMAGES,
    describe_skipped_files,
    find_folder,
)
from cosmos_eval.data.class_names import class_names, displayed_class_names, templates_of
from cosmos_eval.data.classification import ClassData
from cosmos_eval.data.folders import Survey, content_hash, fingerprint
from cosmos_eval.data.wordings import replaced_names, worded_templates
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.stats import choices
from cosmos_eval.stats.calibration import calibration_error
from cosmos_eval.stats.choices import TOP
from cosmos_eval.stats.estimates import (
    Features,
    FunctionOfSums,
    FunctionOfWeights,
    GroupMean,
    Ints,
    Mean,
    Proportion,
    means_of_groups,
)
from cosmos_eval.tasks.arrays import SampleArray
from cosmos_eval.tasks.metric import Derived, Metric
from cosmos_eval.tasks.ordered import EmbeddedMeasurement
from cosmos_eval.tasks.task import LEAST_NOTED_FRACTION, NAME, Task
from cosmos_eval.types.protocols import SEVERITIES

if TYPE_CHECKING:
    from cosmos_eval.embedding.embed import ImageEmbedder

# Stored arrays of N images, C classes and G groups.
LABELS = "labels"  # (N,) class numbers
TOP5 = "top5"  # (N, 5) predicted class numbers, best first, -1 if there are fewer classes;
# older results have as many columns as classes then
CONFIDENCE = "confidence"  # (N,) probability of the first prediction; older results lack it
CLASSES = "classes"  # (C,) the data's own names, since several classes may share a prompt name
SHOWN = "class_names"  # (C,) displayed names, if the protocol names the classes otherwise
GROUP = "group"  # (N,) group numbers, if the data have groups
GROUPS = "groups"  # (G,) names of the groups
WRITTEN = "written"  # (N,) classes that are written on the images, if the protocol writes any
ORIGIN = "origin"  # (N,) images that versions share, from 0, if images have several versions
ALEXNET_ERROR = "alexnet_error"  # (1,) error of AlexNet, if the protocol states it
METRICS = "metrics"  # (M,) names of metrics beside the usual ones, if the protocol has any
_LEAST_ERROR = 1e-3  # errors are divided by it
ARRAYS = (
    SampleArray(LABELS, "whole number", ("images",), least=0, below="classes"),
    SampleArray(TOP5, "whole number", ("images", None), least=-1, below="classes"),
    SampleArray(CONFIDENCE, "number", ("images",), least=0, most=1, optional=True),
    SampleArray(CLASSES, "text", ("classes",)),
    SampleArray(SHOWN, "text", ("classes",), optional=True),
    SampleArray(GROUP, "whole number", ("images",), least=0, below="groups", optional=True),
    SampleArray(GROUPS, "text", ("groups",), optional=True),
    SampleArray(METRICS, "text", ("metrics",), optional=True),
    SampleArray(WRITTEN, "whole number", ("images",), least=0, below="classes", optional=True),
    SampleArray(ORIGIN, "whole number", ("images",), least=0, below="images", optional=True),
    SampleArray(ALEXNET_ERROR, "number", (1,), least=_LEAST_ERROR, most=1, optional=True),
    SampleArray(NAME, "text", ("images",), optional=True),
)
HITS = "hits"  # (N, 5) derived: whether each prediction is the label
_LOGIT_SCALE = 100  # CLIP's (Radford et al. 2021, section 2.5), which CLIP Benchmark uses for all


class Prompts(NamedTuple):
    """The names of classes, and the templates that they are put into."""

    names: Sequence[str]
    # Texts with one `{}` each, such as "a photo of a {}.", or the name of a known set of them.
    templates: tuple[str, ...] | str


class ClassTask(Task):
    """The base class of tasks that compare image features with embeddings of class prompts."""

    by_image = True
    names_hash = "sample_list"
    resamples = False

    def open_data(
        self, protocol: types.ClassificationProtocol, options: types.RunOptions
    ) -> ClassData:
        """List the images of a data set and their labels.

        If `options.limit` is set, the first image of every class is kept, then the second image of
        every class, and so on until that many images are kept. Raises UsageError for data that are
        missing or inconsistent.
        """
        return class_data.open_data(protocol, options)

    def check(
        self, protocol: types.ClassificationProtocol, options: types.RunOptions, data: ClassData
    ) -> None:
        """Raise UsageError for a single class, and for classes without a name for prompts."""
        class_data.require_prompts(protocol, options, data)
        if protocol.wording is not None:
            # Raises UsageError for a synonym of an unknown class.
            replaced_names(class_names(protocol, data), protocol.wording, protocol.dataset)

    def survey(
        self,
        protocol: types.ClassificationProtocol,
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> Survey:
        """Count the images of a data set, and list everything that is wrong with its files."""
        return class_data.survey(protocol, options, progress)

    def is_there(self, protocol: types.ClassificationProtocol, root: Path) -> bool:
        """Return whether the folder `root` holds the class folders or archives of a data set."""
        try:
            return bool(find_folder(protocol, types.RunOptions(data_root=str(root))))
        except types.UsageError:
            return False

    def n_samples(self, protocol: types.ClassificationProtocol) -> int | None:
        """Return the number of images of the complete data set, or None if it is unknown.

        An image counts once with each severity of a corruption.
        """
        if protocol.n_images is None or protocol.corruption is None:
            return protocol.n_images
        return protocol.n_images * len(SEVERITIES)

    def fetch(self, protocol: types.ClassificationProtocol, options: types.RunOptions) -> None:
        """Download the data set if `options` ask for it and it is known where from."""
        class_data.fetch(protocol, options)

    def prompts(self, protocol: types.ClassificationProtocol, data: ClassData) -> Sequence[Prompts]:
        """Return the class names and templates of each question that is asked about an image.

        Most data sets ask a single question: to which class the image belongs.
        """
        names, templates = class_names(protocol, data), templates_of(protocol, data)
        if protocol.wording is not None:
            names = replaced_names(names, protocol.wording, protocol.dataset)
            templates = worded_templates(templates, protocol.wording)
        return [Prompts(names, templates)]

    @abstractmethod
    def make_samples(
        self,
        protocol: Any,
        data: ClassData,
        image_features: Features,
        class_embeddings: Features,
    ) -> types.Samples:
        """Compute the arrays to store with a result, such as labels and predictions.

        Args:
            protocol: The protocol that is measured.
            data: N labelled images.
            image_features: The features (N, D) of the images.
            class_embeddings: The embeddings (C, D) of the classes, in the order of `prompts`: all
                classes of the first question, then all classes of the next one.
        """

    def tie_notes(self, image_features: Features, class_embeddings: Features) -> list[str]:
        """Return notes on images (N, D) that score equally with several classes (C, D).

        Only tasks that predict one class per image have such notes.
        """
        return []

    def hashes(self, protocol: Any, data: ClassData, options: types.RunOptions) -> dict[str, str]:
        """Return the hashes that a result records, by name: of the data, and of the prompts."""
        return _hash_data_and_prompts(data, self.prompts(protocol, data))

    def data_hashes(
        self, protocol: Any, data: ClassData, options: types.RunOptions
    ) -> Mapping[str, str]:
        """Return the hashes that a result records, with that of the files and their labels."""
        from cosmos_eval.embedding.hashing import hash_images

        content = content_hash(hash_images(data.images, options), data.labels)
        return {**self.hashes(protocol, data, options), "content": content}

    def embedder(self, protocol: Any, image_embedder: ImageEmbedder) -> ImageEmbedder:
        """Return the embedder of a protocol's images: by default, the one of whole images."""
        return image_embedder

    def embed_classes(
        self,
        encoder: Encoder,
        protocol: Any,
        data: ClassData,
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> Features:
        """Return the embeddings (C, D) of the classes, in the order of `prompts`."""
        from cosmos_eval.tasks.prompts import prompt_embeddings

        embeddings_of_questions = []
        for question in self.prompts(protocol, data):
            embeddings = prompt_embeddings(
                encoder, question.names, question.templates, options, progress
            )
            embeddings_of_questions.append(embeddings)
        return np.concatenate(embeddings_of_questions)

    def in_order(
        self,
        encoder: Encoder,
        protocol: Any,
        data: ClassData,
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> EmbeddedMeasurement:
        """Return a measurement that takes the images in any order.

        Raises UsageError for severities of a corruption, which are measured together.
        """
        if protocol.has_severities:
            raise types.UsageError(
                f"{protocol.dataset} has five versions of every image: leave --until out"
            )
        return _OrderedClasses(self, encoder, protocol, data, options, progress)

    def measure(
        self,
        encoder: Encoder,
        protocols: Sequence[types.ClassificationProtocol],
        data: Sequence[ClassData],
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> Iterator[types.Measurement]:
        """Measure a model, and yield a measurement for each protocol, in their order.

        Args:
            encoder: The model.
            protocols: The protocols. Each is a data set, and how it is measured.
            data: The labelled images of each protocol, from `open_data`.
            options: The options of the run, such as the batch size.
            progress: Called with the progress.
        """
        from cosmos_eval.embedding.embed import ImageEmbedder

        image_embedder = ImageEmbedder(encoder, options, progress)
        for protocol, labelled_images in zip(protocols, data, strict=True):
            embedder = self.embedder(protocol, image_embedder)
            started = perf_counter()
            class_embeddings = self.embed_classes(
                encoder, protocol, labelled_images, options, progress
            )
            prompts_done = perf_counter()

            images = embedder.embed(labelled_images.images)
            samples = self.make_samples(
                protocol, labelled_images, images.features, class_embeddings
            )
            notes = self.tie_notes(images.features, class_embeddings)
            skipped_images = [
                name
                for name in labelled_images.skipped_files
                if name.lower().endswith(UNREADABLE_IMAGES)
            ]
            if skipped_images:
                notes.append(f"{protocol.dataset}: {describe_skipped_files(skipped_images)}")
            if protocol.remark:
                notes.append(f"{protocol.dataset}: {protocol.remark}")
            unit = self.sample_noun
            if protocol.has_severities:
                unit = "images with five severities"
            yield self.measurement(
                samples,
                options,
                names=labelled_images.names,
                content=content_hash(images.image_sha256s, labelled_images.labels),
                hashes=self.hashes(protocol, labelled_images, options),
                seconds={
                    "prompts": prompts_done - started,
                    "images": perf_counter() - prompts_done,
                },
                notes=notes,
                unit=unit,
            )


class _OrderedClasses(EmbeddedMeasurement):
    """Measures labelled images in any order."""

    task: ClassTask

    def hashes_of_names(self) -> Mapping[str, str]:
        """Return the hashes of the names of images and classes, and of the templates."""
        return self.task.hashes(self.protocol, self.data, self.options)

    def images_of(self, sample: int) -> Sequence[int]:
        """Return the index of the image, which is the sample itself."""
        return (sample,)

    @cached_property
    def class_embeddings(self) -> Features:
        """The embeddings (C, D) of the classes."""
        return self.task.embed_classes(
            self.encoder, self.protocol, self.data, self.options, self.progress
        )

    def score(self, samples: Ints) -> types.Samples:
        """Return labels and predictions of images (n,) that are embedded."""
        indices = samples.tolist()
        data = self.data.select(indices)
        features = self.embeddings(indices).features
        return self.task.make_samples(self.protocol, data, features, self.class_embeddings)


def _hash_data_and_prompts(data: ClassData, questions: Sequence[Prompts]) -> dict[str, str]:
    """Return the hashes of the data and the prompts, which a result records, by name.

    Args:
        data: The labelled images. Their list is hashed, and their groups if there are any.
        questions: The questions that are asked about an image. The class names and the templates of
            all questions are hashed.
    """
    from cosmos_eval.tasks.prompts import resolve_templates

    names: list[str] = []
    templates: list[str] = []
    for question in questions:
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
    """Return a dict with the array `class_names` (C,) of the names that tables show, to be stored.

    The dict is empty if the protocol does not name the classes. Tables then show the names that the
    data themselves have.
    """
    if protocol.class_names or protocol.class_list:
        return {SHOWN: np.array(displayed_class_names(protocol, data))}
    return {}


def displayed_names(samples: types.Samples) -> list[str]:
    """Return the names of the C classes that tables show.

    They are the names that the protocol gives to the classes, or else the data's own names.
    """
    names: list[str] = samples.get(SHOWN, samples[CLASSES]).tolist()
    return names


def _has_five_classes(samples: Derived) -> bool:
    """Return whether there are at least five classes, so that every image has five predictions.

    With fewer classes, the places of the missing predictions hold -1.
    """
    return bool((samples[TOP5] >= 0).all())


def _fraction(hits: NDArray[np.bool_], samples: Derived) -> Proportion | Mean:
    """Return the fraction of hits (N,) among images.

    Versions of an image, such as the severities of a corruption, depend on each other.
    """
    if ORIGIN in samples:
        return Mean(hits, clusters=samples[ORIGIN])
    return Proportion(hits)


def _top1_accuracy(samples: Derived) -> Proportion | Mean:
    """Return the fraction of images whose first prediction is correct."""
    return _fraction(samples[HITS][:, 0], samples)


def _top5_accuracy(samples: Derived) -> Proportion | Mean | None:
    """Return the fraction of images with the correct class among the first five predictions.

    Return None for fewer than five classes, as CLIP Benchmark does.
    """
    if not _has_five_classes(samples):
        return None
    return _fraction(samples[HITS].any(axis=1), samples)


def _mean_per_class_recall(samples: Derived) -> GroupMean:
    """Return the mean over the classes of the top-1 accuracy on the images of each class."""
    return GroupMean(samples[HITS][:, 0], groups=samples[LABELS], clusters=samples.get(ORIGIN))


def _corruption_error(samples: Derived) -> Mean | None:
    """Return the top-1 error under a corruption, over all severities, divided by AlexNet's.

    It is CE of Hendrycks and Dietterich 2019, arXiv 1903.12261, section 4. Its mean over the
    corruptions of ImageNet-C is mCE. Return None if AlexNet's error is unknown.
    """
    if ALEXNET_ERROR not in samples:
        return None
    relative_errors = ~samples[HITS][:, 0] / samples[ALEXNET_ERROR][0]
    return Mean(relative_errors, clusters=samples[ORIGIN])


def _attack_success(samples: Derived) -> Proportion | None:
    """Return the fraction of images for which the class that is written on them is predicted.

    Return None if nothing is written.
    """
    if WRITTEN not in samples:
        return None
    return Proportion(samples[TOP5][:, 0] == samples[WRITTEN])


def _expected_calibration_error(samples: Derived) -> FunctionOfSums | None:
    """Return the expected calibration error of the first predictions.

    It is how far their probabilities are from their accuracy. Return None for older results, which
    do not store the probabilities, and for several versions of an image, which are not independent.
    """
    if CONFIDENCE not in samples or ORIGIN in samples:
        return None
    return calibration_error(samples[CONFIDENCE], samples[HITS][:, 0])


def _macro_f1(samples: Derived) -> FunctionOfWeights | None:
    """Return the mean F1 score over the classes, or None if the protocol does not ask for it."""
    if "f1_macro" not in samples.get(METRICS, ()):
        return None
    return choices.macro_f1(samples[LABELS], samples[TOP5][:, 0])


def _worst_group_acc1(samples: Derived) -> GroupMean | None:
    """Return the lowest top-1 accuracy of any group of images.

    Return None without groups, and if the groups are severities of a corruption.
    """
    if GROUP not in samples or ORIGIN in samples:
        return None
    return GroupMean(samples[HITS][:, 0], groups=samples[GROUP], lowest=True)


def _worst_group_acc5(samples: Derived) -> GroupMean | None:
    """Return the lowest top-5 accuracy of any group of images.

    Return None if the images have no groups, if the protocol does not ask for it, and for fewer
    than five classes.
    """
    has_groups = GROUP in samples
    is_requested = "worst_group_acc5" in samples.get(METRICS, ())
    if not (has_groups and is_requested and _has_five_classes(samples)):
        return None
    return GroupMean(samples[HITS].any(axis=1), groups=samples[GROUP], lowest=True)


def _acc1_of_group(samples: Derived, group_name: str) -> Proportion:
    """Return the top-1 accuracy on the images of the group with a name."""
    group_number = samples[GROUPS].tolist().index(group_name)
    is_in_group = samples[GROUP] == group_number
    return Proportion(samples[HITS][is_in_group, 0])


def _groups_with_images(samples: Derived) -> Sequence[str]:
    """Return the names of the groups that have images. There are none without groups."""
    if GROUP not in samples:
        return ()
    group_numbers = np.unique(samples[GROUP])
    return [str(name) for name in samples[GROUPS][group_numbers]]


class Classification(ClassTask):
    """Zero-shot classification of images with one class each."""

    protocol = types.ClassificationProtocol
    metrics = (
        Metric("acc1", _top1_accuracy, primary=True),
        Metric("acc5", _top5_accuracy),
        Metric("mean_per_class_recall", _mean_per_class_recall),
        Metric("CE", _corruption_error, unit="ratio", higher_is_better=False, headline=True),
        Metric(
            "attack_success",
            _attack_success,
            higher_is_better=False,
            label="attack success",
            headline=True,
        ),
        Metric("ece", _expected_calibration_error, higher_is_better=False, label="ECE"),
        Metric("worst_group_acc1", _worst_group_acc1, label="worst-group acc1", headline=True),
        Metric("worst_group_acc5", _worst_group_acc5, label="worst-group acc5", headline=True),
        Metric("f1_macro", _macro_f1, label="macro F1", headline=True),
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
        """Predict five classes of every image, and return them with labels and groups.

        With C < 5 classes, the last 5 - C predictions are -1.

        Args:
            protocol: The protocol that is measured.
            data: N labelled images.
            image_features: The features (N, D) of the images.
            class_embeddings: The embeddings (C, D) of the classes.

        Returns:
            The arrays to store, by name.
        """
        best_classes = choices.top_classes(image_features, class_embeddings)  # (N, 5) or (N, C)
        n_missing_columns = TOP - best_classes.shape[1]
        top5 = np.pad(best_classes, ((0, 0), (0, n_missing_columns)), constant_values=-1)
        samples = {
            LABELS: data.labels,
            TOP5: top5,
            CONFIDENCE: choices.top_confidences(image_features, class_embeddings, _LOGIT_SCALE),
            CLASSES: np.array(data.classes),
            **displayed_names_array(protocol, data),
        }
        if protocol.metrics:
            samples[METRICS] = np.array(protocol.metrics)
        if data.group_of_image is not None:
            samples[GROUP] = data.group_of_image
            samples[GROUPS] = np.array(data.group_names)
        if data.written_classes is not None:
            samples[WRITTEN] = data.written_classes
        if data.origins is not None:
            # A limit may leave out some images: number the others from 0.
            samples[ORIGIN] = np.unique(data.origins, return_inverse=True)[1]
        if protocol.alexnet_error is not None:
            samples[ALEXNET_ERROR] = np.array([protocol.alexnet_error])
        return samples

    def tie_notes(self, image_features: Features, class_embeddings: Features) -> list[str]:
        """Return a note if over 1% of the images (N, D) have several best classes of C (C, D).

        Example:
            "12 of 500 images score highest with several classes: the first of them is predicted"
        """
        n_images = len(image_features)
        n_tied = choices.count_shared_best(image_features, class_embeddings)
        if n_tied <= LEAST_NOTED_FRACTION * n_images:
            return []
        return [
            f"{n_tied} of {n_images} images score highest with several classes: the first of them "
            "is predicted"
        ]

    def derive(self, samples: types.Samples) -> Derived:
        """Add the array HITS (N, 5): True where a prediction is the label."""
        hits = samples[TOP5] == samples[LABELS][:, None]
        return {**samples, HITS: hits}

    def require_consistent(self, samples: types.Samples) -> None:
        """Raise ValueError for images without a prediction, and for groups without names."""
        n_predictions = samples[TOP5].shape[1]
        if not 1 <= n_predictions <= TOP:
            raise ValueError(f"`{TOP5}` has {n_predictions} columns, not 1 to {TOP}")
        if (samples[TOP5][:, 0] < 0).any():
            raise ValueError(f"`{TOP5}` has an image without a first prediction")
        if (GROUP in samples) != (GROUPS in samples):
            raise ValueError(f"`{GROUP}` and `{GROUPS}` are stored together")
        if ALEXNET_ERROR in samples and ORIGIN not in samples:
            raise ValueError(f"`{ALEXNET_ERROR}` is stored without `{ORIGIN}`")

    def per_class(self, samples: types.Samples) -> Mapping[str, Mapping[str, float | None]]:
        """Return the recall and the number of images of every class, by its displayed name."""
        is_correct = samples[TOP5][:, 0] == samples[LABELS]
        return means_of_groups(
            displayed_names(samples), samples[LABELS], {"recall": is_correct}, "images"
        )

    def confusion_pairs(self, samples: types.Samples) -> Sequence[Mapping[str, Any]]:
        """Return the most frequent mistakes, the most frequent one first.

        For example, `{"true": "cat", "predicted": "dog", "images": 7}`.
        """
        classes = displayed_names(samples)
        confused_pairs = []
        for pair in choices.confusion_pairs(samples[LABELS], samples[TOP5][:, 0]):
            confused_pairs.append(
                {
                    "true": classes[pair.true],
                    "predicted": classes[pair.predicted],
                    "images": pair.images,
                }
            )
        return confused_pairs

    def mistakes(self, samples: types.Samples) -> types.Mistakes:
        """Count the images of each true class for which each other class was predicted."""
        labels, predicted = samples[LABELS].astype(np.int64), samples[TOP5][:, 0]
        classes = displayed_names(samples)
        n_classes = len(classes)

        # Count the images of each pair of a true and a predicted class. For counting, a pair is
        # one number, true * C + predicted.
        pair_of_image = labels * n_classes + predicted
        occurring_pairs, n_images = np.unique(pair_of_image, return_counts=True)
        true_classes, predicted_classes = np.divmod(occurring_pairs, n_classes)
        is_wrong = true_classes != predicted_classes
        return types.Mistakes(
            unit="images",
            classes=classes,
            true=true_classes[is_wrong],
            predicted=predicted_classes[is_wrong],
            amounts=n_images[is_wrong],
            totals=np.bincount(labels, minlength=n_classes),
        )

    def upgrade(self, samples: types.Samples, record: Mapping[str, Any]) -> types.Samples:
        """Add the names of the classes to the samples of a result of format version 1.

        Version 1 stores the names only in the JSON record, and numbers the classes in alphabetical
        order.

        Args:
            samples: The stored arrays by name.
            record: The JSON record of the result.

        Raises ValueError if the numbers of images by class show that the order is another one.
        """
        classes = sorted(record["per_class"])
        recorded_counts = [record["per_class"][name].get("images") for name in classes]
        counted_labels = np.bincount(samples[LABELS], minlength=len(classes)).tolist()
        if recorded_counts != counted_labels:
            raise ValueError("the order of the classes is unknown")
        return {**samples, CLASSES: np.array(classes)}

    def columns(self, samples: types.Samples) -> Mapping[str, Any]:
        """Return a table with one row per image, as arrays (N,) by the names of the columns.

        `label` and `prediction` are names of classes, and `score` is the probability of the
        prediction. `rank` is the place of the label among the five predictions, from 1, or NaN if
        it is not among them.
        """
        classes = np.array(displayed_names(samples))
        hits = samples[TOP5] == samples[LABELS][:, None]
        place_of_first_hit = hits.argmax(axis=1) + 1
        rank_of_label = np.where(hits.any(axis=1), place_of_first_hit, np.nan)
        columns = {
            "label": classes[samples[LABELS]],
            "prediction": classes[samples[TOP5][:, 0]],
            "score": samples.get(CONFIDENCE),
            "rank": rank_of_label,
        }
        if GROUP in samples:
            columns["group"] = samples[GROUPS][samples[GROUP]]
        if WRITTEN in samples:
            columns["written"] = classes[samples[WRITTEN]]
        return columns


TASK = Classification()
