"""OpenCLIP models, run by OpenCLIP itself and audited.

Their names are openclip:ARCH/TAG and openclip:ARCH/PATH, and in OpenCLIP's hub layout
openclip:FOLDER and openclip:hf-hub:NAME."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import torch
from open_clip.pretrained import download_pretrained_from_hf
from open_clip.transform import PreprocessCfg
from torch import Tensor, nn

from cosmos_core.utils.files import file_sha256, json_sha256
from cosmos_core.utils.hub import limit_waiting
from cosmos_eval.data.hub import describe_error, quiet
from cosmos_eval.models import audit
from cosmos_eval.models.clip import ClipEncoder, NaflexClipEncoder, Tokenizer, has_naflex_tower
from cosmos_eval.models.encoder import tensors_sha256
from cosmos_eval.models.specs import DESCRIBED, DESCRIPTION, HUB, local_weights
from cosmos_eval.types import EncoderInfo, ModelSpec, Precision, UsageError, nearest

RANDOM = "random"
_RANDOM_SEED = 0  # random weights are the same in every run


class _Source(NamedTuple):
    """Where a model comes from: the arguments to create it, and a description of its weights."""

    # The first two arguments of open_clip.create_model, such as "ViT-B-32" and "openai".
    model_name: str
    pretrained: str | None
    # The architecture, for results.
    architecture: str
    # What describes the weights, in error messages: the path of a file, or "the weights 'openai'".
    description_name: str
    # The preprocessing and the activation that the description states, such as {"size": 224}.
    stated_settings: Mapping[str, Any] = {}
    # What error messages advise if the built model differs from these settings.
    advice: str = ""
    # The file of the weights, if it is known.
    weights_file: Path | None = None
    # The stated preprocessing that has to be given to create_model, which does not find it itself.
    forced_preprocessing: Mapping[str, Any] = {}


def load(spec: ModelSpec, device: str, precision: Precision) -> ClipEncoder:
    """Load a model of OpenCLIP, and return its encoder.

    Args:
        spec: Names the model, for example openclip:ViT-B-32/openai.
        device: The device of the model, such as "cpu".
        precision: The precision that it computes in.

    Raises:
        UsageError: If the name is unknown, if the weights cannot be fetched or opened, and if they
            do not fit the model or the description of their training.
    """
    limit_waiting()
    try:
        with quiet():
            source = _find_source(spec)
            stored_tensors = _read_stored_tensors(source.weights_file, spec)
            model, tokenizer = _build(source, stored_tensors)
    except UsageError:
        raise
    except Exception as error:  # OpenCLIP downloads and unpickles: all are faults of the weights
        raise UsageError(f"'{spec.text}' cannot be loaded: {describe_error(error)}") from error

    # Describe the model for results. Random weights have no hash.
    is_random = source.pretrained == RANDOM
    weights_sha256: str | None = None
    loaded_sha256: str | None = None
    if not is_random:
        tensors_hash = tensors_sha256(model.state_dict())
        file = source.weights_file
        weights_sha256 = file_sha256(file) if file else tensors_hash
        loaded_sha256 = audit.loaded_sha256(tensors_hash, _effective_config(source))
    preprocessing = make_preprocessing(model.visual.preprocess_cfg)
    info = EncoderInfo(
        spec=spec.text,
        architecture=source.architecture,
        weights=None,
        weights_sha256=weights_sha256,
        random=is_random,
        precision=precision,
        device=device,
        loaded_sha256=loaded_sha256,
        preprocessing_sha256=preprocessing_sha256(preprocessing),
    )
    encoder_class = NaflexClipEncoder if has_naflex_tower(model) else ClipEncoder
    encoder = encoder_class(model, preprocessing, tokenizer, info)
    if source.weights_file:
        encoder.notes = audit.notes_on_unused_weights(source.weights_file, stored_tensors)
    return encoder


def preprocessing_sha256(preprocessing: PreprocessCfg) -> str | None:
    """Return the SHA-256 of the settings of a preprocessing; None for OpenCLIP's defaults."""
    is_usual = preprocessing == PreprocessCfg(size=preprocessing.size)
    return None if is_usual else json_sha256(asdict(preprocessing))


