"""Settings of a segmentation protocol that are chosen from a declared space, and their file.

A setting maps fields of the protocol to values. Its `prompts` map classes, or groups of classes, to
texts in which `{}` is the name of the class, and `templates` to templates. Imports no torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
import pydantic
import yaml
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from cosmos_core.utils.files import json_sha256
from cosmos_eval.data.label_maps import LabelMaps
from cosmos_eval.data.prefetch import prefetch
from cosmos_eval.data.readers import CONFIG, Text, parse, read_yaml, report_faults_at
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
    """Read a YAML file of the values to try for fields of a protocol.

    Returns:
        For each field that the file names, the list of its values, as JSON holds them.

    Raises UsageError for an unknown field, a value that the field cannot have, and an empty file.

    Example:
        A file with the line `stride: [16, 32]` -> {"stride": [16, 32]}
    """
    with report_faults_at(f"{path}: "):
        space: _Space = parse(_Space, read_yaml(path, "window: [224, 336]"))
    if not space.model_fields_set:
        raise UsageError(f"{path} names no factor: {', '.join(_Space.model_fields)}")
    return space.model_dump(mode="json", exclude_unset=True)


def with_setting(protocol: SegmentationProtocol, setting: Setting) -> SegmentationProtocol:
    """Return a copy of a protocol with the values of a setting.

    Args:
        protocol: The protocol, whose other fields are kept.
        setting: Maps fields of the protocol to values, such as `{"window": 224}`. The value of
            `prompts` is a mapping from a class, or a group of classes, to the texts that it is
            named by. In these texts, `{}` stands for the name of the class. The key `templates` of
            this mapping holds prompt templates, or the name of a known set of them.

    Raises UsageError for a class or group that the protocol does not have.

    Example:
        If the class `cat` is in the group `things`, the setting {"prompts": {"things": ["a {}"]}}
        gives it the prompt "a cat".
    """
    fields = {name: value for name, value in setting.items() if name != _PROMPTS}
    prompts_of_class = dict(zip(protocol.class_names, protocol.queries, strict=True))
    for name, texts in setting.get(_PROMPTS, {}).items():
        if name == _TEMPLATES:
            is_name_of_set = len(texts) == 1 and "{}" not in texts[0]
            fields[_TEMPLATES] = texts[0] if is_name_of_set else tuple(texts)
        elif name in protocol.groups or name in prompts_of_class:
            # A class is handled as a group with one member.
            members = protocol.groups.get(name, (name,))
            for class_name in members:
                prompts = tuple(text.replace("{}", class_name) for text in texts)
                prompts_of_class[class_name] = prompts
        else:
            nearest_names = nearest(name, [_TEMPLATES, *protocol.groups, *prompts_of_class])
            raise UsageError(f"prompts: no class or group {name!r}; nearest known: {nearest_names}")
    return replace(protocol, **fields, queries=tuple(prompts_of_class.values()))


def settings_of(
    protocol: SegmentationProtocol, space: Mapping[str, Sequence[Any]]
) -> tuple[list[Setting], int]:
    """Return the settings to try: the combinations of one value of each field.

    A setting contradicts itself if the protocol with its values is invalid. Such settings are left
    out. If several settings give the same label maps, only the first one is returned.

    Args:
        protocol: The protocol whose fields are changed.
        space: For each field, the values to try.

    Returns:
        The settings, and the number of settings that contradict themselves.

    Raises UsageError for a space with too many combinations, and if all of them contradict
    themselves.

    Example:
        {"window": [224, 336], "stride": [112]} ->
        [{"window": 224, "stride": 112}, {"window": 336, "stride": 112}], 0
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
            effect = _describe_effect(changed_protocol)
            setting_by_effect.setdefault(effect, setting)
    if not setting_by_effect:
        raise UsageError(f"every combination of the space contradicts itself: {contradictions[0]}")
    return list(setting_by_effect.values()), len(contradictions)


def _describe_effect(protocol: SegmentationProtocol) -> str:
    """Return a text that is the same for protocols that give the same label maps.

    It is a JSON list of all constants and prompts. Without a threshold on probabilities, the scale
    of the softmax is left out, because it does not change which class is best.
    """
    constants = segmentation.constants(protocol, protocol.attention)
    if protocol.prob_thd == 0:
        del constants["scale"]
    return json.dumps([constants, protocol.queries, protocol.templates])


