"""OpenCLIP models as OpenCLIP itself runs them, and audited: openclip:ARCH/TAG, openclip:ARCH/PATH,
and in its hub layout openclip:FOLDER, openclip:hf-hub:NAME."""

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
from cosmos_eval.data.hub import quiet, reason
from cosmos_eval.models import audit
from cosmos_eval.models.clip import ClipEncoder, Tokenizer
from cosmos_eval.models.encoder import tensors_sha256
from cosmos_eval.models.specs import DESCRIBED, DESCRIPTION, HUB, local_weights
from cosmos_eval.types import EncoderInfo, ModelSpec, Precision, UsageError, nearest

RANDOM = "random"
_RANDOM_SEED = 0  # random weights are the same in every run


class _Source(NamedTuple):
    """Arguments of open_clip.create_model, and what `stating` states of the weights. `file` holds
    the weights, where that is known. `given` is what of the stated preprocessing OpenCLIP must be
    given; `remedy` completes the error where a model is not as stated."""

    name: str
    pretrained: str | None
    architecture: str
    stating: str
    stated: Mapping[str, Any] = {}
    remedy: str = ""
    file: Path | None = None
    given: Mapping[str, Any] = {}


def load(spec: ModelSpec, device: str, precision: Precision) -> ClipEncoder:
    """Load a model. Raises UsageError where its name is unknown or its weights fail the audit."""
    limit_waiting()
    try:
        with quiet():
            source = _source(spec)
            stored = _stored(source.file, spec)
            model, tokenizer = _build(source, stored)
    except UsageError:
        raise
    except Exception as error:  # OpenCLIP downloads and unpickles: all are faults of the weights
        raise UsageError(f"'{spec.text}' cannot be loaded: {reason(error)}") from error
    random = source.pretrained == RANDOM
    digest = file_sha256(source.file) if source.file else None
    if digest is None and not random:
        digest = tensors_sha256(model.state_dict())
    info = EncoderInfo(spec.text, source.architecture, None, digest, random, precision, device)
    encoder = ClipEncoder(model, _preprocessing(model.visual.preprocess_cfg), tokenizer, info)
    if source.file:
        encoder.notes = audit.unused_weights(source.file, stored)
    return encoder


def _source(spec: ModelSpec) -> _Source:
    arch, weights = spec.arch, spec.name
    if arch is None:
        return _described(spec)
    architectures = open_clip.list_models()
    if arch not in architectures:
        known = nearest(arch, architectures)
        raise UsageError(f"unknown OpenCLIP architecture '{arch}'; nearest: {known}")
    if weights == RANDOM:
        return _Source(arch, RANDOM, arch, "random weights")
    if open_clip.is_pretrained_cfg(arch, weights):
        tag = open_clip.get_pretrained_cfg(arch, weights)
        remedy = "choose another architecture"
        return _Source(arch, weights, arch, f"the weights '{weights}'", tag, remedy)
    if Path(weights).is_file():
        return _from_file(arch, Path(weights))
    known = nearest(weights, [*open_clip.list_pretrained_tags_by_model(arch), RANDOM])
    raise UsageError(
        f"'{weights}' is neither a file nor pretrained weights of {arch}; nearest: {known}"
    )


def _from_file(arch: str, path: Path) -> _Source:
    """Describe a bare file by a description beside it, else as all published weights of `arch`."""
    described = path.with_name(DESCRIPTION)
    if not described.is_file():
        stating = f"all published weights of {arch}"
        remedy = f"state in {described} what this file needs, as OpenCLIP's hub layout does"
        return _Source(arch, str(path), arch, stating, audit.published(arch), remedy, path)
    config = audit.read_description(described)
    own = open_clip.get_model_config(arch)
    if differences := audit.config_differences(config["model_cfg"], own):
        raise UsageError(
            f"{described} describes another model than {arch}: {differences}; "
            f"use openclip:{path.parent}"
        )
    stated = config.get("preprocess_cfg", {})
    given = {key: value for key, value in stated.items() if key != "size"}  # it is the model's
    return _Source(arch, str(path), arch, str(described), stated, "correct it", path, given)


