"""Choose the settings of a segmentation protocol for a model, by its mIoU on training images.

All models try the same settings: they have one space, budget, seed and split.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cosmos_core.utils.distributed import own_device
from cosmos_core.utils.files import file_sha256, json_sha256, write_atomically
from cosmos_eval.data.label_maps import LabelMaps, Sample
from cosmos_eval.data.readers import FileError, MissingFileError, parse_json, read_text
from cosmos_eval.embedding.cache import fingerprint
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.protocols import scenes
from cosmos_eval.results.filenames import safe_name
from cosmos_eval.runner.plan import Plan, open_datasets
from cosmos_eval.tasks import find_protocol, segmentation
from cosmos_eval.tasks.segmentation import require_segmentation, tuning
from cosmos_eval.types import (
    ModelSpec,
    OnProgress,
    Progress,
    Protocol,
    RunOptions,
    SegmentationProtocol,
    UsageError,
)

# Fields of a protocol that say where the data are and what label maps hold.
_DATA = (
    *("root", "images", "masks", "split", "mmseg_type", "usual_folder", "preparation", "n_images"),
    *("only_labelled", "image_suffix", "mask_suffix", "reduce_zero_label", "ignore_index"),
)


@dataclass(frozen=True, kw_only=True)
class Search:
    """The settings that every model is tried with, and the images that they are scored on."""

    # The protocol of the data set on the training images.
    protocol: SegmentationProtocol
    data: LabelMaps
    settings: Sequence[tuning.Setting]
    # The record that identifies the search.
    record: Mapping[str, Any]
    # Lines for a reader of the scores.
    notes: Sequence[str]

    @property
    def factors(self) -> dict[str, list[str]]:
        """The displayed values of every factor: one for each setting, in their order.

        A factor is a field that the settings choose. Factors with a single value are left out.
        """
        values_by_factor = {}
        for factor in self.settings[0]:
            values = [_displayed_value(setting[factor]) for setting in self.settings]
            if len(set(values)) > 1:
                values_by_factor[factor] = values
        return values_by_factor


def _displayed_value(value: Any) -> str:
    """Return the value of a factor as tables show it.

    Prompts, which are a dict of lists of texts, are shown as `a, b / c`.
    """
    if isinstance(value, dict):
        prompts_of_classes = [", ".join(prompts) for prompts in value.values()]
        return " / ".join(prompts_of_classes) or "the protocol's"
    return "none" if value is None else str(value)


class Tuned(NamedTuple):
    """The outcome of a search for one model."""

    model: str
    # The mIoU of every setting of the search.
    scores: Sequence[float]
    # The index of the best setting.
    best: int
    # The file that the best setting was written to.
    path: Path


def default_space(dataset: str) -> Path:
    """Return the file of the package's space for a data set."""
    is_scenes = dataset in scenes.scenes_protocols()
    name = "scenes" if is_scenes else "photographs"
    return Path(scenes.__file__).parent / "spaces" / f"{name}.yaml"


def make_search(
    dataset: str,
    split: str,
    space: Mapping[str, Sequence[Any]],
    budget: int,
    seed: int,
    options: RunOptions,
) -> Search:
    """Return a search of `budget` settings that are drawn at random from a space.

    If the space has fewer settings, the search has all of them.
    Raises UsageError for data of another task, and for a split with other classes or with an image
    of the test set.
    """
    protocol = require_segmentation(find_protocol(dataset))
    training_protocol = _training_protocol(split, protocol)
    plan = Plan(specs=[], protocols=[protocol, training_protocol], options=options)
    test, training = (opened.data for opened in open_datasets(plan))
    _require_disjoint(test.samples, training.samples, protocol, split)
    settings, n_contradictions = tuning.settings_of(protocol, space)
    order = np.random.default_rng(seed).permutation(len(settings))[:budget]
    notes = []
    if n_contradictions:
        notes.append(f"{n_contradictions} combinations contradict themselves")
    if budget >= len(settings):
        notes.append(f"all {len(settings)} settings of the space are tried")
    file_hashes = [
        [file_sha256(sample.image), file_sha256(sample.mask)] for sample in training.samples
    ]
    record = {
        "dataset": protocol.dataset,
        "protocol": protocol.protocol_name,
        "protocol_sha256": tuning.protocol_sha256(protocol),
        "space_sha256": json_sha256(space),
        "budget": len(order),
        "seed": seed,
        "split": training_protocol.dataset,
        "split_sha256": json_sha256(file_hashes),
        "images": len(training.samples),
    }
    return Search(
        protocol=training_protocol,
        data=training,
        settings=[settings[index] for index in order],
        record=record,
        notes=notes,
    )


