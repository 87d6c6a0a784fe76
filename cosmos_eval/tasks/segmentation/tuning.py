"""Settings of a segmentation protocol that are chosen from a declared space, and their file.

A setting maps fields of the protocol to values. Its `prompts` map classes, or groups of classes, to
texts in which `{}` is the name of the class, and `templates` to templates. Imports no torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
from cosmos_eval.types import (
    Attention,
    EncoderInfo,
    RunOptions,
    SegmentationProtocol,
    UsageError,
    nearest,
)

if TYPE_CHECKING:
    # At run time they would import torch.
    from cosmos_eval.models.encoder import DenseEncoder
    from cosmos_eval.tasks.segmentation.inference import Segmenter

Setting = Mapping[str, Any]

_MOST_COMBINATIONS = 100_000
_PROMPTS, _TEMPLATES = "prompts", "templates"
_Texts = Annotated[list[Text], Field(min_length=1)]
_Fraction = Annotated[float, Field(ge=0, lt=1)]
_NotEmpty = Field(min_length=1)


class _Space(pydantic.BaseModel):
    """The file of a space: for each factor the values that are tried."""

    model_config = CONFIG

    prompts: Annotated[list[dict[str, _Texts]], _NotEmpty] | None = None
    attention: (
        Annotated[
            list[Literal["vanilla", "csa", "maskclip", "clearclip", "naclip"]],
            _NotEmpty,
        ]
        | None
    ) = None
    short_side: Annotated[list[PositiveInt], _NotEmpty] | None = None
    long_side: Annotated[list[PositiveInt], _NotEmpty] | None = None
    stride: Annotated[list[PositiveInt], _NotEmpty] | None = None
    window: Annotated[list[PositiveInt | None], _NotEmpty] | None = None
    scale: Annotated[list[Annotated[float, Field(gt=0, allow_inf_nan=False)]], _NotEmpty] | None = (
        None
    )
    prob_thd: Annotated[list[_Fraction], _NotEmpty] | None = None
    area_thd: Annotated[list[_Fraction | None], _NotEmpty] | None = None
    refinement: Annotated[list[Literal["pamr"] | None], _NotEmpty] | None = None


def read_space(path: Path) -> dict[str, list[Any]]:
    """Read the values of every factor, as JSON has them. Raises UsageError for unknown factors."""
    with faults_of(f"{path}: "):
        space: _Space = parse(_Space, read_yaml(path, "window: [224, 336]"))
    if not space.model_fields_set:
        raise UsageError(f"{path} names no factor: {', '.join(_Space.model_fields)}")
    return space.model_dump(mode="json", exclude_unset=True)


def with_setting(protocol: SegmentationProtocol, setting: Setting) -> SegmentationProtocol:
    """Return a protocol with other values. Raises UsageError for a class that it does not have."""
    fields = {name: value for name, value in setting.items() if name != _PROMPTS}
    queries = dict(zip(protocol.class_names, protocol.queries, strict=True))
    for name, texts in setting.get(_PROMPTS, {}).items():
        if name == _TEMPLATES:
            names_known_set = len(texts) == 1 and "{}" not in texts[0]
            fields[_TEMPLATES] = texts[0] if names_known_set else tuple(texts)
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
    """Return the settings of a space that have different effects, and how many were left out.

    A setting is left out if it contradicts itself.

    Raises UsageError for a space with too many combinations, and if all contradict themselves.
    """
    n_combinations = math.prod(len(values) for values in space.values())
    if n_combinations > _MOST_COMBINATIONS:
        raise UsageError(
            f"the space has {n_combinations:,} combinations, and at most "
            f"{_MOST_COMBINATIONS:,} are listed"
        )
    setting_by_effect: dict[str, Setting] = {}
    contradictions = []
    for values in product(*space.values()):
        setting = dict(zip(space, values, strict=True))
        changed_protocol = with_setting(protocol, setting)
        faults = list(changed_protocol.faults())
        if faults:
            contradictions.append(faults[0])
        else:
            setting_by_effect.setdefault(_effect(changed_protocol), setting)
    if not setting_by_effect:
        raise UsageError(f"every combination of the space contradicts itself: {contradictions[0]}")
    return list(setting_by_effect.values()), len(contradictions)


def _effect(protocol: SegmentationProtocol) -> str:
    """Return a text that is equal for protocols that give equal label maps.

    It holds all constants and prompts. Without a threshold on probabilities, the scale is left out,
    since it does not change which class is best.
    """
    constants = segmentation.constants(protocol, protocol.attention)
    if protocol.prob_thd == 0:
        del constants["scale"]
    return json.dumps([constants, protocol.queries, protocol.templates])


class Scorer:
    """Computes the mIoU of protocols on one data set, equal to the bit to the mIoU of `run`.

    Prompts are encoded once for all calls. Raises UsageError for an attention that the model does
    not have, and for damaged images.
    """

    def __init__(self, encoder: Encoder, data: LabelMaps, options: RunOptions) -> None:
        self._encoder = encoder
        self._data = data
        self._options = options
        # Embeddings of queries by their names and templates.
        self._queries: dict[tuple[Any, ...], NDArray[np.float32]] = {}
        # The model with each form of attention.
        self._dense_encoders: dict[Attention, DenseEncoder] = {}

    def mean_ious(self, protocols: Sequence[SegmentationProtocol]) -> list[float]:
        """Return the mIoU of protocols that see the images alike, except for the attention.

        The blocks before the last one run once for all protocols.
        """
        from cosmos_eval.tasks.label_maps import IMAGES_PER_SHARD
        from cosmos_eval.tasks.segmentation import inference

        segmenters = [self._segmenter(protocol) for protocol in protocols]
        n_classes, ignored = len(protocols[0].class_names), protocols[0].ignore_index
        load = partial(inference.load_together, protocols=[segmenters[0].protocol])
        samples = [[sample] for sample in self._data.samples]
        images = prefetch(samples, load, workers=self._options.workers)
        areas = np.zeros((len(protocols), len(Areas._fields), n_classes), np.int64)
        for _ in range(0, len(samples), IMAGES_PER_SHARD):  # batches as `run` makes them
            # Every protocol compares with the same label map.
            shard = (loaded * len(protocols) for loaded in islice(images, IMAGES_PER_SHARD))
            for predictions in inference.predict_together(segmenters, shard):
                for areas_of_protocol, (image, classes) in zip(areas, predictions, strict=True):
                    counts = confusion(image.label, classes, n_classes, ignored)
                    # Intersection, labelled and predicted pixels of each class, as in Areas.
                    areas_of_protocol += np.diagonal(counts), counts.sum(1), counts.sum(0)
        if not areas.any():
            raise UsageError("no pixel of any image of the split has a label to compare with")
        return [float(mean_iou(Areas(*areas_of_protocol))) for areas_of_protocol in areas]

    def _segmenter(self, protocol: SegmentationProtocol) -> Segmenter:
        """Return the segmenter of a protocol, whose encoder and queries are made once."""
        from cosmos_eval.models.maps import require_patches
        from cosmos_eval.tasks.segmentation import inference

        attention = protocol.attention
        if attention not in self._dense_encoders:  # trying the attention takes a while
            self._dense_encoders[attention] = require_patches(self._encoder, attention)
        dense = self._dense_encoders[attention]
        fitted = inference.fit_to_model(protocol, dense)
        queries = self._embed_queries(protocol)
        return inference.Segmenter(dense, queries, fitted, attention, self._options.batch_size)

    def _embed_queries(self, protocol: SegmentationProtocol) -> NDArray[np.float32]:
        """Return the embeddings (Q, D) of the queries of a protocol, in the order of classes."""
        from cosmos_eval.tasks.segmentation import inference

        key = protocol.queries, protocol.templates
        if key not in self._queries:
            names = [name for synonyms in protocol.queries for name in synonyms]
            self._queries[key] = inference.prompt_embeddings(
                self._encoder, names, protocol.templates, self._options
            )
        return self._queries[key]


def model_record(info: EncoderInfo) -> dict[str, Any]:
    """Return the fields that identify the model that settings are chosen for."""
    return {name: getattr(info, name) for name in ("spec", "weights_sha256", "code_sha256")}


def settings_file(record: Mapping[str, Any]) -> bytes:
    """Return the YAML file of chosen settings, with a hash of its content."""
    content = {**record, "sha256": json_sha256(record)}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode()


def read_settings(path: Path) -> dict[str, Any]:
    """Read a file of chosen settings. Raises UsageError for another file, and an edited one."""
    with faults_of(f"{path}: "):
        record = read_yaml(path, "settings: {window: 224}")
    if "sha256" not in record or "search" not in record:
        raise UsageError(f"{path} is not a settings file of `cosmos-eval tune`")
    content = {name: value for name, value in record.items() if name != "sha256"}
    if json_sha256(content) != record["sha256"]:
        raise UsageError(f"{path} was edited: tune again, or write its values in a data set's YAML")
    return record


def protocol_sha256(protocol: SegmentationProtocol) -> str:
    """Return the hash of the constants, classes and prompts of a protocol."""
    constants = segmentation.constants(protocol, protocol.attention)
    return json_sha256([constants, protocol.class_names, protocol.queries, protocol.templates])


def tuned_protocol(
    record: Mapping[str, Any], protocol: SegmentationProtocol, model: str
) -> SegmentationProtocol:
    """Return the protocol of a data set with tuned settings, by which a model is measured.

    Its protocol names the search: only models with equal space, budget, seed and split are ranked
    together. Settings that were tuned for another model have a protocol of their own. Raises
    UsageError for another data set.
    """
    search, dataset = record["search"], protocol.dataset
    if (dataset, protocol.protocol_name) != (search["dataset"], search["protocol"]):
        raise UsageError(f"these settings were chosen for {search['dataset']}, not {dataset}")
    if protocol_sha256(protocol) != search["protocol_sha256"]:
        raise UsageError(f"{dataset} has other constants or prompts now: tune again")
    tuned_model = record["model"]["spec"]
    identity = json_sha256([search, None if model == tuned_model else tuned_model])
    changed_protocol = with_setting(protocol, record["settings"])
    return replace(changed_protocol, protocol_name=f"tuned-{identity[:12]}", tuned=record)
