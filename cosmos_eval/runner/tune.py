"""Choose settings of a segmentation data set for each model: one space, budget, seed and split."""

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
from cosmos_eval.tasks import find_protocol
from cosmos_eval.tasks.segmentation import image_pass, require_segmentation, tuning
from cosmos_eval.types import (
    ModelSpec,
    OnProgress,
    Progress,
    RunOptions,
    SegmentationProtocol,
    UsageError,
)

# Fields of a protocol that say where data are and what label maps hold.
_DATA = (
    *("root", "images", "masks", "split", "mmseg_type", "usual_folder", "preparation", "n_images"),
    *("only_labelled", "image_suffix", "mask_suffix", "reduce_zero_label", "ignore_index"),
)


@dataclass(frozen=True, kw_only=True)
class Search:
    """The settings that every model is tried with, by `protocol` on `data`. `record` identifies the
    search, `notes` are what a reader should know."""

    protocol: SegmentationProtocol
    data: LabelMaps
    settings: Sequence[tuning.Setting]
    record: Mapping[str, Any]
    notes: Sequence[str]

    @property
    def factors(self) -> dict[str, list[str]]:
        """The value of every trial, as a text, by factor; without factors of one value."""
        names = self.settings[0]
        texts = {name: [_text(setting[name]) for setting in self.settings] for name in names}
        return {name: values for name, values in texts.items() if len(set(values)) > 1}


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return " / ".join(", ".join(texts) for texts in value.values()) or "the protocol's"
    return "none" if value is None else str(value)


class Tuned(NamedTuple):
    """A model's score of every setting of a search, and the file of the best one."""

    model: str
    scores: Sequence[float]
    best: int
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
    """Draw `budget` settings of a space at random, all where it has fewer. Raises UsageError for
    data of another task, a split with other classes, and one with an image of the test set."""
    known = require_segmentation(find_protocol(dataset))
    training = _training(split, known)
    plan = Plan(specs=[], protocols=[known, training], options=options)
    test, data = (opened.data for opened in open_datasets(plan))
    _require_apart(test.samples, data.samples, known, split)
    found, contradictions = tuning.settings_of(known, space)
    order = np.random.default_rng(seed).permutation(len(found))[:budget]
    notes = [f"{contradictions} combinations contradict themselves"] if contradictions else []
    if budget >= len(found):
        notes.append(f"all {len(found)} settings of the space are tried")
    record = {
        "dataset": known.dataset,
        "protocol": known.family,
        "protocol_sha256": tuning.protocol_sha256(known),
        "space_sha256": json_sha256(space),
        "budget": len(order),
        "seed": seed,
        "split": training.dataset,
        "split_sha256": json_sha256([[*map(file_sha256, s[1:3])] for s in data.samples]),
        "images": len(data.samples),
    }
    drawn = [found[index] for index in order]
    return Search(protocol=training, data=data, settings=drawn, record=record, notes=notes)


def _training(split: str, known: SegmentationProtocol) -> SegmentationProtocol:
    """Return the protocol of a data set on the images of a split: a YAML file, or the scenes'."""
    own = require_segmentation(find_protocol(split))
    if split != scenes.TRAINING and Path(split).suffix not in (".yaml", ".yml"):
        raise UsageError(
            f"{split} is a test set: settings are chosen on {scenes.TRAINING} or a YAML file"
        )
    if known.class_names != own.class_names:
        raise UsageError(f"{split} has other classes than {known.dataset}")
    return replace(known, dataset=own.dataset, **{name: getattr(own, name) for name in _DATA})


def _require_apart(
    test: Sequence[Sample], training: Sequence[Sample], known: SegmentationProtocol, split: str
) -> None:
    """Raise UsageError where an image is in both: the same file or content, or the same name in a
    published set, whose names are its own."""
    files = {sample.image.resolve() for sample in test}
    names = {Path(sample.name).name for sample in test} if known.n_images is not None else set()
    sizes = defaultdict[int, list[Path]](list)
    for path in files:
        sizes[path.stat().st_size].append(path)
    hashes: dict[int, set[str]] = {}
    for name, image, *_ in training:
        path, size = image.resolve(), image.stat().st_size
        if size in sizes and size not in hashes:  # other files cannot be equal
            hashes[size] = {file_sha256(other) for other in sizes[size]}
        is_same = path in files or (size in hashes and file_sha256(path) in hashes[size])
        if is_same or Path(name).name in names:
            raise UsageError(f"{split}: image {name} is in the test set of {known.dataset}")


