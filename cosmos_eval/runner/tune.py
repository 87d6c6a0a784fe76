"""Choose the settings of a segmentation protocol for a model, by its mIoU on training images.

All models try the same settings: they have one space, budget, seed and split.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cosmos_core.utils.distributed import own_device
from cosmos_core.utils.files import file_sha256, json_sha256, write_atomically
from cosmos_eval.data.label_maps import LabelMaps, Sample
from cosmos_eval.embedding.cache import fingerprint
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.protocols import scenes, scenes2
from cosmos_eval.results.filenames import safe_name
from cosmos_eval.runner.plan import Plan, open_datasets
from cosmos_eval.runner.trials import TrialFiles, UnfinishedScores
from cosmos_eval.tasks import find_protocol, segmentation
from cosmos_eval.tasks.segmentation import require_segmentation, tuning
from cosmos_eval.types import (
    EncoderInfo,
    ModelSpec,
    OnProgress,
    Progress,
    Protocol,
    RunOptions,
    SegmentationProtocol,
    UsageError,
)

ALL_PASSES = "images of all passes"
"""The phase of the progress of a whole search for one model."""

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
    is_scenes = dataset in scenes.scenes_protocols() or dataset in scenes2.scenes2_protocols()
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
    training_splits = (scenes.TRAINING, scenes2.TRAINING)
    if split not in training_splits and not is_file:
        raise UsageError(
            f"{split} is a test set: settings are chosen on {scenes.TRAINING}, {scenes2.TRAINING} "
            "or a YAML file"
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

    `folder` gets two files for each model. MODEL.trials.json has the scores of all settings, and
    MODEL.yaml the best setting. If the search is stopped, it leaves a file from which the next call
    resumes, as `TrialFiles` says.

    Args:
        search: The settings, and the images that they are scored on.
        spec: The model.
        options: The device and the cache.
        folder: The folder of both files.
        progress: Is called with the number of images that are done, in the current pass over the
            images and in all passes.

    Raises:
        UsageError: If the files in the folder belong to another search, model or version.
    """
    from cosmos_eval.models import load_encoder

    encoder = load_encoder(spec, device=own_device(options.device))
    spec = spec.named_by(encoder.info)
    identity = _identity_of_scores(search, encoder.info)
    files = TrialFiles(folder, spec.called, identity)
    scores = files.read_scores()
    if scores is None:
        scores = _score_settings(search, encoder, options, files, progress)
        files.write_scores(search.settings, scores)

    best = int(np.argmax(scores))
    record = {
        "version": 1,
        "model": identity["model"],
        "search": identity["search"],
        "settings": search.settings[best],
        "score": scores[best],
    }
    path = folder / f"{safe_name(spec.called)}.yaml"
    write_atomically(path, tuning.settings_file(record))
    files.remove_unfinished()
    return Tuned(spec.called, scores, best, path)


def require_separate_files(
    search: Search, specs: Sequence[ModelSpec], options: RunOptions, folder: Path
) -> None:
    """Check that the files of models replace neither each other nor files of other models.

    A user's Python file may name its model, so that every model is loaded, one after the other.

    Args:
        search: The settings that all models are tried with.
        specs: The models.
        options: The device.
        folder: The folder of all files.

    Raises:
        UsageError: If two models have the same name, and if the folder has the scores of another
            search, model or version under one of the names.
    """
    from cosmos_eval.models import load_encoder

    specs_by_file_name: dict[str, ModelSpec] = {}
    for spec in specs:
        info = load_encoder(spec, device=own_device(options.device)).info
        named_spec = spec.named_by(info)
        first_spec = specs_by_file_name.setdefault(safe_name(named_spec.called), named_spec)
        if first_spec is not named_spec:
            raise UsageError(
                f"{first_spec.text} and {spec.text} are both called {named_spec.called}: give each "
                "model a name with --name, or tune each into another --output"
            )
        identity = _identity_of_scores(search, info)
        TrialFiles(folder, named_spec.called, identity).read_scores()


def _identity_of_scores(search: Search, info: EncoderInfo) -> dict[str, Any]:
    """Return everything that the scores of a model depend on: the model, the search and the code.

    Args:
        search: The search.
        info: The description of the loaded model.
    """
    return {
        "model": tuning.model_record(info),
        "search": search.record,
        "code": fingerprint("cosmos_core", "cosmos_eval"),
    }


