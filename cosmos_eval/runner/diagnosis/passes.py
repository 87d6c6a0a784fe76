"""Passes of a model over images and texts, with each fault of a catalogue in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cosmos_eval.data.prefetch import prefetch
from cosmos_eval.data.sources import decode_source
from cosmos_eval.embedding.embed import encode_tokens
from cosmos_eval.models.encoder import Encoder, are_equal_inputs, batch_images
from cosmos_eval.models.live import find_modules
from cosmos_eval.runner.diagnosis.faults import Fault, NotApplicableError
from cosmos_eval.runner.diagnosis.images import ImageFault, Transform, study_transform
from cosmos_eval.runner.diagnosis.modules import ModuleFault
from cosmos_eval.runner.diagnosis.subjects import Subject
from cosmos_eval.runner.diagnosis.texts import TextFault, Wording, study_tokenizer
from cosmos_eval.stats.estimates import Features
from cosmos_eval.types import OnProgress, Precision, Progress, RunOptions


@dataclass
class Passes:
    """The features of a subject's images and texts under faults."""

    images: dict[Fault, Features] = field(default_factory=dict)
    texts: dict[Fault, Features] = field(default_factory=dict)
    # Why faults cannot be applied to the model or the data set.
    reasons: dict[Fault, str] = field(default_factory=dict)
    # How often the model encoded the images, and the texts.
    n_image_passes: int = 0
    n_text_passes: int = 0


def encode_with_faults(
    subject: Subject,
    image_faults: Sequence[ImageFault],
    text_faults: Sequence[TextFault],
    module_faults: Sequence[ModuleFault],
    options: RunOptions,
    progress: OnProgress,
) -> Passes:
    """Encode the images and texts of a subject under each fault.

    Faults that change no input of the model are left out of the result.

    Args:
        subject: The model, and the images and texts.
        image_faults: Faults of images, each of which needs a pass over the images.
        text_faults: Faults of texts, each of which needs a pass over the texts.
        module_faults: Faults of the model, each of which needs both passes.
        options: The batch size, and the threads that read images.
        progress: Called after each batch of images, and after each pass over the texts.
    """
    passes = Passes()
    modules = find_modules(subject.encoder)
    transform = study_transform(subject.encoder)
    applicable_image_faults: list[ImageFault] = []
    for image_fault in image_faults:
        try:
            image_fault.require_applicable(transform)
            applicable_image_faults.append(image_fault)
        except NotApplicableError as error:
            passes.reasons[image_fault] = str(error)
    applicable_module_faults: list[ModuleFault] = []
    for module_fault in module_faults:
        try:
            with module_fault.apply(modules):
                applicable_module_faults.append(module_fault)
        except NotApplicableError as error:
            passes.reasons[module_fault] = str(error)

    faults_of_images: list[ImageFault | ModuleFault]
    faults_of_images = [*applicable_image_faults, *applicable_module_faults]
    _encode_images(subject, faults_of_images, modules, transform, options, progress, passes)
    # Faults of texts that cannot be applied are found when the texts are tokenized.
    faults_of_texts: list[TextFault | ModuleFault]
    faults_of_texts = [*text_faults, *applicable_module_faults]
    _encode_texts(subject, faults_of_texts, modules, options.batch_size, progress, passes)
    return passes


def _encode_images(
    subject: Subject,
    faults: Sequence[ImageFault | ModuleFault],
    modules: Sequence[nn.Module],
    transform: Transform,
    options: RunOptions,
    progress: OnProgress,
    passes: Passes,
) -> None:
    """Add the features of the images under each fault to `passes`.

    Every image is decoded once. A batch in which a fault changes no pixel is not encoded again, and
    a fault that changes no pixel of any image is left out.
    """
    encoder = subject.encoder
    features_by_fault: dict[Fault, list[Features]] = {fault: [] for fault in faults}
    changing_faults: set[Fault] = set()
    pictures = prefetch(subject.images, decode_source, workers=options.workers)
    n_done, n_images = 0, len(subject.images)
    for batch in _batches(pictures, options.batch_size):
        right_pixels = [encoder.transform(picture) for picture in batch]
        right_features = subject.image_features[n_done : n_done + len(batch)]
        for fault in faults:
            if isinstance(fault, ModuleFault):
                with fault.apply(modules):
                    features = _encode_pixels(encoder, right_pixels)
                changing_faults.add(fault)
            else:
                pixels = [fault.apply(encoder, picture, transform) for picture in batch]
                if all(map(are_equal_inputs, pixels, right_pixels)):
                    features = right_features
                else:
                    features = _encode_pixels(encoder, pixels)
                    changing_faults.add(fault)
            features_by_fault[fault].append(features)
        n_done += len(batch)
        progress(Progress("faults of images", n_done, n_images))
    for fault in faults:
        if fault in changing_faults:
            passes.images[fault] = np.concatenate(features_by_fault[fault])
            passes.n_image_passes += 1