def _find_source(spec: ModelSpec) -> _Source:
    """Return where a model comes from: its architecture, and a tag, a file or a repository.

    Args:
        spec: The specification of the model. `spec.arch` is its architecture, and None for a model
            that describes itself. `spec.name` is the tag or the file of its weights.

    Raises:
        UsageError: If the architecture or the weights are unknown.
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
            model_name=arch,
            pretrained=weights,
            architecture=arch,
            description_name=f"the weights '{weights}'",
            stated_settings=open_clip.get_pretrained_cfg(arch, weights),
            advice="choose another architecture",
        )
    if Path(weights).is_file():
        return _find_file_source(arch, Path(weights))
    nearest_tags = nearest(weights, [*open_clip.list_pretrained_tags_by_model(arch), RANDOM])
    raise UsageError(
        f"'{weights}' is neither a file nor pretrained weights of {arch}; nearest: {nearest_tags}"
    )


def _find_file_source(arch: str, path: Path) -> _Source:
    """Return where a model comes from if its weights are a file: the arguments to create it.

    The file open_clip_config.json in the same folder describes the weights: which preprocessing and
    which activation they were trained with. If it does not exist, the description is what all
    published weights of the architecture have in common.

    Args:
        arch: The name of an architecture of OpenCLIP, such as "ViT-B-32".
        path: The path of the file of weights.

    Raises:
        UsageError: If open_clip_config.json describes another architecture than `arch`.
    """
    description_path = path.with_name(DESCRIPTION)  # open_clip_config.json
    if not description_path.is_file():
        return _Source(
            model_name=arch,
            pretrained=str(path),
            architecture=arch,
            description_name=f"all published weights of {arch}",
            stated_settings=audit.published_preprocessing(arch),
            advice=(
                f"state in {description_path} what this file needs, as OpenCLIP's hub layout does"
            ),
            weights_file=path,
        )

    # Compare the described architecture with the named one. The text of differences is empty if
    # they are the same.
    description = audit.read_description(description_path)
    architecture_differences = audit.describe_config_differences(
        description["model_cfg"], open_clip.get_model_config(arch)
    )
    if architecture_differences:
        raise UsageError(
            f"{description_path} describes another model than {arch}: {architecture_differences}; "
            f"use openclip:{path.parent}"
        )

    # OpenCLIP does not read open_clip_config.json beside a file: hand it the stated preprocessing.
    # The size of images is left out, because the architecture decides it.
    stated_preprocessing = description.get("preprocess_cfg", {})
    forced_preprocessing = dict(stated_preprocessing)
    forced_preprocessing.pop("size", None)
    return _Source(
        model_name=arch,
        pretrained=str(path),
        architecture=arch,
        description_name=str(description_path),
        stated_settings=stated_preprocessing,
        advice="correct it",
        weights_file=path,
        forced_preprocessing=forced_preprocessing,
    )


def _find_described_source(spec: ModelSpec) -> _Source:
    """Return where a model comes from if it describes itself, in a folder or on the hub.

    The description is open_clip_config.json beside the weights. On the hub, both files are fetched.

    Args:
        spec: The specification of the model. `spec.name` is a folder, or hf-hub:ORG/NAME.

    Raises:
        UsageError: If the folder holds no weights.
    """
    if spec.name.startswith(HUB):
        # Files are fetched here, because OpenCLIP goes on without files that it cannot fetch.
        model_name = spec.name
        repository = spec.name.removeprefix(HUB)
        description_path = Path(download_pretrained_from_hf(repository, filename=DESCRIPTION))
        weights_file = Path(download_pretrained_from_hf(repository))
    else:
        folder = Path(spec.name)
        files = local_weights(spec)
        if not files:
            raise UsageError(f"{folder} holds no weights: one of {', '.join(DESCRIBED)}")
        model_name = f"local-dir:{folder}"  # as OpenCLIP names a model in a folder
        description_path = folder / DESCRIPTION
        weights_file = files[0]

    description = audit.read_description(description_path)
    return _Source(
        model_name=model_name,
        pretrained=None,
        architecture=json.dumps(description["model_cfg"], sort_keys=True),
        description_name=str(description_path),
        stated_settings=description.get("preprocess_cfg", {}),
        advice="correct it",
        weights_file=weights_file,
    )


def _read_stored_tensors(weights_file: Path | None, spec: ModelSpec) -> dict[str, Tensor]:
    """Return the tensors in a model's file of weights, by name. They are empty without a file.

    Raises UsageError, which names the model, for a file that cannot be used.
    """
    if weights_file is None:
        return {}
    try:
        return audit.read_stored_tensors(weights_file)
    except UsageError as error:
        raise UsageError(f"'{spec.text}' cannot be loaded: {error}") from error


def _build(source: _Source, stored_tensors: Mapping[str, Tensor]) -> tuple[Any, Tokenizer]:
    """Create a model and its tokenizer, check that they fit the weights, and return both.

    Args:
        source: Where the model comes from, with the description of its weights.
        stored_tensors: The tensors in the file of weights by name, empty without a file.

    Raises:
        UsageError: If the model differs from the description of its weights, or does not fit its
            weights.
    """
    has_quick_gelu = _effective_config(source)["quick_gelu"]
    model: Any = _create_model(source, has_quick_gelu, audit.has_logit_bias(stored_tensors))

    # Compare the model with the description of its weights. The text of differences is empty if
    # they agree.
    built_settings = {**model.visual.preprocess_cfg, "quick_gelu": has_quick_gelu}
    differences = audit.describe_stated_differences(source.stated_settings, built_settings)
    if differences:
        raise UsageError(
            f"{source.description_name}: {differences} of {source.model_name}; {source.advice}"
        )

    # Compare the model with the weights.
    audit.require_fit(stored_tensors, model.state_dict(), str(source.weights_file))
    # A random CoCa may have NaN: OpenCLIP does not initialise all of its decoder.
    if source.pretrained != RANDOM:
        weights_name = str(source.weights_file or source.pretrained)
        audit.require_finite(model.state_dict(), weights_name)

    # Compare the model with the tokenizer.
    tokenizer = open_clip.get_tokenizer(source.model_name)
    text_tower: Any = model if isinstance(model, open_clip.CLIP) else model.text
    model_name = str(source.weights_file or source.model_name)
    audit.require_vocabulary(text_tower.vocab_size, tokenizer, model_name)
    return model, tokenizer


def _effective_config(source: _Source) -> dict[str, Any]:
    """Return the configuration of a model with the activation that it has.

    The activation is stated by the tag of the weights, or by the architecture.
    """
    tag_config = open_clip.get_pretrained_cfg(source.model_name, source.pretrained or "")
    model_config = open_clip.get_model_config(source.model_name)
    has_quick_gelu = bool(model_config.get("quick_gelu")) or bool(tag_config.get("quick_gelu"))
    return {**model_config, "quick_gelu": has_quick_gelu}


def _create_model(source: _Source, has_quick_gelu: bool, has_logit_bias: bool) -> nn.Module:
    """Return the model with its weights. Random weights are the same in every run.

    OpenCLIP opens files with weights_only, and refuses missing and unexpected tensors.

    Args:
        source: Where the model comes from.
        has_quick_gelu: True if the activation is QuickGELU, and not GELU.
        has_logit_bias: True if the weights were trained with SigLIP's loss, which adds a bias of
            logits to any architecture. Features do not depend on it, but the model needs a place
            for it.
    """
    if source.pretrained == RANDOM:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_RANDOM_SEED)
            # Text towers from the Hugging Face hub would otherwise fetch weights of their own.
            return open_clip.create_model(source.model_name, pretrained_text=False)

    options: dict[str, Any] = {
        "force_quick_gelu": has_quick_gelu,
        "force_preprocess_cfg": dict(source.forced_preprocessing),
    }
    if has_logit_bias:
        options["init_logit_bias"] = 0.0  # to be replaced by the stored bias
    return open_clip.create_model(
        source.model_name, source.pretrained, require_pretrained=True, **options
    )


def make_preprocessing(config: Mapping[str, Any]) -> PreprocessCfg:
    """Return the settings of the transform from the configuration of a model.

    In the configuration, the mean and the std may be one number for all channels: 0.5 becomes
    (0.5, 0.5, 0.5).
    """
    values = dict(config)
    for key in ("mean", "std"):
        value = config[key]
        values[key] = tuple(value) if isinstance(value, Sequence) else (value, value, value)
    return PreprocessCfg(**values)