def _training_protocol(split: str, protocol: SegmentationProtocol) -> SegmentationProtocol:
    """Return the protocol of a data set on the images of a split.

    The split is a YAML file, or the training scenes. Raises UsageError for another data set, and
    for other classes.
    """
    split_protocol = require_segmentation(find_protocol(split))
    if split != scenes.TRAINING and Path(split).suffix not in (".yaml", ".yml"):
        raise UsageError(
            f"{split} is a test set: settings are chosen on {scenes.TRAINING} or a YAML file"
        )
    if protocol.class_names != split_protocol.class_names:
        raise UsageError(f"{split} has other classes than {protocol.dataset}")
    data_fields = {name: getattr(split_protocol, name) for name in _DATA}
    return replace(protocol, dataset=split_protocol.dataset, **data_fields)


def _require_disjoint(
    test: Sequence[Sample], training: Sequence[Sample], protocol: SegmentationProtocol, split: str
) -> None:
    """Raise UsageError for a training image that is also a test image.

    Two images are the same if they are one file, or two files with equal content. Images of a
    published data set are also the same if they have the same name.
    """
    test_images = _TestImages(test, has_unique_names=protocol.n_images is not None)
    for sample in training:
        if test_images.include(sample):
            raise UsageError(
                f"{split}: image {sample.name} is in the test set of {protocol.dataset}"
            )


class _TestImages:
    """The images of a test set, by which training images are checked."""

    def __init__(self, samples: Sequence[Sample], *, has_unique_names: bool) -> None:
        self._files = {sample.image.resolve() for sample in samples}
        # File names that stand for an image; empty if another data set may use the same names.
        self._names: set[str] = set()
        if has_unique_names:
            self._names = {Path(sample.name).name for sample in samples}
        self._files_by_size = defaultdict[int, list[Path]](list)
        for path in self._files:
            self._files_by_size[path.stat().st_size].append(path)
        # The SHA-256s of all files of a size. They are computed when a training image has this
        # size, since files of different sizes cannot be equal.
        self._hashes_by_size: dict[int, set[str]] = {}

    def include(self, sample: Sample) -> bool:
        """Return whether an image is one of the test images."""
        path = sample.image.resolve()
        if path in self._files or Path(sample.name).name in self._names:
            return True
        size = path.stat().st_size
        if size not in self._files_by_size:
            return False
        if size not in self._hashes_by_size:
            files = self._files_by_size[size]
            self._hashes_by_size[size] = {file_sha256(file) for file in files}
        return file_sha256(path) in self._hashes_by_size[size]


def tune(
    search: Search, spec: ModelSpec, options: RunOptions, folder: Path, progress: OnProgress
) -> Tuned:
    """Score the settings of a search that have no score yet, and write the best setting to a file.

    Both files of a model are in `folder`: MODEL.trials.json has all scores, and is written after
    each pass over the images, so that a killed search resumes. MODEL.yaml has the best setting.
    Raises UsageError for files of another search, model or version.
    """
    from cosmos_eval.models import load_encoder

    encoder = load_encoder(spec, device=own_device(options.device))
    trials = folder / f"{safe_name(spec.called)}.trials.json"
    code = fingerprint("cosmos_core", "cosmos_eval")
    head = {"model": tuning.model_record(encoder.info), "search": search.record, "code": code}
    scores = _stored_scores(trials, head, len(search.settings))
    protocols = [tuning.with_setting(search.protocol, setting) for setting in search.settings]
    unscored = [index for index, score in enumerate(scores) if score is None]
    passes = _passes_over_images(search, protocols, unscored, options)
    scorer = tuning.Scorer(encoder, search.data, options)
    for n_done, indices in enumerate(passes):
        progress(Progress("passes over the images", n_done, len(passes)))
        scores_of_pass = scorer.mean_ious([protocols[index] for index in indices])
        for index, score in zip(indices, scores_of_pass, strict=True):
            scores[index] = score
        _write_trials(trials, head, search.settings, scores)
    complete_scores = [score for score in scores if score is not None]
    best = int(np.argmax(complete_scores))
    record = {
        "version": 1,
        "model": head["model"],
        "search": head["search"],
        "settings": search.settings[best],
        "score": complete_scores[best],
    }
    path = folder / f"{safe_name(spec.called)}.yaml"
    write_atomically(path, tuning.settings_file(record))
    return Tuned(spec.called, complete_scores, best, path)


