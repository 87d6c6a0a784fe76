"""Facts that a result states beside its figures: the model's, and the speed of the run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import perf_counter
from typing import Any

import numpy as np

from cosmos_eval.embedding.cache import ShardStore, limit_bytes
from cosmos_eval.embedding.embed import identity
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.models.training import training_facts
from cosmos_eval.types import ModelSpec, OnProgress, Progress, RunOptions, UsageError

FACTS = "facts"
"""The role under which facts are cached beside embeddings."""
_KEY = bytes(32)  # a model has one record of facts
_FACTS_OF_IMAGES = ("parameters", "image_parameters", "image_gflops")
_IMAGES = "images"  # the phase in which tasks encode images


def facts_of(
    encoder: Encoder, spec: ModelSpec, options: RunOptions, note: Callable[[str], object]
) -> dict[str, Any]:
    """Return the size and the cost of a model, which a result records as `model.facts`.

    `note` is called with a message about what cannot be counted. The counts are cached as
    embeddings are, so that a model that has nothing to encode need not be built.
    """
    inputs = {name: dict(getattr(encoder, name)) for name in ("preprocessing", "tokenizer")}
    training = training_facts(spec)
    if encoder.info.auxiliary is not None:
        inputs["auxiliary"] = dict(encoder.info.auxiliary)
        # The auxiliary encoder was trained in another way, and cannot be counted without weights.
        unknown_facts = list(training)
        if not inputs["auxiliary"]["weights_sha256"]:
            unknown_facts += _FACTS_OF_IMAGES
        training = dict.fromkeys(unknown_facts)
    store = ShardStore(options.cache, identity(encoder, FACTS, **inputs), limit_bytes())
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
    """Passes progress on, and counts the images that this process encodes."""

    def __init__(self, progress: OnProgress) -> None:
        self._progress = progress
        self.restart()

    def restart(self) -> None:
        """Begin to count from zero, for another data set."""
        self._last_done = 0  # the images that the last step reported as done
        self._encoded = 0  # images so far, in all passes
        # The time of each step, and the number of images that were encoded by then.
        self._steps: list[tuple[float, int]] = []

    def __call__(self, step: Progress) -> None:
        if step.phase == _IMAGES:
            self._count(step)
        self._progress(step)

    def _count(self, step: Progress) -> None:
        """Count the images of a step, except if it has a note: such images were encoded before."""
        is_new_pass = step.done < self._last_done
        newly_encoded = step.done if is_new_pass else step.done - self._last_done
        if step.note:
            newly_encoded = 0
        self._last_done = step.done
        self._encoded += newly_encoded
        if newly_encoded:
            self._steps.append((perf_counter(), self._encoded))

    def per_second(self, seconds: Mapping[str, float], options: RunOptions) -> float | None:
        """Return the images per second of all processes; None if no image was encoded.

        The first step is left out if there are several: a model may be built and warmed up in it.
        `seconds` are the wall times of the measurement by phase.
        """
        seconds_of_images = seconds.get(_IMAGES, 0)
        rate = 0.0
        if len(self._steps) > 1:
            first_time, first_count = self._steps[0]
            last_time, last_count = self._steps[-1]
            rate = (last_count - first_count) / (last_time - first_time)
        elif self._encoded and seconds_of_images:
            rate = self._encoded / seconds_of_images
        rate_of_all = sum(options.distributed.gather(rate))
        return round(rate_of_all, 3) or None
