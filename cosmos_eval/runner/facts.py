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
"""The role of cached facts, among those of embeddings."""
_KEY = bytes(32)
_OF_IMAGES = ("parameters", "image_parameters", "image_gflops")
_IMAGES = "images"  # the phase in which tasks encode images


def facts_of(
    encoder: Encoder, spec: ModelSpec, options: RunOptions, note: Callable[[str], object]
) -> dict[str, Any]:
    """Return `model.facts` of a result; `note` is given what could not be counted. What is counted
    is cached as embeddings are, so that a model that has nothing to encode need not be built."""
    training = training_facts(spec)
    inputs = {name: dict(getattr(encoder, name)) for name in ("preprocessing", "tokenizer")}
    if encoder.info.auxiliary is not None:  # which was trained in another way
        inputs["auxiliary"] = dict(encoder.info.auxiliary)
        uncounted = [] if inputs["auxiliary"]["weights_sha256"] else _OF_IMAGES
        training = dict.fromkeys([*training, *uncounted])
    store = ShardStore(options.cache, identity(encoder, FACTS, **inputs), limit_bytes())
    for _, arrays in store.find([_KEY], lambda note: None):
        return {**json.loads(arrays["facts"].tobytes()), **training}
    from cosmos_eval.models.facts import model_facts

    facts = model_facts(encoder, note)
    with suppress(UsageError):  # a cache that cannot be written ends no run
        store.add([_KEY], {"facts": np.frombuffer(json.dumps(facts).encode(), np.uint8)})
    return {**facts, **training}


class Encoded:
    """Passes progress on, and counts the images that this process encodes."""

    def __init__(self, progress: OnProgress) -> None:
        self._progress = progress
        self.restart()

    def restart(self) -> None:
        """Forget what was counted: another data set begins."""
        self._done = self._images = 0
        self._steps: list[tuple[float, int]] = []  # when so many images were encoded

    def __call__(self, step: Progress) -> None:
        if step.phase == _IMAGES:
            # A note is about images that were encoded before; another pass begins at 0.
            started = self._done if step.done >= self._done else 0
            new = 0 if step.note else step.done - started
            self._done, self._images = step.done, self._images + new
            if new:
                self._steps.append((perf_counter(), self._images))
        self._progress(step)

    def per_second(self, seconds: Mapping[str, float], options: RunOptions) -> float | None:
        """Return images per second of all processes, None where none was encoded. The first step,
        in which a model may be built and warmed up, is left out where there are more."""
        rate, spent = 0.0, seconds.get(_IMAGES, 0)
        if len(self._steps) > 1:
            (begin, first), (end, last) = self._steps[0], self._steps[-1]
            rate = (last - first) / (end - begin)
        elif self._images and spent:
            rate = self._images / spent
        return round(sum(options.distributed.gather(rate)), 3) or None
