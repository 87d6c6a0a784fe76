"""Folders that stock OpenCLIP loads and the Hugging Face Hub takes as they are.
OUTPUT/open_clip_config.json and OUTPUT/open_clip_model.safetensors are the CLIP subset, as
`open_clip.push_to_hf_hub` (3.3) lays it out; cosmos.safetensors holds all weights in our layout."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import safetensors.torch
import torch
from huggingface_hub import ModelCardData
from open_clip import constants

from cosmos_core.model.build import Architecture, model_config, openclip_config
from cosmos_core.model.checkpoint import (
    Checkpoint,
    Weights,
    build_model,
    read_checkpoint,
    save_checkpoint,
)
from cosmos_core.model.clip import MultiViewCLIP
from cosmos_core.utils.files import appearing, require_new_folder, write_atomically

ALL_WEIGHTS_NAME = "cosmos.safetensors"
CARD_NAME = "README.md"
# Names of facts, and their keys in the metadata that cosmos-train writes.
TRAINING_FACTS = {
    "Command": "command",
    "Group": "group",
    "Seed": "seed",
    "Commit": "commit",
    "Finished": "date",
    "Duration in seconds": "seconds",
    "Processes": "processes",
    "CPU threads": "threads",
    "Steps": "steps",
    "Batch size": "config.optim.batch_size",
    "Samples seen": "samples_seen",
    "FLOPs": "flops",
    "Training data": "config.data.shards",
    "Precision": "config.compute.precision",
    "PyTorch": "torch",
}


def export(
    checkpoint: Path,
    output: Path,
    *,
    weights: Weights = "teacher",
    architecture: Architecture | None = None,
) -> list[Path]:
    """Write a checkpoint of either layout as a folder, atomically; return its files. OpenCLIP loads
    `weights`. `architecture` may be left out where the file contains its own. Raises ValueError for
    a folder that is not empty, and an unusable checkpoint or architecture."""
    output = output.resolve()
    require_new_folder(output)
    read = read_checkpoint(checkpoint)
    names = dict.fromkeys([weights, *read.weights])
    models = {name: build_model(read, name, architecture, str(checkpoint)) for name in names}
    architecture = architecture or read.architecture
    assert architecture is not None  # else no model could be built
    whole, own = model_config(architecture), openclip_config(architecture)
    if "logit_bias" in read.added:  # which OpenCLIP has where its configuration says so
        own["init_logit_bias"] = read.weights[weights]["logit_bias"].item()
    config = {"model_cfg": own, "preprocess_cfg": preprocess_config(architecture)}
    with appearing(output) as folder:
        _write_openclip(folder, models[weights], config)
        save_checkpoint(folder / ALL_WEIGHTS_NAME, models, read.method, whole, read.training)
        card = model_card(output.name, read, own, weights)
        write_atomically(folder / CARD_NAME, card.encode())
    return sorted(output.iterdir())


def preprocess_config(architecture: Architecture) -> dict[str, Any]:
    """Return OpenCLIP's preprocessing of images; their size is the model's."""
    stated = model_config(architecture).get("preprocess", {})
    return {
        "mean": list(stated.get("mean") or constants.OPENAI_DATASET_MEAN),
        "std": list(stated.get("std") or constants.OPENAI_DATASET_STD),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }


def _write_openclip(folder: Path, model: MultiViewCLIP, config: Mapping[str, Any]) -> None:
    """Write the tensors of the model that OpenCLIP builds from the configuration, no others."""
    with torch.device("meta"):
        keys = open_clip.CLIP(**config["model_cfg"]).state_dict().keys()
    state = model.state_dict()
    tensors = {key: state[key].contiguous() for key in keys}
    content = safetensors.torch.save(tensors, {"format": "pt"})
    write_atomically(folder / constants.HF_SAFE_WEIGHTS_NAME, content)
    text = json.dumps(config, indent=2) + "\n"
    write_atomically(folder / constants.HF_CONFIG_NAME, text.encode())


def training_facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return how a model was trained, by name; None for unknown facts."""
    training = checkpoint.training or {}
    found = {"Method": checkpoint.method}
    for name, path in TRAINING_FACTS.items():
        value: Any = training
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        found[name] = value
    return found


def facts_table(facts: Mapping[str, Any]) -> str:
    """Return facts as a Markdown table without a head; leave out None."""
    cells = {k: str(v).replace("|", r"\|") for k, v in facts.items() if v is not None}
    return "\n".join(["| | |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in cells.items())])


def model_card(name: str, checkpoint: Checkpoint, config: dict[str, Any], weights: Weights) -> str:
    """Return a card in the Hub's layout for a folder that `export` writes."""
    metadata = ModelCardData(
        license="mit",
        library_name="open_clip",
        pipeline_tag="zero-shot-image-classification",
        tags=list(dict.fromkeys(["clip", checkpoint.method])),
    )
    stored = " and ".join(f"the {name}" for name in sorted(checkpoint.weights))
    modules = ", cross-attention modules included" if checkpoint.model_kind == "cosmos" else ""
    return (
        Path(__file__)
        .with_name("card.md")
        .read_text("utf-8")
        .format(
            metadata=metadata.to_yaml(),
            name=name,
            method=checkpoint.method.upper(),
            tokenizer=_tokenizer(config),
            weights=weights,
            stored=stored,
            modules=modules,
            facts=facts_table(training_facts(checkpoint)),
        )
    )


def _tokenizer(config: Mapping[str, Any]) -> str:
    """Return code that creates the tokenizer; OpenCLIP's configuration can name only its own."""
    vocabulary = config["text_cfg"].get("vocab_size", open_clip.CLIPTextCfg.vocab_size)
    if vocabulary == open_clip.CLIPTextCfg.vocab_size:
        return "tokenizer = open_clip.get_tokenizer(name)"
    length = config["text_cfg"].get("context_length", open_clip.CLIPTextCfg.context_length)
    return f"""# Not open_clip.get_tokenizer, whose vocabulary is another: this one has {vocabulary}
# tokens, and OpenCLIP's configuration cannot carry it. The scenes' comes with cosmos_core:
from cosmos_core.data.scenes.vocabulary import scenes_tokenizer

tokenizer = scenes_tokenizer({length})"""
