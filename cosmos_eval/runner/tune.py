"""Choose the settings of a segmentation protocol for a model, by its mIoU on training images.

All models try the same settings: they have one space, budget, seed and split.
"""

from __future__ import annotations

import json
import os
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

    Prompts are a dict of lists of texts: `{"cat": ["cat", "kitten"], "dog": ["dog"]}` is shown as
    `cat, kitten / dog`. None is shown as `none`, and other values as they are.
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
    """Return the YAML file of the package with the values of every factor for a data set.

    The embedded scenes have a file of their own. All other data sets are photographs.
    """
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
    """Return a search of settings that are drawn at random from a space.

    A setting is a value for each factor of a segmentation protocol, such as `{"scale": 40.0,
    "window": 224}`. A space lists the values of each factor.

    Args:
        dataset: The data set that settings are chosen for. Its test images are not used.
        split: The training images that settings are scored on: a YAML file, or the training scenes.
        space: The values of each factor.
        budget: How many settings are drawn. If the space has fewer settings, all are tried.
        seed: The seed of the draw.
        options: The data root and the processes.

    Raises:
        UsageError: For data of another task, and for a split with other classes or with an image of
            the test set.
    """
    protocol = require_segmentation(find_protocol(dataset))
    training_protocol = _training_protocol(split, protocol)
    plan = Plan(specs=[], protocols=[protocol, training_protocol], options=options)
    test, training = (opened.data for opened in open_datasets(plan))
    _require_disjoint(test.samples, training.samples, protocol, split)
    settings, n_contradictions = tuning.settings_of(protocol, space)
    drawn_indices = np.random.default_rng(seed).permutation(len(settings))[:budget]

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
        "budget": len(drawn_indices),
        "seed": seed,
        "split": training_protocol.dataset,
        "split_sha256": json_sha256(file_hashes),
        "images": len(training.samples),
    }
    return Search(
        protocol=training_protocol,
        data=training,
        settings=[settings[index] for index in drawn_indices],
        record=record,
        notes=notes,
    )


def _training_protocol(split: str, protocol: SegmentationProtocol) -> SegmentationProtocol:
    """Return the protocol of a data set on the images of a split.

    Args:
        split: A YAML file, or the name of the training scenes.
        protocol: The protocol of the data set on its test images.

    Raises:
        UsageError: For another data set in place of a split, and for other classes.
    """
    split_protocol = require_segmentation(find_protocol(split))
    is_file = Path(split).suffix in (".yaml", ".yml")
    if split != scenes.TRAINING and not is_file:
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

    Args:
        test: The samples of the test set.
        training: The samples of the split.
        protocol: The protocol of the test set.
        split: The name of the split, for the message.
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
        """Note the files of the samples.

        Args:
            samples: The images of the test set.
            has_unique_names: True if no other data set has an image of the same name.
        """
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

    `folder` gets two files for each model. MODEL.trials.json has the scores of all settings. It is
    written after each pass over the images, so that a killed search resumes. MODEL.yaml has the
    best setting.

    Args:
        search: The settings, and the images that they are scored on.
        spec: The model.
        options: The device and the cache.
        folder: The folder of both files.
        progress: Is called with the number of passes over the images that are done.

    Raises:
        UsageError: If the files in the folder are of another search, model or version.
    """
    from cosmos_eval.models import load_encoder

    encoder = load_encoder(spec, device=own_device(options.device))
    trials_path = folder / f"{safe_name(spec.called)}.trials.json"
    # Everything that the scores depend on.
    identity = {
        "model": tuning.model_record(encoder.info),
        "search": search.record,
        "code": fingerprint("cosmos_core", "cosmos_eval"),
    }
    # By the index of the setting; None: not scored yet.
    scores = _stored_scores(trials_path, identity, len(search.settings))
    unscored_indices = [index for index, score in enumerate(scores) if score is None]

    protocols = [tuning.with_setting(search.protocol, setting) for setting in search.settings]
    passes = _passes_over_images(search, protocols, unscored_indices, options)
    scorer = tuning.Scorer(encoder, search.data, options)
    for n_done, indices in enumerate(passes):
        progress(Progress("passes over the images", n_done, len(passes)))
        scores_of_pass = scorer.mean_ious([protocols[index] for index in indices])
        for index, score in zip(indices, scores_of_pass, strict=True):
            scores[index] = score
        _write_trials(trials_path, identity, search.settings, scores)

    complete_scores = [score for score in scores if score is not None]
    best = int(np.argmax(complete_scores))
    record = {
        "version": 1,
        "model": identity["model"],
        "search": identity["search"],
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
    """Return lists of protocols, by their indices, that are scored in one pass over the images.

    Protocols that differ in attention share a pass, since they share all blocks but the last.

    Args:
        search: Its images are the training images.
        protocols: The protocol of each setting.
        indices: The indices of the protocols to score.
        options: The options of the search.

    Example:
        `[[0, 2], [1]]` if settings 0 and 2 differ only in attention, and 1 has other windows.
    """
    passes = defaultdict[Hashable, list[int]](list)
    for index in indices:
        protocol = replace(protocols[index], attention=search.protocol.attention)
        passes[segmentation.TASK.image_pass(protocol, options, search.data)].append(index)
    return list(passes.values())


def _write_trials(
    path: Path,
    identity: Mapping[str, Any],
    settings: Sequence[tuning.Setting],
    scores: Sequence[float | None],
) -> None:
    """Write the settings and scores of a search to a file, with a hash of its content.

    Args:
        path: The JSON file.
        identity: The model, the search and the version of the code.
        settings: The settings of the search.
        scores: The mIoU of each setting; None: not scored yet.
    """
    trials = [{**setting, "mIoU": score} for setting, score in zip(settings, scores, strict=True)]
    content = {**identity, "trials": trials}
    content["sha256"] = json_sha256(content)
    write_atomically(path, json.dumps(content, indent=1).encode())


def _stored_scores(path: Path, identity: Mapping[str, Any], n_settings: int) -> list[float | None]:
    """Return the scores in a file of trials, None for a setting without a score.

    All scores are None if the file does not exist.

    Args:
        path: The file that `_write_trials` wrote.
        identity: The model, the search and the version of the code that the file must have.
        n_settings: The number of settings of the search.

    Raises:
        UsageError: For a file with another identity, and for a file that was edited.
    """
    try:
        stored = parse_json(read_text(path))
    except MissingFileError:
        return [None] * n_settings
    except FileError as error:
        raise UsageError(f"{path}: {error}") from None

    has_same_identity = isinstance(stored, dict) and all(
        stored.get(name) == value for name, value in identity.items()
    )
    if not has_same_identity:
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
    datasets: Sequence[str | os.PathLike[str] | Mapping[str, Any] | Protocol],
    models: Sequence[ModelSpec],
    options: RunOptions,
    *,
    transfer: bool = False,
) -> Plan:
    """Return a plan that measures one model by tuned settings, on the data set they were tuned for.

    Args:
        path: The file of the settings, which `cosmos-eval tune` wrote.
        datasets: The data set; empty: the one that the file names.
        models: The model; empty: the one that the settings were tuned for.
        options: The options of the run.
        transfer: True if another model than the tuned one may be measured.

    Raises:
        UsageError: For several models or data sets, and for options that do not fit the file.
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