class PixelCounts(NamedTuple):
    """The pixels of the first images of a data set, counted under P protocols with C classes."""

    # The number of images that are counted.
    n_images: int
    # (P, 3, C): intersection, labelled and predicted pixels of each class, as in Areas.
    areas: NDArray[np.int64]

    def mean_ious(self) -> list[float]:
        """Return the mIoU under each protocol. Raises UsageError if no pixel is labelled."""
        if not self.areas.any():
            raise UsageError("no pixel of any image of the split has a label to compare with")
        return [float(mean_iou(Areas(*areas_of_protocol))) for areas_of_protocol in self.areas]


class Scorer:
    """Counts the pixels by which a model is scored under several protocols, on one data set.

    The mIoU of the counts of all images is equal, to the last bit, to the mIoU that `cosmos-eval
    run` reports. Prompts are encoded once for all calls of `count_images`.
    """

    def __init__(self, encoder: Encoder, data: LabelMaps, options: RunOptions) -> None:
        """Keep the model and the data. Nothing is encoded yet.

        Args:
            encoder: The model.
            data: The images and label maps that settings are chosen by.
            options: The options of the run, such as the batch size.
        """
        self._encoder = encoder
        self._data = data
        self._options = options
        # The embeddings (Q, D) of queries that were encoded, by the queries and the templates.
        self._embeddings_by_queries: dict[tuple[Any, ...], NDArray[np.float32]] = {}
        # The model with each form of attention that was tried.
        self._encoder_by_attention: dict[Attention, DenseEncoder] = {}

    def count_images(
        self, protocols: Sequence[SegmentationProtocol], counts: PixelCounts | None = None
    ) -> Iterator[PixelCounts]:
        """Segment image after image, and yield the counts of all images so far after each.

        Args:
            protocols: Protocols with the same images, label maps, resize, windows and
                normalisation. They may have different prompts and forms of attention: all blocks
                of the model but the last run once per image.
            counts: Counts of an earlier call with the same protocols, which are continued. The
                final counts do not depend on where the earlier call ended. None: there are none.

        Raises UsageError for a form of attention that the model does not have, and for damaged
        images.
        """
        from cosmos_eval.tasks.label_maps import IMAGES_PER_SHARD
        from cosmos_eval.tasks.segmentation import inference

        segmenters = [self._make_segmenter(protocol) for protocol in protocols]
        n_classes, ignore_index = len(protocols[0].class_names), protocols[0].ignore_index
        if counts is None:
            areas = np.zeros((len(protocols), len(Areas._fields), n_classes), np.int64)
            counts = PixelCounts(0, areas)

        # `run` makes its batches from the images of one shard. Other batches could change the last
        # bits, so the shard of the next image is read from its start.
        n_images = len(self._data.samples)
        first_start = counts.n_images - counts.n_images % IMAGES_PER_SHARD

        # Threads load each image once, with its label map.
        load = partial(inference.load_together, protocols=[segmenters[0].protocol])
        samples = [[sample] for sample in self._data.samples[first_start:]]
        images = prefetch(samples, load, workers=self._options.workers)

        for shard_start in range(first_start, n_images, IMAGES_PER_SHARD):
            images_of_shard = islice(images, IMAGES_PER_SHARD)
            # An image is a list of one item. Repeat the item for every protocol.
            repeated_images = (loaded * len(protocols) for loaded in images_of_shard)
            n_counted = max(0, counts.n_images - shard_start)
            for predictions in inference.predict_together(segmenters, repeated_images, n_counted):
                areas = counts.areas.copy()
                for index, (image, classes) in enumerate(predictions):
                    # (true classes, predicted classes)
                    pixels = confusion(image.label, classes, n_classes, ignore_index)
                    areas[index] += np.diagonal(pixels), pixels.sum(1), pixels.sum(0)
                counts = PixelCounts(counts.n_images + 1, areas)
                yield counts

    def _make_segmenter(self, protocol: SegmentationProtocol) -> Segmenter:
        """Return the segmenter of a protocol.

        The model with the protocol's form of attention, and the embedded prompts, are kept for
        later calls.
        """
        from cosmos_eval.models.maps import require_patches
        from cosmos_eval.tasks.segmentation import inference

        attention = protocol.attention
        if attention not in self._encoder_by_attention:  # trying the attention takes a while
            self._encoder_by_attention[attention] = require_patches(self._encoder, attention)
        encoder = self._encoder_by_attention[attention]
        return inference.Segmenter(
            encoder=encoder,
            queries=self._embed_queries(protocol),
            protocol=inference.fit_to_model(protocol, encoder),
            attention=attention,
            batch_size=self._options.batch_size,
        )

    def _embed_queries(self, protocol: SegmentationProtocol) -> NDArray[np.float32]:
        """Return the embeddings (Q, D) of all Q names of the classes of a protocol.

        All names of the first class come first, then the names of the next class. The embeddings
        are kept for protocols with the same names and templates.
        """
        from cosmos_eval.tasks.segmentation import inference

        key = protocol.queries, protocol.templates
        if key not in self._embeddings_by_queries:
            names = [name for synonyms in protocol.queries for name in synonyms]
            self._embeddings_by_queries[key] = inference.prompt_embeddings(
                self._encoder, names, protocol.templates, self._options
            )
        return self._embeddings_by_queries[key]