def _passes_over_images(
    search: Search,
    protocols: Sequence[SegmentationProtocol],
    indices: Sequence[int],
    options: RunOptions,
) -> list[list[int]]:
    """Group indices of protocols by the pass over the images that they share.

    Protocols that differ in attention share a pass, since they share all blocks but the last.
    """
    passes = defaultdict[Hashable, list[int]](list)
    for index in indices:
        protocol = replace(protocols[index], attention=search.protocol.attention)
        passes[segmentation.TASK.image_pass(protocol, options, search.data)].append(index)
    return list(passes.values())


def _write_trials(
    path: Path,
    head: Mapping[str, Any],
    settings: Sequence[tuning.Setting],
    scores: Sequence[float | None],
) -> None:
    """Write the settings and scores of a search to a file, with a hash of its content."""
    trials = [{**setting, "mIoU": score} for setting, score in zip(settings, scores, strict=True)]
    content = {**head, "trials": trials}
    content["sha256"] = json_sha256(content)
    write_atomically(path, json.dumps(content, indent=1).encode())


def _stored_scores(path: Path, head: Mapping[str, Any], n_settings: int) -> list[float | None]:
    """Return the scores in a file of trials, None for a setting without a score.

    All are None if the file does not exist. `head` identifies model, search and version. Raises
    UsageError for a file with another head, and for a file that was edited.
    """
    try:
        stored = parse_json(read_text(path))
    except MissingFileError:
        return [None] * n_settings
    except FileError as error:
        raise UsageError(f"{path}: {error}") from None
    if not isinstance(stored, dict) or {name: stored.get(name) for name in head} != head:
        raise UsageError(
            f"{path} belongs to another search, model or version: choose another --output"
        )
    content = {name: value for name, value in stored.items() if name != "sha256"}
    try:
        is_unchanged = json_sha256(content) == stored.get("sha256")
    except ValueError:  # a number that is too large for a float
        is_unchanged = False
    if not is_unchanged:
        raise UsageError(
            f"{path} was edited after it was written, and its scores would decide the choice: "
            "remove it to measure them again"
        )
    return [trial["mIoU"] for trial in stored["trials"]]


def tuned_plan(
    path: Path,
    datasets: Sequence[str | Mapping[str, Any] | Protocol],
    models: Sequence[ModelSpec],
    options: RunOptions,
    *,
    transfer: bool = False,
) -> Plan:
    """Return a plan that measures one model by tuned settings, on the data set they were tuned for.

    `path` is the file of the settings. The model defaults to the one that they were tuned for.
    `transfer` allows another model. Raises UsageError for options that do not fit the file.
    """
    record = tuning.read_settings(path)
    tuned_model, search = record["model"]["spec"], record["search"]
    if len(datasets) > 1 or len(models) > 1 or options.attention is not None:
        raise UsageError("--tuned FILE takes one --model and one --dataset, and no --attention")
    spec = models[0] if models else parse_model_spec(tuned_model)
    if spec.text != tuned_model and not transfer:
        raise UsageError(
            f"{path}: chosen for {tuned_model}, not {spec.text}: add --transfer to measure it"
        )
    dataset = datasets[0] if datasets else search["dataset"]
    is_known_dataset = isinstance(dataset, str) and Path(dataset).suffix not in (".yaml", ".yml")
    protocol_name = search["protocol"] if is_known_dataset else None
    protocol = require_segmentation(find_protocol(dataset, protocol_name))
    tuned_protocol = tuning.tuned_protocol(record, protocol, spec.text)
    return Plan(specs=[spec], protocols=[tuned_protocol], options=options)
