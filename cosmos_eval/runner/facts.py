"""Facts that a result states beside its figures: the model's, and the speed of the run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from cosmos_eval.embedding.cache import ShardStore, limit_bytes
from cosmos_eval.embedding.embed import embedding_identity
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.models.training import training_facts
from cosmos_eval.types import ModelSpec, OnProgress, Progress, RunOptions, UsageError

FACTS = "facts"
"""The role under which facts are cached beside embeddings."""
_KEY = bytes(32)  # a model has one record of facts
# The facts that need the weights of an auxiliary encoder.
_IMAGE_FACTS = ("parameters", "image_parameters", "image_gflops")
_IMAGES = "images"  # the phase in which tasks encode images


class _EncodedStep(NamedTuple):
    """The end of a step in which images were encoded."""

    # By `time.perf_counter`, in seconds.
    time: float
    # The images encoded since the counter was started, including this step's.
    n_encoded: int


def facts_of(
    encoder: Encoder, spec: ModelSpec, options: RunOptions, note: Callable[[str], object]
) -> dict[str, Any]:
    """Return the size and the cost of a model, which a result records as `model.facts`.

    `note` is called with a message about each fact that cannot be counted. The facts are cached
    beside the embeddings: a model whose embeddings are all cached need not be built to count them.
    """
    inputs: dict[str, dict[str, Any]] = {
        "preprocessing": dict(encoder.preprocessing),
        "tokenizer": dict(encoder.tokenizer),
    }
    training = training_facts(spec)
    if encoder.info.auxiliary is not None:
        inputs["auxiliary"] = dict(encoder.info.auxiliary)
        # The auxiliary encoder was trained in another way, and cannot be counted without weights.
        unknown_facts = list(training)
        if not inputs["auxiliary"]["weights_sha256"]:
            unknown_facts += _IMAGE_FACTS
        training = dict.fromkeys(unknown_facts)
    store = ShardStore(options.cache, embedding_identity(encoder, FACTS, **inputs), limit_bytes())
    facts = _cached_facts(store)
    if facts is None:
        from cosmos_eval.models.facts import model_facts

        facts = model_facts(encoder, note)
        content = np.frombuffer(json.dumps(facts).encode(), np.uint8)
        with suppress(UsageError):  # a cache that cannot be written ends no run
            store.add([_KEY], {"facts": content})
    return facts | training


def _cached_facts(store: ShardStore) -> dict[str, Any] | None:
    """Return the facts of a model from the cache; None if it has none."""
    for _, arrays in store.find([_KEY], lambda note: None):
        facts: dict[str, Any] = json.loads(arrays["facts"].tobytes())
        return facts
    return None


class Encoded:
    """A progress callback that counts the images that this process encodes.

    It is called as an `OnProgress`, and calls the callback that it was made with.
    """

    def __init__(self, progress: OnProgress) -> None:
        self._progress = progress
        self.restart()

    def restart(self) -> None:
        """Begin to count from zero, for another data set."""
        self._n_done_in_pass = 0  # the images that the last step reported as done
        self._n_encoded = 0  # images so far, in all passes
        self._steps: list[_EncodedStep] = []

    def __call__(self, step: Progress) -> None:
        if step.phase == _IMAGES:
            self._count(step)
        self._progress(step)

    def _count(self, step: Progress) -> None:
        """Count the images that a step adds to the previous one.

        `step.done` counts from zero in every pass over the images. A step with a note reports
        images that were encoded before, by an earlier run, and they are not counted.
        """
        is_new_pass = step.done < self._n_done_in_pass
        if is_new_pass:
            self._n_done_in_pass = 0
        n_new = step.done - self._n_done_in_pass
        self._n_done_in_pass = step.done
        if n_new and not step.note:
            self._n_encoded += n_new
            self._steps.append(_EncodedStep(perf_counter(), self._n_encoded))

    def per_second(self, seconds: Mapping[str, float], options: RunOptions) -> float | None:
        """Return the images that all processes together encode per second.

        Return None if no image was encoded. The first step is left out if there are several: a
        model may be built and warmed up in it. With a single step, the rate is the number of its
        images by the time of the phase in which images are encoded, from `seconds`: the wall times
        of the measurement by phase.
        """
        image_seconds = seconds.get(_IMAGES, 0)
        images_per_second = 0.0
        if len(self._steps) > 1:
            first, last = self._steps[0], self._steps[-1]
            images_per_second = (last.n_encoded - first.n_encoded) / (last.time - first.time)
        elif self._n_encoded and image_seconds:
            images_per_second = self._n_encoded / image_seconds
        total = sum(options.distributed.gather(images_per_second))
        return round(total, 3) or None