def model_record(info: EncoderInfo) -> dict[str, Any]:
    """Return the name of a model, and the hashes of its weights and its code.

    A settings file records them, to identify the model that the settings were chosen for.
    """
    return {
        "spec": info.spec,
        "weights_sha256": info.weights_sha256,
        "code_sha256": info.code_sha256,
    }


def settings_file(record: Mapping[str, Any]) -> bytes:
    """Return the content of the YAML file for a record of chosen settings.

    A hash of the record, `sha256`, is added, so that `read_settings` notices if the file is edited.
    """
    content = {**record, "sha256": json_sha256(record)}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode()


def read_settings(path: Path) -> dict[str, Any]:
    """Read a YAML file that `settings_file` made, and return its record with the hash.

    Raises UsageError for another file, and for a file that was edited afterwards.
    """
    with report_faults_at(f"{path}: "):
        record = read_yaml(path, "settings: {window: 224}")
    if "sha256" not in record or "search" not in record:
        raise UsageError(f"{path} is not a settings file of `cosmos-eval tune`")
    content = {name: value for name, value in record.items() if name != "sha256"}
    if json_sha256(content) != record["sha256"]:
        raise UsageError(f"{path} was edited: tune again, or write its values in a data set's YAML")
    return record


def protocol_sha256(protocol: SegmentationProtocol) -> str:
    """Return the SHA-256 of the constants, classes, prompts and templates of a protocol."""
    constants = segmentation.constants(protocol, protocol.attention)
    return json_sha256([constants, protocol.class_names, protocol.queries, protocol.templates])


def tuned_protocol(
    record: Mapping[str, Any], protocol: SegmentationProtocol, model: str
) -> SegmentationProtocol:
    """Return a copy of a protocol with tuned settings, under a name such as `tuned-0123456789ab`.

    Only models with the same protocol name are ranked together. So the name holds a hash of the
    search: its space, budget, seed and split. If the settings were tuned for another model, the
    name of that model is hashed as well.

    Args:
        record: The record of the chosen settings, which `read_settings` returned.
        protocol: The protocol of the data set that the settings were chosen for.
        model: The name of the model to measure.

    Raises UsageError if the settings were chosen for another data set, or if its protocol has
    changed since.
    """
    search, dataset = record["search"], protocol.dataset
    is_same_dataset = dataset == search["dataset"]
    is_same_protocol = protocol.protocol_name == search["protocol"]
    if not (is_same_dataset and is_same_protocol):
        raise UsageError(f"these settings were chosen for {search['dataset']}, not {dataset}")
    if protocol_sha256(protocol) != search["protocol_sha256"]:
        raise UsageError(f"{dataset} has other constants or prompts now: tune again")

    tuned_model = record["model"]["spec"]
    other_model = None if model == tuned_model else tuned_model
    identity = json_sha256([search, other_model])
    changed_protocol = with_setting(protocol, record["settings"])
    return replace(changed_protocol, protocol_name=f"tuned-{identity[:12]}", tuned=record)
