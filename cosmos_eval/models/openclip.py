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
    """Where a model comes from: the arguments to create it, and a description of its weights."""

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
    # The stated preprocessing that OpenCLIP would not find by itself.
    preprocessing: Mapping[str, Any] = {}


def load(spec: ModelSpec, device: str, precision: Precision) -> ClipEncoder:
    """Load a model of OpenCLIP, and return its encoder.

    Raises UsageError if its name is unknown, if its weights cannot be fetched or opened, and if
    they do not fit the model or the description of their training.
    """
    limit_waiting()
    try:
        with quiet():
            source = _find_source(spec)
            stored_tensors = _read_stored_tensors(source.file, spec)
            model, tokenizer = _build(source, stored_tensors)
    except UsageError:
        raise
    except Exception as error:  # OpenCLIP downloads and unpickles: all are faults of the weights
        raise UsageError(f"'{spec.text}' cannot be loaded: {describe_error(error)}") from error

    is_random = source.pretrained == RANDOM
    digest: str | None = None
    if source.file:
        digest = file_sha256(source.file)
    elif not is_random:
        digest = tensors_sha256(model.state_dict())
    info = EncoderInfo(
        spec=spec.text,
        architecture=source.architecture,
        weights=None,
        weights_sha256=digest,
        random=is_random,
        precision=precision,
        device=device,
    )
    preprocessing = _make_preprocessing(model.visual.preprocess_cfg)
    encoder = ClipEncoder(model, preprocessing, tokenizer, info)
    if source.file:
        encoder.notes = audit.notes_on_unused_weights(source.file, stored_tensors)
    return encoder


def _find_source(spec: ModelSpec) -> _Source:
    """Return where a model comes from: its architecture, and a tag, a file or a repository.

    Raises UsageError for an unknown architecture, and for unknown weights.
    """
    arch, weights = spec.arch, spec.name
    if arch is None:
        return _find_described_source(spec)
    architectures = open_clip.list_models()
    if arch not in architectures:
        nearest_archs = nearest(arch, architectures)
        raise UsageError(f"unknown OpenCLIP architecture '{arch}'; nearest: {nearest_archs}")
    if weights == RANDOM:
        return _Source(arch, RANDOM, arch, "random weights")
    if open_clip.is_pretrained_cfg(arch, weights):
        return _Source(
            name=arch,
            pretrained=weights,
            architecture=arch,
            description_name=f"the weights '{weights}'",
            stated=open_clip.get_pretrained_cfg(arch, weights),
            remedy="choose another architecture",
        )
    if Path(weights).is_file():
        return _find_file_source(arch, Path(weights))
    nearest_tags = nearest(weights, [*open_clip.list_pretrained_tags_by_model(arch), RANDOM])
    raise UsageError(
        f"'{weights}' is neither a file nor pretrained weights of {arch}; nearest: {nearest_tags}"
    )


def _find_file_source(arch: str, path: Path) -> _Source:
    """Return the source of a model whose weights are the file at `path`.

    The preprocessing and the activation are stated by open_clip_config.json in the same folder.
    Without this file, they are the values that all published weights of `arch` agree on. Raises
    UsageError if the file describes another architecture than `arch`.
    """
    description = path.with_name(DESCRIPTION)
    if not description.is_file():
        return _Source(
            name=arch,
            pretrained=str(path),
            architecture=arch,
            description_name=f"all published weights of {arch}",
            stated=audit.published_preprocessing(arch),
            remedy=f"state in {description} what this file needs, as OpenCLIP's hub layout does",
            file=path,
        )
    config = audit.read_description(description)
    differences = audit.describe_config_differences(
        config["model_cfg"], open_clip.get_model_config(arch)
    )
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


def _find_described_source(spec: ModelSpec) -> _Source:
    """Return the source of a model that describes itself, in a folder or on the hub.

    The description is open_clip_config.json beside the weights. On the hub, both files are fetched.
    Raises UsageError for a folder without weights.
    """
    if spec.name.startswith(HUB):
        # Files are fetched here, because OpenCLIP goes on without files that it cannot fetch.
        name = spec.name
        repository = name.removeprefix(HUB)
        description = Path(download_pretrained_from_hf(repository, filename=DESCRIPTION))
        file = Path(download_pretrained_from_hf(repository))
    else:
        folder, files = Path(spec.name), local_weights(spec)
        if not files:
            raise UsageError(f"{folder} holds no weights: one of {', '.join(DESCRIBED)}")
        name = f"local-dir:{folder}"
        description = folder / DESCRIPTION
        file = files[0]
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


def _read_stored_tensors(file: Path | None, spec: ModelSpec) -> dict[str, Tensor]:
    """Return the tensors in a model's file of weights, by name. They are empty without a file.

    Raises UsageError, which names the model, for a file that cannot be used.
    """
    if file is None:
        return {}
    try:
        return audit.read_stored_tensors(file)
    except UsageError as error:
        raise UsageError(f"'{spec.text}' cannot be loaded: {error}") from error


def _build(source: _Source, stored_tensors: Mapping[str, Tensor]) -> tuple[Any, Tokenizer]:
    """Create a model and its tokenizer, check that they fit the weights, and return both.

    `stored_tensors` are the tensors in the model's file. Raises UsageError if the model differs
    from the description of its weights, or does not fit its weights.
    """
    # The activation is stated by the tag of the weights, or by the architecture.
    tag_config = open_clip.get_pretrained_cfg(source.name, source.pretrained or "")
    model_config = open_clip.get_model_config(source.name)
    quick_gelu = bool(model_config.get("quick_gelu")) or bool(tag_config.get("quick_gelu"))
    model: Any = _create_model(source, quick_gelu, audit.has_logit_bias(stored_tensors))

    # Compare the model with the description of its weights, and with the weights.
    built_values = {**model.visual.preprocess_cfg, "quick_gelu": quick_gelu}
    differences = audit.describe_stated_differences(source.stated, built_values)
    if differences:
        raise UsageError(
            f"{source.description_name}: {differences} of {source.name}; {source.remedy}"
        )
    audit.require_fit(stored_tensors, model.state_dict(), str(source.file))
    # A random CoCa may have NaN: OpenCLIP does not initialise all of its decoder.
    if source.pretrained != RANDOM:
        audit.require_finite(model.state_dict(), str(source.file or source.pretrained))

    tokenizer = open_clip.get_tokenizer(source.name)
    text_tower: Any = model if isinstance(model, open_clip.CLIP) else model.text
    audit.require_vocabulary(text_tower.vocab_size, tokenizer, str(source.file or source.name))
    return model, tokenizer


def _create_model(source: _Source, quick_gelu: bool, has_logit_bias: bool) -> nn.Module:
    """Return the model with its weights. Random weights are the same in every run.

    OpenCLIP opens files with weights_only, and refuses missing and unexpected tensors. If
    `has_logit_bias` is true, the weights were trained with SigLIP's loss, which adds a bias of
    logits to any architecture. Features do not depend on it, but the model needs a place for it.
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


def _make_preprocessing(config: Mapping[str, Any]) -> PreprocessCfg:
    """Return OpenCLIP's preprocessing from the configuration of a model.

    There, the mean and the std may be one number for all channels: 0.5 -> (0.5, 0.5, 0.5).
    """
    values = dict(config)
    for key in ("mean", "std"):
        value = config[key]
        values[key] = tuple(value) if isinstance(value, Sequence) else (value, value, value)
    return PreprocessCfg(**values)