def _batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Yield lists of `size` items. The last list may be shorter."""
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _encode_pixels(encoder: Encoder, pixels: Sequence[Any]) -> Features:
    """Return the features (B, D) of B images, from their pixels as the transform returns them."""
    return _finite(encoder.encode_image(batch_images(encoder, pixels)))


def _finite(features: Tensor) -> Features:
    """Return features (B, D) on the CPU. NaN, which a faulty input may cause, becomes 0."""
    return torch.nan_to_num(features).cpu().numpy()


def _encode_texts(
    subject: Subject,
    faults: Sequence[TextFault | ModuleFault],
    modules: Sequence[nn.Module],
    batch_size: int,
    progress: OnProgress,
    passes: Passes,
) -> None:
    """Add the features of the texts under each fault to `passes`.

    A fault that changes no token is left out. If a fault cannot be applied, or if the model raises
    an error for its tokens, the reason is added to `passes.reasons`.
    """
    encoder, wording = subject.encoder, subject.wording
    layout = study_tokenizer(encoder)
    right_tokens = encoder.tokenize(wording.texts)
    for n_done, fault in enumerate(faults):
        progress(Progress("faults of texts", n_done, len(faults)))
        changed_wording, tokens = wording, right_tokens
        context: AbstractContextManager[None] = nullcontext()
        if isinstance(fault, ModuleFault):
            context = fault.apply(modules)
        else:
            try:
                changed_wording = fault.change_wording(wording)
                tokens = fault.apply(encoder, changed_wording, layout)
            except NotApplicableError as error:
                passes.reasons[fault] = str(error)
                continue
            if changed_wording.templates == wording.templates and tokens.equal(right_tokens):
                continue
        try:
            with context:
                features = encode_wording(encoder, changed_wording, tokens, batch_size)
        except Exception as error:  # this mistake gives an error, which nobody takes for a number
            passes.reasons[fault] = f"its text tower refuses such texts ({type(error).__name__})"
            continue
        passes.texts[fault] = features
        passes.n_text_passes += 1
    progress(Progress("faults of texts", len(faults), len(faults)))


def encode_wording(encoder: Encoder, wording: Wording, tokens: Tensor, batch_size: int) -> Features:
    """Return the normalised feature (N, D) of each name: the mean feature over its templates.

    Args:
        encoder: The model.
        wording: N names and their templates.
        tokens: (N * templates, L), the tokens of the texts, in the order of `wording.texts`.
        batch_size: How many texts are encoded at once.
    """
    (features,) = encode_tokens(encoder, [tokens], batch_size)
    features_of_names = features.reshape(len(wording.names), len(wording.templates), -1)
    means = np.nan_to_num(features_of_names).mean(axis=1)
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    normalised: Features = means / np.maximum(lengths, np.finfo(np.float32).tiny)
    return normalised


def encode_in_other_precision(subject: Subject, options: RunOptions) -> tuple[Features, Features]:
    """Return the features of a subject's images and texts in another precision.

    It is bfloat16 for a model in float32, and float32 for other models.
    """
    encoder = subject.encoder
    other_precision: Precision = "bf16" if encoder.info.precision == "fp32" else "fp32"
    image_features = []
    with _precision(encoder, other_precision):
        pictures = prefetch(subject.images, decode_source, workers=options.workers)
        for batch in _batches(pictures, options.batch_size):
            pixels = [encoder.transform(picture) for picture in batch]
            image_features.append(_encode_pixels(encoder, pixels))
        tokens = encoder.tokenize(subject.wording.texts)
        text_features = encode_wording(encoder, subject.wording, tokens, options.batch_size)
    return np.concatenate(image_features), text_features


@contextmanager
def _precision(encoder: Any, precision: Precision) -> Iterator[None]:
    """Let a model compute in another precision within the context."""
    original_info = encoder.info
    encoder.info = original_info._replace(precision=precision)
    try:
        yield
    finally:
        encoder.info = original_info