def _score_settings(
    search: Search,
    encoder: Encoder,
    options: RunOptions,
    files: TrialFiles,
    progress: OnProgress,
) -> list[float]:
    """Return the mIoU of every setting. Scores and counts of an earlier call are used again.

    Args:
        search: The settings, and the images that they are scored on.
        encoder: The model.
        options: The options of the search.
        files: Read and written, so that a stopped search can be resumed.
        progress: Is called with the number of images that are done.
    """
    protocols = [tuning.with_setting(search.protocol, setting) for setting in search.settings]
    passes = _passes_over_images(search, protocols, options)
    reporter = _PassReporter(len(search.data.samples), len(passes), progress)
    unfinished = files.read_unfinished(len(protocols), reporter.note)
    scores = unfinished.scores
    remaining_passes = [indices for indices in passes if scores[indices[0]] is None]
    reporter.resume(len(passes) - len(remaining_passes), unfinished)

    scorer = tuning.Scorer(encoder, search.data, options)
    counts = unfinished.counts
    for indices in remaining_passes:
        protocols_of_pass = [protocols[index] for index in indices]
        for new_counts in scorer.count_images(protocols_of_pass, counts):
            counts = new_counts
            reporter.show(counts.n_images)
            files.write_unfinished(UnfinishedScores(scores, counts))
        assert counts is not None  # a split has at least one image
        for index, score in zip(indices, counts.mean_ious(), strict=True):
            scores[index] = score
        counts = None
        reporter.n_passes_done += 1
        files.write_unfinished(UnfinishedScores(scores))
    return [score for score in scores if score is not None]


class _PassReporter:
    """Reports how many images are done, in the current pass over them and in all passes."""

    def __init__(self, n_images: int, n_passes: int, progress: OnProgress) -> None:
        """Start before the first pass.

        Args:
            n_images: The number of images of every pass.
            n_passes: The number of passes over the images.
            progress: Is called with both numbers.
        """
        self.n_passes_done = 0
        self._n_images = n_images
        self._n_passes = n_passes
        self._progress = progress

    def show(self, n_done: int, note: str = "") -> None:
        """Report the number of images that are done in the current pass, and a note."""
        n_done_in_all = self.n_passes_done * self._n_images + n_done
        n_images_in_all = self._n_passes * self._n_images
        self._progress(Progress(ALL_PASSES, n_done_in_all, n_images_in_all, note))
        self._progress(Progress("images of this pass", n_done, self._n_images))

    def note(self, note: str) -> None:
        """Report a line for the user before the first pass."""
        self.show(0, note)

    def resume(self, n_passes_done: int, unfinished: UnfinishedScores) -> None:
        """Report where the search begins, with a line for the user if it is resumed.

        Args:
            n_passes_done: The number of passes that an earlier call has done.
            unfinished: The scores and counts of the earlier call.
        """
        self.n_passes_done = n_passes_done
        n_done = 0 if unfinished.counts is None else unfinished.counts.n_images
        note = ""
        if n_passes_done or n_done:
            n_settings = len(unfinished.scores)
            n_scored = n_settings - unfinished.scores.count(None)
            note = f"resumed: {n_scored} of {n_settings} settings were scored already"
            if n_done:
                note += f", and {n_done} of {self._n_images} images for the next ones"
        self.show(n_done, note)


def _passes_over_images(
    search: Search, protocols: Sequence[SegmentationProtocol], options: RunOptions
) -> list[list[int]]:
    """Return lists of protocols, by their indices, that are scored in one pass over the images.

    Protocols that differ in attention share a pass, since they share all blocks but the last.

    Args:
        search: Its images are the training images.
        protocols: The protocol of each setting.
        options: The options of the search.

    Example:
        `[[0, 2], [1]]` if settings 0 and 2 differ only in attention, and 1 has other windows.
    """
    passes = defaultdict[Hashable, list[int]](list)
    for index, protocol in enumerate(protocols):
        same_attention = replace(protocol, attention=search.protocol.attention)
        passes[segmentation.TASK.image_pass(same_attention, options, search.data)].append(index)
    return list(passes.values())


def tuned_plan(
    path: Path,
    datasets: Sequence[str | PathLike[str] | Mapping[str, Any] | Protocol],
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