def tune(
    search: Search, spec: ModelSpec, options: RunOptions, folder: Path, progress: OnProgress
) -> Tuned:
    """Score the settings that have no score yet, and write the best one. Scores are written after
    each pass over the images. Raises UsageError for files of another search, model or version."""
    from cosmos_eval.models import load_encoder

    encoder = load_encoder(spec, device=own_device(options.device))
    trials = folder / f"{safe_name(spec.called)}.trials.json"
    code = fingerprint("cosmos_core", "cosmos_eval")
    head = {"model": tuning.model_record(encoder.info), "search": search.record, "code": code}
    scores = _stored_scores(trials, head, len(search.settings))
    protocols = [tuning.with_setting(search.protocol, one) for one in search.settings]
    passes = defaultdict[Hashable, list[int]](list)
    for index in (index for index, score in enumerate(scores) if score is None):
        # Attentions share a pass, since they share all blocks but the last.
        windows = replace(protocols[index], attention=search.protocol.attention)
        passes[image_pass(windows, options, search.data)].append(index)
    score_pass = tuning.make_scorer(encoder, search.data, options)
    for done, members in enumerate(passes.values()):
        progress(Progress("passes over the images", done, len(passes)))
        found = score_pass([protocols[index] for index in members])
        for index, score in zip(members, found, strict=True):
            scores[index] = score
        listed = [{**s, "mIoU": v} for s, v in zip(search.settings, scores, strict=True)]
        _write_trials(trials, {**head, "trials": listed})
    complete = [score for score in scores if score is not None]
    best = int(np.argmax(complete))
    record = {"version": 1, **head, "settings": search.settings[best], "score": complete[best]}
    del record["code"]
    path = folder / f"{safe_name(spec.called)}.yaml"
    write_atomically(path, tuning.settings_file(record))
    return Tuned(spec.called, complete, best, path)


def _write_trials(path: Path, content: Mapping[str, Any]) -> None:
    """Write the scores of a search with a hash of the file's content."""
    whole = {**content, "sha256": json_sha256(content)}
    write_atomically(path, json.dumps(whole, indent=1).encode())


def _stored_scores(path: Path, head: Mapping[str, Any], count: int) -> list[float | None]:
    """Return the scores in a file of trials, None for settings that have none yet.

    Raises UsageError for a file of another search, and for one that was edited.
    """
    try:
        stored = parse_json(read_text(path))
    except MissingFileError:
        return [None] * count
    except FileError as error:
        raise UsageError(f"{path}: {error}") from None
    if not isinstance(stored, dict) or {name: stored.get(name) for name in head} != head:
        raise UsageError(f"{path} is of another search, model or version: choose another --output")
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
    datasets: Sequence[str],
    models: Sequence[ModelSpec],
    options: RunOptions,
    *,
    transfer: bool = False,
) -> Plan:
    """Plan to measure one model by the settings in a file, on the data set that they are for.

    `transfer` allows a model that they were not chosen for. Raises UsageError."""
    record = tuning.read_settings(path)
    own, search = record["model"]["spec"], record["search"]
    if len(datasets) > 1 or len(models) > 1 or options.attention is not None:
        raise UsageError("--settings FILE takes one --model and one --dataset, and no --attention")
    spec = models[0] if models else parse_model_spec(own)
    if spec.text != own and not transfer:
        raise UsageError(f"{path}: chosen for {own}, not {spec.text}: add --transfer to measure it")
    named = datasets[0] if datasets else search["dataset"]
    is_file = Path(named).suffix in (".yaml", ".yml")
    known = require_segmentation(find_protocol(named, None if is_file else search["protocol"]))
    return Plan(
        specs=[spec], protocols=[tuning.tuned_protocol(record, known, spec.text)], options=options
    )
