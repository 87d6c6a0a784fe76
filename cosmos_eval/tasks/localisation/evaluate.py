"""Score the maps of a set's images, and put a localisation measurement together."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from cosmos_eval.data.folders import limit_notes
from cosmos_eval.embedding.cache import Arrays
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.tasks import task_named
from cosmos_eval.tasks.label_maps import LabelMaps
from cosmos_eval.tasks.label_maps.measure import (
    Work,
    fingerprints,
    in_shards,
    stored_shards,
    unfinished_store,
)
from cosmos_eval.tasks.localisation.maps import choose, make_mapper
from cosmos_eval.tasks.localisation.one_pass import ALONE, Job, score_shards
from cosmos_eval.tasks.localisation.samples import BOUNDS, CLASSES, IMAGE, NAME
from cosmos_eval.types import (
    LocalisationProtocol,
    Measurement,
    OnProgress,
    RunOptions,
    Samples,
    UsageError,
)

# Constants of a protocol that change the number, beside names, prompts and templates.
_CONSTANTS = ("map", "scale", "small", "large", "reduce_zero_label", "ignore_index")


def measure_data(
    encoder: Encoder,
    protocol: LocalisationProtocol,
    options: RunOptions,
    progress: OnProgress,
    data: LabelMaps,
) -> Iterator[Measurement]:
    """Measure checked data; finished shards are removed when the caller goes on."""
    distributed, attention = options.distributed, options.attention or protocol.attention
    chosen = distributed.synchronized(lambda: choose(encoder, protocol, attention))
    samples = data.samples
    job = Job(protocol, samples, unfinished_store(encoder.info, protocol, options, samples))
    started = named = time.perf_counter()

    def prepare() -> Work[Arrays]:
        nonlocal named
        mapper = make_mapper(chosen, protocol, attention, options, progress)
        named = time.perf_counter()
        return partial(score_shards, job, mapper, options)

    found = in_shards(len(samples), partial(stored_shards, job.store), prepare, options, progress)
    seconds = {"prompts": named - started, "images": time.perf_counter() - named}
    arrays = _joined(found)
    if not len(arrays[IMAGE]):
        raise UsageError(
            f"{protocol.dataset}: no image has a thing beside something else that is labelled"
        )
    names = [sample.name for sample in samples]
    stored = _stored(names, protocol, arrays)
    constants = {name: getattr(protocol, name) for name in _CONSTANTS}
    yield Measurement(
        **vars(task_named("loc").figures(stored, options.seed)),
        samples=stored,
        hashes=fingerprints(protocol, names, {**constants, "attention": attention}),
        settings={"map": chosen.kind, "protocol_map": protocol.map},
        seconds=seconds,
        notes=(*limit_notes(options), *_notes(arrays, protocol)),
    )
    job.store.remove()


def _joined(shards: Sequence[Arrays]) -> Arrays:
    return {name: np.concatenate([arrays[name] for arrays in shards]) for name in shards[0]}


def _stored(names: Sequence[str], protocol: LocalisationProtocol, arrays: Arrays) -> Samples:
    return {
        NAME: np.array(names),
        CLASSES: np.array(protocol.class_names),
        BOUNDS: np.array([protocol.small, protocol.large]),
        **{name: values for name, values in arrays.items() if name != ALONE},
    }


def _notes(arrays: Arrays, protocol: LocalisationProtocol) -> Iterator[str]:
    alone = int(arrays[ALONE].sum())
    if alone:
        yield (
            f"{protocol.dataset}: left out are {alone} of {len(arrays[ALONE])} images in which one "
            "class fills all labelled pixels"
        )