def _described(spec: ModelSpec) -> _Source:
    """Find a model that describes itself, in a folder or on the hub."""
    name = spec.name
    if name.startswith(HUB):
        # Fetched here, since OpenCLIP goes on without what it cannot fetch.
        repository = name.removeprefix(HUB)
        description = Path(download_pretrained_from_hf(repository, filename=DESCRIPTION))
        file = Path(download_pretrained_from_hf(repository))
    else:
        folder, files = Path(name), local_weights(spec)
        if not files:
            raise UsageError(f"{folder} holds no weights: one of {', '.join(DESCRIBED)}")
        name, description, file = f"local-dir:{folder}", folder / DESCRIPTION, files[0]
    config = audit.read_description(description)
    architecture = json.dumps(config["model_cfg"], sort_keys=True)
    stated = config.get("preprocess_cfg", {})
    return _Source(name, None, architecture, str(description), stated, "correct it", file)


def _stored(file: Path | None, spec: ModelSpec) -> dict[str, Tensor]:
    """Return the tensors of a model's file, if it is known. Raises UsageError."""
    try:
        return audit.stored_tensors(file) if file else {}
    except UsageError as error:
        raise UsageError(f"'{spec.text}' cannot be loaded: {error}") from error


def _build(source: _Source, stored: Mapping[str, Tensor]) -> tuple[Any, Tokenizer]:
    """Create the model and its tokenizer, and audit them; `stored` are the tensors of a file."""
    # A tag states the activation of its weights, else the architecture decides.
    tag = open_clip.get_pretrained_cfg(source.name, source.pretrained or "")
    stating = (open_clip.get_model_config(source.name), tag)
    quick_gelu = any(bool(config.get("quick_gelu", False)) for config in stating)
    model: Any = _create(source, quick_gelu, audit.has_logit_bias(stored))
    built = {**model.visual.preprocess_cfg, "quick_gelu": quick_gelu}
    if differences := audit.stated_differences(source.stated, built):
        raise UsageError(f"{source.stating}: {differences} of {source.name}; {source.remedy}")
    audit.require_fit(stored, model.state_dict(), str(source.file))
    if source.pretrained != RANDOM:  # some of CoCa's decoder is then whatever the memory held
        audit.require_finite(model.state_dict(), str(source.file or source.pretrained))
    tokenizer = open_clip.get_tokenizer(source.name)
    text: Any = model if isinstance(model, open_clip.CLIP) else model.text
    audit.require_vocabulary(text.vocab_size, tokenizer, str(source.file or source.name))
    return model, tokenizer


def _create(source: _Source, quick_gelu: bool, has_logit_bias: bool) -> nn.Module:
    """Create the model; OpenCLIP opens files with weights_only and loads them strictly. A training
    with SigLIP's loss adds a bias of logits to any architecture, which no feature reads."""
    if source.pretrained != RANDOM:
        options = {"force_quick_gelu": quick_gelu, "force_preprocess_cfg": dict(source.given)}
        if has_logit_bias:
            options["init_logit_bias"] = 0.0  # to be loaded
        return open_clip.create_model(
            source.name, source.pretrained, require_pretrained=True, **options
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_RANDOM_SEED)
        # Text towers from the Hugging Face hub would otherwise fetch weights of their own.
        return open_clip.create_model(source.name, pretrained_text=False)


def _preprocessing(config: Mapping[str, Any]) -> PreprocessCfg:
    """Fill in OpenCLIP's configuration, where one mean or std may stand for three channels."""
    stated = ((key, config[key]) for key in ("mean", "std"))
    channels = {key: tuple(v) if isinstance(v, Sequence) else (v,) * 3 for key, v in stated}
    return PreprocessCfg(**{**config, **channels})
