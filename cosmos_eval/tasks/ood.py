"""Zero-shot detection of images outside the classes of a data set (out of distribution, OOD).

Images inside the classes should score higher than images outside. The scores are Ming et al. 2022,
"Delving into Out-of-Distribution Detection with Vision-Language Representations", arXiv 2211.13445:
MCM, the largest probability of a softmax over the cosines at temperature 1, and the largest cosine.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cosmos_eval import types
from cosmos_eval.data import classification
from cosmos_eval.data.class_folders import find_folder
from cosmos_eval.data.class_names import ClassData, class_names
from cosmos_eval.data.folders import Survey, content_hash, fingerprint
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.stats import choices, detection
from cosmos_eval.stats.estimates import FunctionOfWeights
from cosmos_eval.tasks.arrays import SampleArray
from cosmos_eval.tasks.metric import Derived, Metric
from cosmos_eval.tasks.task import NAME, Task

if TYPE_CHECKING:
    from cosmos_eval.embedding.embed import ImageEmbedder  # which imports slow packages

# Stored arrays of N images: all images inside the classes, then all images outside.
INSIDE = "inside"  # (N,) whether the image shows one of the classes
MCM = "mcm"  # (N,) largest probability of a class, at temperature 1
MAX_LOGIT = "max_logit"  # (N,) largest cosine with a class
ARRAYS = (
    SampleArray(INSIDE, "truth value", ("images",)),
    SampleArray(MCM, "number", ("images",), least=0, most=1),
    SampleArray(MAX_LOGIT, "number", ("images",), least=-1, most=1),
    SampleArray(NAME, "text", ("images",), optional=True),
)


class OodData(NamedTuple):
    """Images inside and outside the classes of a data set."""

    inside: ClassData
    outside: ClassData

    @property
    def found_samples(self) -> types.FoundSamples | None:
        """How many images there are if a known data set is incomplete; otherwise None."""
        return self.inside.found_samples or self.outside.found_samples


def _mcm_auroc(samples: Derived) -> FunctionOfWeights:
    """Return the AUROC of MCM."""
    return detection.auroc(samples[MCM], samples[INSIDE])


def _mcm_fpr(samples: Derived) -> FunctionOfWeights:
    """Return the share of images outside that MCM accepts with 95% of the images inside."""
    return detection.fpr_at_recall(samples[MCM], samples[INSIDE])


def _max_logit_auroc(samples: Derived) -> FunctionOfWeights:
    """Return the AUROC of the largest cosine."""
    return detection.auroc(samples[MAX_LOGIT], samples[INSIDE])


def _max_logit_fpr(samples: Derived) -> FunctionOfWeights:
    """Return the share of images outside that the largest cosine accepts, as for MCM."""
    return detection.fpr_at_recall(samples[MAX_LOGIT], samples[INSIDE])


class OutOfDistribution(Task):
    """Zero-shot detection of images outside the classes of a data set."""

    protocol = types.OodProtocol
    metrics = (
        Metric("auroc", _mcm_auroc, label="AUROC", primary=True),
        Metric("fpr95", _mcm_fpr, label="FPR95", higher_is_better=False, headline=True),
        Metric("auroc_max_logit", _max_logit_auroc, label="AUROC max logit"),
        Metric("fpr95_max_logit", _max_logit_fpr, label="FPR95 max logit", higher_is_better=False),
    )
    truth = (INSIDE,)
    checked = "class folders of images inside and outside, and how many images are there"
    arrays = ARRAYS

    def open_data(self, protocol: types.OodProtocol, options: types.RunOptions) -> OodData:
        """List the images inside and outside the classes of a data set.

        If `options.limit` is set, that many images inside and as many outside are kept. Raises
        UsageError for data that are missing or inconsistent.
        """
        inside, outside = splits_of(protocol)
        data = OodData(
            classification.open_data(inside, options), classification.open_data(outside, options)
        )
        classification.require_prompts(inside, options, data.inside)
        return data

    def image_pass(
        self, protocol: types.OodProtocol, options: types.RunOptions, data: OodData
    ) -> Hashable:
        """Return what identifies the images inside, which are encoded once for all sets outside."""
        inside, _ = splits_of(protocol)
        return inside.dataset, inside.root, inside.folder

    def measure(
        self,
        encoder: Encoder,
        protocols: Sequence[types.OodProtocol],
        data: Sequence[OodData],
        options: types.RunOptions,
        progress: types.OnProgress,
    ) -> Iterator[types.Measurement]:
        """Score the images of every protocol, and yield a measurement for each.

        Args:
            encoder: The model.
            protocols: The protocols. All of them have the same images inside.
            data: The images of each protocol, from `open_data`.
            options: The options of the run, such as the batch size.
            progress: Called with the progress.
        """
        from cosmos_eval.embedding.embed import ImageEmbedder

        embedder = ImageEmbedder(encoder, options, progress)
        for protocol, split_images in zip(protocols, data, strict=True):
            yield self._measure_protocol(embedder, protocol, split_images, progress)

    def data_hashes(
        self, protocol: types.OodProtocol, data: OodData, options: types.RunOptions
    ) -> Mapping[str, str]:
        """Return the hashes of the images' files, of their names, and of the class names."""
        from cosmos_eval.embedding.hashing import hash_images

        images = [*data.inside.images, *data.outside.images]
        is_inside = np.arange(len(images)) < len(data.inside.images)
        return {
            "sample_list": fingerprint([data.inside.names, data.outside.names]),
            "content": content_hash(hash_images(images, options), is_inside),
            "class_names": fingerprint(class_names(splits_of(protocol)[0], data.inside)),
        }

    def _measure_protocol(
        self,
        embedder: ImageEmbedder,
        protocol: types.OodProtocol,
        data: OodData,
        progress: types.OnProgress,
    ) -> types.Measurement:
        """Score the images of a protocol, and return the measurement.

        Args:
            embedder: The model, which keeps the features of the images inside.
            protocol: The protocol.
            data: The images inside and outside.
            progress: Called with the progress.
        """
        from cosmos_eval.embedding.embed import embed_images
        from cosmos_eval.tasks.prompts import prompt_embeddings, resolve_templates

        encoder, options = embedder.encoder, embedder.options
        started = perf_counter()
        names = class_names(splits_of(protocol)[0], data.inside)
        class_embeddings = prompt_embeddings(encoder, names, protocol.templates, options, progress)
        prompts_done = perf_counter()

        inside = embedder.embed(data.inside.images)
        outside = embed_images(encoder, data.outside.images, options, progress)
        features = np.concatenate([inside.features, outside.features])
        is_inside = np.arange(len(features)) < len(inside.features)
        samples = {
            INSIDE: is_inside,
            MCM: choices.top_confidences(features, class_embeddings, scale=1),
            MAX_LOGIT: choices.top_scores(features, class_embeddings),
        }
        return self.measurement(
            samples,
            options,
            names=[*data.inside.names, *data.outside.names],
            sample_list=[data.inside.names, data.outside.names],
            content=content_hash([*inside.image_sha256s, *outside.image_sha256s], is_inside),
            hashes={
                "class_names": fingerprint(names),
                "templates": fingerprint(resolve_templates(protocol.templates)),
            },
            seconds={
                "prompts": prompts_done - started,
                "images": perf_counter() - prompts_done,
            },
            unit="images inside, and as many outside,",
        )

    def columns(self, samples: types.Samples) -> Mapping[str, Any]:
        """Return a table with a row per image: whether it is inside, and both scores."""
        return {name: samples[name] for name in (INSIDE, MCM, MAX_LOGIT)}

    def survey(
        self, protocol: types.OodProtocol, options: types.RunOptions, progress: types.OnProgress
    ) -> Survey:
        """Count the images, and list everything that is wrong with the files of both sets."""
        inside, outside = splits_of(protocol)
        surveys = [
            classification.survey(inside, options, progress),
            classification.survey(outside, options, progress, has_prompts=False),
        ]
        faults = tuple(fault for survey in surveys for fault in survey.faults)
        remedies = [survey.remedy for survey in surveys if survey.remedy]
        return Survey(
            faults=faults,
            remedy=remedies[0] if remedies else None,
            folder=protocol.root or options.data_root,
            expected=_add(surveys[0].expected, surveys[1].expected),
            images=_add(surveys[0].images, surveys[1].images),
            n_classes=surveys[0].n_classes,
            note="; ".join(survey.note for survey in surveys if survey.note),
        )

    def is_there(self, protocol: types.OodProtocol, root: Path) -> bool:
        """Return whether the folder `root` holds images both inside and outside the classes."""
        options = types.RunOptions(data_root=str(root))
        try:
            return all(find_folder(split, options) for split in splits_of(protocol))
        except types.UsageError:
            return False

    def n_samples(self, protocol: types.OodProtocol) -> int | None:
        """Return the number of images inside and outside, or None if it is unknown."""
        inside, outside = splits_of(protocol)
        return _add(inside.n_images, outside.n_images)


def _add(first: int | None, second: int | None) -> int | None:
    """Return the sum of two numbers, or None if any of them is unknown."""
    return None if first is None or second is None else first + second


def splits_of(
    protocol: types.OodProtocol,
) -> tuple[types.ClassificationProtocol, types.ClassificationProtocol]:
    """Return two classification protocols, by which images inside and outside are read.

    Known data sets state them. For a user's data set, they are made of its two folders.
    """
    if protocol.splits is not None:
        return protocol.splits
    inside = types.ClassificationProtocol(
        dataset=protocol.dataset,
        protocol_name=protocol.protocol_name,
        root=protocol.root,
        folder=protocol.inside,
        class_names=protocol.class_names,
        class_list=protocol.class_list,
        templates=protocol.templates,
    )
    outside = replace(inside, folder=protocol.outside, class_names={}, class_list=None)
    return inside, outside


TASK = OutOfDistribution()
