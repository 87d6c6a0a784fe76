"""Facts that a result states beside its figures: the model's, and the speed of the run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from cosmos_core.utils.distributed import Distributed
from cosmos_eval.embedding.cache import ShardStore, limit_bytes
from cosmos_eval.embedding.embed import embedding_identity
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.models.training import training_facts
from cosmos_eval.types import ModelSpec, OnProgress, Progress, RunOptions, UsageError

FACTS = "facts"
"""The role under which facts are cached beside embeddings."""
_KEY = bytes(32)  # the only key of the store, since a model has one record of facts
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
    encoder: Encoder,
    spec: ModelSpec,
    options: RunOptions,
    show_note: Callable[[str], object],
) -> dict[str, Any]:
    """Return the size and the cost of a model, which a result records as `model.facts`.

    The facts are cached beside the embeddings: a model whose embeddings are all cached need not be
    built to count its parameters.

    Args:
        encoder: The model.
        spec: The specification of the model, by which its training is looked up.
        options: Their `cache` is the folder of cached embeddings.
        show_note: Is called with a message about each fact that cannot be counted.

    Returns:
        Facts by name, such as `parameters`, `image_gflops` and `training_data`. Unknown ones are
        None.
    """
    # Everything that decides the facts, besides the model itself.
    identity: dict[str, dict[str, Any]] = {
        "preprocessing": dict(encoder.preprocessing),
        "tokenizer": dict(encoder.tokenizer),
    }
    training = training_facts(spec)
    if encoder.info.auxiliary is not None:
        identity["auxiliary"] = dict(encoder.info.auxiliary)
        # The auxiliary encoder was trained in another way, and cannot be counted without weights.
        unknown_facts = list(training)
        if not identity["auxiliary"]["weights_sha256"]:
            unknown_facts += _IMAGE_FACTS
        training = dict.fromkeys(unknown_facts)

    store = ShardStore(options.cache, embedding_identity(encoder, FACTS, **identity), limit_bytes())
    facts: dict[str, Any] | None = None
    for _, arrays in store.find([_KEY], lambda note: None):
        facts = json.loads(arrays["facts"].tobytes())
    if facts is None:
        from cosmos_eval.models.facts import model_facts

        facts = model_facts(encoder, show_note)
        json_bytes = np.frombuffer(json.dumps(facts).encode(), np.uint8)
        with suppress(UsageError):  # a cache that cannot be written ends no run
            store.add([_KEY], {"facts": json_bytes})
    return facts | training


class ImageCounter:
    """A progress callback that counts the images that this process encodes.

    Tasks call it as an `OnProgress` after each step. It passes the step on to the callback that it
    was made with.
    """

    def __init__(self, progress: OnProgress) -> None:
        self._progress = progress
        self.restart()

    def restart(self) -> None:
        """Begin to count from zero, for another data set."""
        self._n_done_in_pass = 0  # the images that the last step reported as done
        self._n_encoded = 0  # the images encoded so far, in all passes
        self._steps: list[_EncodedStep] = []  # the steps that encoded images, in their order

    def __call__(self, step: Progress) -> None:
        """Count the images that a step adds to the previous one, and pass the step on.

        In every pass over the images, `step.done` counts from zero. A step with a note reports
        images that an earlier run has encoded. They are not counted.
        """
        if step.phase == _IMAGES:
            is_new_pass = step.done < self._n_done_in_pass
            n_done_before = 0 if is_new_pass else self._n_done_in_pass
            n_new = step.done - n_done_before
            self._n_done_in_pass = step.done
            if n_new > 0 and not step.note:
                self._n_encoded += n_new
                self._steps.append(_EncodedStep(perf_counter(), self._n_encoded))
        self._progress(step)

    def images_per_second(
        self, seconds_by_phase: Mapping[str, float], distributed: Distributed
    ) -> float | None:
        """Return the images that all processes together encode per second; None if there are none.

        The first of several steps is left out: a model may be built and warmed up in it. With a
        single step, the rate is the number of its images by the time of the phase.

        Args:
            seconds_by_phase: The wall times of the measurement. `images` is the phase in which
                images are encoded.
            distributed: The processes that share the work. All of them must call this method.

        Example:
            Steps that end at 10 s with 32 images, at 12 s with 64, and at 14 s with 96: the rate is
            (96 - 32) / (14 - 10) = 16 images per second.
        """
        image_seconds = seconds_by_phase.get(_IMAGES, 0)
        rate = 0.0
        if len(self._steps) > 1:
            first, last = self._steps[0], self._steps[-1]
            rate = (last.n_encoded - first.n_encoded) / (last.time - first.time)
        elif self._n_encoded and image_seconds:
            rate = self._n_encoded / image_seconds
        rate_of_all_processes = sum(distributed.gather(rate))
        return round(rate_of_all_processes, 3) or None
