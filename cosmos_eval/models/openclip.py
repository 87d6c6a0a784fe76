"""OpenCLIP models, run by OpenCLIP itself and audited.

Their names are openclip:ARCH/TAG and openclip:ARCH/PATH, and in OpenCLIP's hub layout
openclip:FOLDER and openclip:hf-hub:NAME."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import torch
from open_clip.pretrained import download_pretrained_from_hf
from open_clip.transform import PreprocessCfg
from torch import Tensor, nn

from cosmos_core.utils.files import file_sha256
from cosmos_core.utils.hub import limit_waiting
from cosmos_eval.data.hub import describe_error, quiet
from cosmos_eval.models import audit
from cosmos_eval.models.clip import ClipEncoder, Tokenizer
from cosmos_eval.models.encoder import tensors_sha256
from cosmos_eval.models.specs import DESCRIBED, DESCRIPTION, HUB, local_weights
from cosmos_eval.types import EncoderInfo, ModelSpec, Precision, UsageError, nearest

RANDOM = "random"
_RANDOM_SEED = 0  # random weights are the same in every run


class _Source(NamedTuple):
    """The source of a model: arguments of open_clip.create_model, and a description of it."""

    # The first two arguments of open_clip.create_model.
    name: str
    pretrained: str | None
    # The architecture, for results.
    architecture: str
    # The name of the description of the weights in error messages, such as a file.
    description_name: str
    # The preprocessing and the activation that the description states.
    stated: Mapping[str, Any] = {}
    # The advice in error messages if the model differs from the description.
    remedy: str = ""
    # The file of the weights, if it is known.
    file: Path | None = None
    # The part of the stated preprocessing that OpenCLIP would not find by itself.
    preprocessing: Mapping[str, Any] = {}


def load(spec: ModelSpec, device: str, precision: Precision) -> ClipEncoder:
    """Load a model. Raises UsageError if its name is unknown or its weights fail the audit."""
    limit_waiting()
    try:
        with quiet():
            source = _source(spec)
            stored = _stored_tensors(source.file, spec)
            model, tokenizer = _build(source, stored)
    except UsageError:
        raise
    except Exception as error:  # OpenCLIP downloads and unpickles: all are faults of the weights
        raise UsageError(f"'{spec.text}' cannot be loaded: {describe_error(error)}") from error
    is_random = source.pretrained == RANDOM
    if source.file:
        digest: str | None = file_sha256(source.file)
    else:
        digest = None if is_random else tensors_sha256(model.state_dict())
    info = EncoderInfo(spec.text, source.architecture, None, digest, is_random, precision, device)
    encoder = ClipEncoder(model, _preprocessing(model.visual.preprocess_cfg), tokenizer, info)
    if source.file:
        encoder.notes = audit.unused_weights(source.file, stored)
    return encoder


def _source(spec: ModelSpec) -> _Source:
    """Return the source of a model. Raises UsageError for unknown names."""
    arch, weights = spec.arch, spec.name
    if arch is None:
        return _described(spec)
    architectures = open_clip.list_models()
    if arch not in architectures:
        nearest_archs = nearest(arch, architectures)
        raise UsageError(f"unknown OpenCLIP architecture '{arch}'; nearest: {nearest_archs}")
    if weights == RANDOM:
        return _Source(arch, RANDOM, arch, "random weights")
    if open_clip.is_pretrained_cfg(arch, weights):
        tag = open_clip.get_pretrained_cfg(arch, weights)
        remedy = "choose another architecture"
        return _Source(arch, weights, arch, f"the weights '{weights}'", tag, remedy)
    if Path(weights).is_file():
        return _from_file(arch, Path(weights))
    nearest_tags = nearest(weights, [*open_clip.list_pretrained_tags_by_model(arch), RANDOM])
    raise UsageError(
        f"'{weights}' is neither a file nor pretrained weights of {arch}; nearest: {nearest_tags}"
    )


def _from_file(arch: str, path: Path) -> _Source:
    """Return the source of a file of weights.

    The preprocessing and the activation are stated by a description in the same folder. Without
    one, they are the values that all published weights of `arch` agree on.
    """
    description = path.with_name(DESCRIPTION)
    if not description.is_file():
        return _Source(
            name=arch,
            pretrained=str(path),
            architecture=arch,
            description_name=f"all published weights of {arch}",
            stated=audit.published(arch),
            remedy=f"state in {description} what this file needs, as OpenCLIP's hub layout does",
            file=path,
        )
    config = audit.read_description(description)
    differences = audit.config_differences(config["model_cfg"], open_clip.get_model_config(arch))
    if differences:
        raise UsageError(
            f"{description} describes another model than {arch}: {differences}; "
            f"use openclip:{path.parent}"
        )
    stated = config.get("preprocess_cfg", {})
    return _Source(
        name=arch,
        pretrained=str(path),
        architecture=arch,
        description_name=str(description),
        stated=stated,
        remedy="correct it",
        file=path,
        # The size is the model's.
        preprocessing={key: value for key, value in stated.items() if key != "size"},
    )


def _described(spec: ModelSpec) -> _Source:
    """Return the source of a model that describes itself, in a folder or on the hub."""
    name = spec.name
    if name.startswith(HUB):
        # Files are fetched here, because OpenCLIP goes on without files that it cannot fetch.
        repository = name.removeprefix(HUB)
        description = Path(download_pretrained_from_hf(repository, filename=DESCRIPTION))
        file = Path(download_pretrained_from_hf(repository))
    else:
        folder, files = Path(name), local_weights(spec)
        if not files:
            raise UsageError(f"{folder} holds no weights: one of {', '.join(DESCRIBED)}")
        name, description, file = f"local-dir:{folder}", folder / DESCRIPTION, files[0]
    config = audit.read_description(description)
    return _Source(
        name=name,
        pretrained=None,
        architecture=json.dumps(config["model_cfg"], sort_keys=True),
        description_name=str(description),
        stated=config.get("preprocess_cfg", {}),
        remedy="correct it",
        file=file,
    )


def _stored_tensors(file: Path | None, spec: ModelSpec) -> dict[str, Tensor]:
    """Return the tensors of a model's file by name. They are empty if the file is not known.

    Raises UsageError for a file that cannot be used.
    """
    try:
        return audit.stored_tensors(file) if file else {}
    except UsageError as error:
        raise UsageError(f"'{spec.text}' cannot be loaded: {error}") from error


def _build(source: _Source, stored: Mapping[str, Tensor]) -> tuple[Any, Tokenizer]:
    """Create the model and its tokenizer, audit them, and return both.

    `stored` holds the tensors of the model's file. Raises UsageError if the model differs from the
    description of its weights, or does not fit its weights.
    """
    # The activation is stated by the tag of the weights, or by the architecture.
    tag_config = open_clip.get_pretrained_cfg(source.name, source.pretrained or "")
    model_config = open_clip.get_model_config(source.name)
    quick_gelu = bool(model_config.get("quick_gelu")) or bool(tag_config.get("quick_gelu"))
    model: Any = _create(source, quick_gelu, audit.has_logit_bias(stored))
    built = {**model.visual.preprocess_cfg, "quick_gelu": quick_gelu}
    differences = audit.stated_differences(source.stated, built)
    if differences:
        raise UsageError(
            f"{source.description_name}: {differences} of {source.name}; {source.remedy}"
        )
    audit.require_fit(stored, model.state_dict(), str(source.file))
    # A random CoCa may have NaN: OpenCLIP does not initialise all of its decoder.
    if source.pretrained != RANDOM:
        audit.require_finite(model.state_dict(), str(source.file or source.pretrained))
    tokenizer = open_clip.get_tokenizer(source.name)
    text: Any = model if isinstance(model, open_clip.CLIP) else model.text
    audit.require_vocabulary(text.vocab_size, tokenizer, str(source.file or source.name))
    return model, tokenizer


def _create(source: _Source, quick_gelu: bool, has_logit_bias: bool) -> nn.Module:
    """Create the model with its weights and return it.

    OpenCLIP opens files with weights_only, and refuses missing and unexpected tensors. A training
    with SigLIP's loss adds a bias of logits to any architecture. Features do not depend on it, but
    the model needs a place for it.
    """
    if source.pretrained != RANDOM:
        options: dict[str, Any] = {
            "force_quick_gelu": quick_gelu,
            "force_preprocess_cfg": dict(source.preprocessing),
        }
        if has_logit_bias:
            options["init_logit_bias"] = 0.0  # to be replaced by the stored bias
        return open_clip.create_model(
            source.name, source.pretrained, require_pretrained=True, **options
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_RANDOM_SEED)
        # Text towers from the Hugging Face hub would otherwise fetch weights of their own.
        return open_clip.create_model(source.name, pretrained_text=False)


def _preprocessing(config: Mapping[str, Any]) -> PreprocessCfg:
    """Return OpenCLIP's preprocessing, whose mean and std may be one number for all channels."""
    values = dict(config)
    for key in ("mean", "std"):
        value = config[key]
        values[key] = tuple(value) if isinstance(value, Sequence) else (value, value, value)
    return PreprocessCfg(**values)
