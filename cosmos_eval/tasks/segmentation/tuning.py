"""Settings of a segmentation protocol that are chosen from a declared space, and their file.

A setting maps fields of the protocol to values. Its `prompts` map classes, or groups of them, to
texts in which `{}` is the class's name, and `templates` to templates. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import islice, product
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
import yaml
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from cosmos_core.utils.files import json_sha256
from cosmos_eval.data.label_maps import LabelMaps
from cosmos_eval.data.prefetch import prefetch
from cosmos_eval.data.readers import CONFIG, Text, faults_of, parse, read_yaml
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.stats.segmentation import Areas, confusion, mean_iou
from cosmos_eval.tasks import segmentation
from cosmos_eval.types import EncoderInfo, RunOptions, SegmentationProtocol, UsageError, nearest

Setting = Mapping[str, Any]

_MOST = 100_000  # combinations of a space
_PROMPTS, _TEMPLATES = "prompts", "templates"
_Texts = Annotated[list[Text], Field(min_length=1)]
_Share = Annotated[float, Field(ge=0, lt=1)]
_FACTORS: Mapping[str, Any] = {
    _PROMPTS: dict[str, _Texts],
    "attention": Literal["vanilla", "csa", "maskclip", "clearclip", "naclip"],
    **dict.fromkeys(("short_side", "long_side", "stride"), PositiveInt),
    "window": PositiveInt | None,
    "scale": Annotated[float, Field(gt=0, allow_inf_nan=False)],
    "prob_thd": _Share,
    "area_thd": _Share | None,
    "refinement": Literal["pamr"] | None,
}
_AnyList: Any = list
_NotEmpty = Field(min_length=1)
_LISTS: Any = {n: (Annotated[_AnyList[k], _NotEmpty], None) for n, k in _FACTORS.items()}
_Space: Any = pydantic.create_model("Space", __config__=CONFIG, **_LISTS)


def read_space(path: Path) -> dict[str, list[Any]]:
    """Read the values of every factor, as JSON has them. Raises UsageError for unknown ones."""
    with faults_of(f"{path}: "):
        parsed = parse(_Space, read_yaml(path, "window: [224, 336]"))
    if not parsed.model_fields_set:
        raise UsageError(f"{path} names no factor: {', '.join(_FACTORS)}")
    return parsed.model_dump(mode="json", exclude_unset=True)


def with_setting(protocol: SegmentationProtocol, setting: Setting) -> SegmentationProtocol:
    """Return a protocol with other values. Raises UsageError for a class that it does not have."""
    fields = {name: value for name, value in setting.items() if name != _PROMPTS}
    queries = dict(zip(protocol.class_names, protocol.queries, strict=True))
    for name, texts in setting.get(_PROMPTS, {}).items():
        if name == _TEMPLATES:
            is_set = len(texts) == 1 and "{}" not in texts[0]  # the name of a known one
            fields[_TEMPLATES] = texts[0] if is_set else tuple(texts)
        elif name in (*protocol.groups, *queries):
            for member in protocol.groups.get(name, (name,)):
                queries[member] = tuple(text.replace("{}", member) for text in texts)
        else:
            known = nearest(name, [_TEMPLATES, *protocol.groups, *queries])
            raise UsageError(f"prompts: no class or group {name!r}; nearest known: {known}")
    return replace(protocol, **fields, queries=tuple(queries.values()))


def settings_of(
    protocol: SegmentationProtocol, space: Mapping[str, Sequence[Any]]
) -> tuple[list[Setting], int]:
    """Return the settings of a space that differ in effect, and how many contradict themselves.
    Raises UsageError for too many, and where none is left."""
    count = int(np.prod([len(values) for values in space.values()], dtype=object))
    if count > _MOST:
        raise UsageError(f"the space has {count:,} combinations, and at most {_MOST:,} are listed")
    found: dict[str, Setting] = {}
    faults = []
    for values in product(*space.values()):
        setting = dict(zip(space, values, strict=True))
        changed = with_setting(protocol, setting)
        if own := [*changed.faults()]:
            faults.append(own[0])
        else:
            found.setdefault(_effect(changed), setting)
    if not found:
        raise UsageError(f"every combination of the space contradicts itself: {faults[0]}")
    return [*found.values()], len(faults)


def _effect(protocol: SegmentationProtocol) -> str:
    """Return all that decides label maps: without a threshold the scale changes no order."""
    constants = segmentation.constants(protocol, protocol.attention)
    if protocol.prob_thd == 0:
        del constants["scale"]
    return json.dumps([constants, protocol.queries, protocol.templates])


def make_scorer(
    encoder: Encoder, data: LabelMaps, options: RunOptions
) -> Callable[[Sequence[SegmentationProtocol]], list[float]]:
    """Return what gives the mIoU of protocols of one image pass, to the bit that of `run`.

    Attentions may differ. What precedes the last block runs once for all of them, prompts are
    encoded once for all passes. Raises UsageError for an attention that the model does not have,
    and images that are damaged."""
    from cosmos_eval.models.maps import with_patches
    from cosmos_eval.tasks.label_maps import IMAGES_PER_SHARD
    from cosmos_eval.tasks.segmentation import inference

    @cache
    def queries(*prompts: Any) -> NDArray[np.float32]:
        names, templates = prompts
        flat = [name for synonyms in names for name in synonyms]
        return inference.prompt_embeddings(encoder, flat, templates, options)

    dense_by = cache(partial(with_patches, encoder))  # which tries the attention

    def segmenter(protocol: SegmentationProtocol) -> inference.Segmenter:
        dense = dense_by(protocol.attention)
        fitted = inference.fit_to_model(protocol, dense)
        own = queries(protocol.queries, protocol.templates)
        return inference.Segmenter(dense, own, fitted, protocol.attention, options.batch_size)

    def scores(protocols: Sequence[SegmentationProtocol]) -> list[float]:
        segmenters = list(map(segmenter, protocols))
        n_classes, ignored = len(protocols[0].class_names), protocols[0].ignore_index
        load = partial(inference.load_together, protocols=[segmenters[0].protocol])
        images = prefetch([[s] for s in data.samples], load, workers=options.workers)
        areas = np.zeros((len(protocols), len(Areas._fields), n_classes), np.int64)
        for _ in range(0, len(data.samples), IMAGES_PER_SHARD):  # batches as `run` makes them
            shard = (one * len(protocols) for one in islice(images, IMAGES_PER_SHARD))
            for predictions in inference.predict_together(segmenters, shard):
                for total, (image, classes) in zip(areas, predictions, strict=True):
                    counts = confusion(image.label, classes, n_classes, ignored)
                    total += np.diagonal(counts), counts.sum(1), counts.sum(0)
        if not areas.any():
            raise UsageError("no pixel of any image of the split has a label to compare with")
        return [float(mean_iou(Areas(*total))) for total in areas]

    return scores


def model_record(info: EncoderInfo) -> dict[str, Any]:
    """Return what identifies the model that settings are chosen for."""
    return {name: getattr(info, name) for name in ("spec", "weights_sha256", "code_sha256")}


def settings_file(record: Mapping[str, Any]) -> bytes:
    """Return the YAML file of chosen settings, with a hash of its content."""
    whole = {**record, "sha256": json_sha256(record)}
    return yaml.safe_dump(whole, sort_keys=False, allow_unicode=True).encode()


def read_settings(path: Path) -> dict[str, Any]:
    """Read a file of chosen settings. Raises UsageError for another file, and an edited one."""
    with faults_of(f"{path}: "):
        record = read_yaml(path, "settings: {window: 224}")
    if "sha256" not in record or "search" not in record:
        raise UsageError(f"{path} is no settings file of `cosmos-eval tune`")
    if json_sha256({k: v for k, v in record.items() if k != "sha256"}) != record["sha256"]:
        raise UsageError(f"{path} was edited: tune again, or write its values in a data set's YAML")
    return record


def protocol_sha256(protocol: SegmentationProtocol) -> str:
    """Return the hash of what a setting leaves as it is, or changes."""
    constants = segmentation.constants(protocol, protocol.attention)
    return json_sha256([constants, protocol.class_names, protocol.queries, protocol.templates])


def tuned_protocol(
    record: Mapping[str, Any], known: SegmentationProtocol, model: str
) -> SegmentationProtocol:
    """Return the protocol of a data set with chosen settings, by which a model is measured.

    Its family names the search: only models with equal space, budget, seed and split are ranked
    together, and settings that were chosen for another model are a family of their own. Raises
    UsageError for another data set."""
    search = record["search"]
    if (known.dataset, known.family) != (search["dataset"], search["protocol"]):
        raise UsageError(f"these settings were chosen for {search['dataset']}, not {known.dataset}")
    if protocol_sha256(known) != search["protocol_sha256"]:
        raise UsageError(f"{known.dataset} has other constants or prompts now: tune again")
    own = record["model"]["spec"]
    identity = json_sha256([search, None if model == own else own])
    changed = with_setting(known, record["settings"])
    return replace(changed, family=f"tuned-{identity[:12]}", tuned=record)
