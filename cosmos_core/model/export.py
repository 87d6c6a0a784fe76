"""Export a checkpoint as a folder that OpenCLIP can load and the Hugging Face Hub can store.

The folder has the following files:

- open_clip_config.json and open_clip_model.safetensors: the configuration and the weights of CLIP,
  in the layout of `open_clip.push_to_hf_hub` (3.3)
- cosmos.safetensors: all weights, in the layout of cosmos-train
- README.md: the model card
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import safetensors.torch
import torch
from huggingface_hub import ModelCardData
from open_clip import constants

from cosmos_core.model.build import MODEL_KEYS, Architecture, model_config
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
# The names of facts on the model card, and where each is found in the `training` metadata of a
# checkpoint. "config.optim.batch_size" stands for ["config"]["optim"]["batch_size"].
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
    "OpenCV": "opencv",
}

# The sizes of the vocabularies of the rendered scenes, and the names of their versions in
# cosmos_core.data.scenes. A test compares them with the tokenizers.
_SCENES_VERSIONS = {882: "VERSION_1", 928: "VERSION_2"}


def export(
    checkpoint: Path,
    output: Path,
    *,
    weights: Weights = "teacher",
    architecture: Architecture | None = None,
) -> list[Path]:
    """Export a checkpoint as a folder for OpenCLIP, which is written atomically.

    Args:
        checkpoint: Any path that `read_checkpoint` reads.
        output: The folder to write. It must be empty or not exist.
        weights: The model that OpenCLIP will load, "teacher" or "student".
        architecture: The architecture of the model. It may be left out if the checkpoint states it.

    Returns:
        The paths of the files in the folder.

    Raises:
        ValueError: If the folder is not empty, or if the checkpoint or the architecture cannot be
            used.
    """
    output = output.resolve()
    require_new_folder(output)

    # Build all models of the checkpoint, beginning with the one for OpenCLIP, which may be missing.
    content = read_checkpoint(checkpoint)
    models: dict[str, MultiViewCLIP] = {}
    for name in dict.fromkeys([weights, *content.weights]):
        models[name] = build_model(content, name, architecture, str(checkpoint))

    architecture = architecture or content.architecture
    assert architecture is not None  # otherwise no model could be built
    full_config = model_config(architecture)
    openclip_model_config = {key: full_config[key] for key in full_config if key in MODEL_KEYS}
    if "logit_bias" in content.added:
        # OpenCLIP creates the bias if its configuration states an initial value.
        logit_bias = content.weights[weights]["logit_bias"].item()
        openclip_model_config["init_logit_bias"] = logit_bias
    config = {
        "model_cfg": openclip_model_config,
        "preprocess_cfg": preprocess_config(architecture),
    }

    with appearing(output) as folder:
        _write_openclip(folder, models[weights], config)
        save_checkpoint(
            folder / ALL_WEIGHTS_NAME,
            models,
            content.method,
            full_config,
            content.training,
        )
        card = model_card(output.name, content, openclip_model_config, weights)
        write_atomically(folder / CARD_NAME, card.encode())
    return sorted(output.iterdir())


def preprocess_config(architecture: Architecture) -> dict[str, Any]:
    """Return OpenCLIP's configuration of image preprocessing for an architecture.

    The mean and the standard deviation are the architecture's, or else OpenAI's. The image size
    is left out, because OpenCLIP takes it from the model.

    Args:
        architecture: A name of OpenCLIP such as "ViT-B-16", the path of a JSON file, or a
            configuration.
    """
    preprocess = model_config(architecture).get("preprocess", {})
    return {
        "mean": list(preprocess.get("mean") or constants.OPENAI_DATASET_MEAN),
        "std": list(preprocess.get("std") or constants.OPENAI_DATASET_STD),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }


def _write_openclip(folder: Path, model: MultiViewCLIP, config: Mapping[str, Any]) -> None:
    """Write the configuration and the weights that OpenCLIP loads to a folder.

    Args:
        folder: The folder, which exists.
        model: The model. Tensors that OpenCLIP's CLIP does not have are left out.
        config: The content of open_clip_config.json, with the keys "model_cfg" and
            "preprocess_cfg".
    """
    # A model without memory has the keys of OpenCLIP's CLIP.
    with torch.device("meta"):
        openclip_keys = open_clip.CLIP(**config["model_cfg"]).state_dict().keys()
    state = model.state_dict()
    tensors = {key: state[key].contiguous() for key in openclip_keys}
    content = safetensors.torch.save(tensors, {"format": "pt"})
    write_atomically(folder / constants.HF_SAFE_WEIGHTS_NAME, content)
    text = json.dumps(config, indent=2) + "\n"
    write_atomically(folder / constants.HF_CONFIG_NAME, text.encode())


def training_facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return how a model was trained, under the names of TRAINING_FACTS and "Method".

    A value is None if the checkpoint does not state it.

    Example::

        {"Method": "cosmos", "Command": "cosmos-train ...", "Seed": 0, "FLOPs": None, ...}
    """
    facts = {"Method": checkpoint.method}
    for name, path in TRAINING_FACTS.items():
        # Follow the path: "config.optim.batch_size" is ["config"]["optim"]["batch_size"].
        value: Any = checkpoint.training or {}
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        facts[name] = value
    return facts


def facts_table(facts: Mapping[str, Any]) -> str:
    """Return facts as the rows of a Markdown table, whose header is empty.

    Facts that are None are left out. For example, {"Seed": 0} gives the row "| Seed | 0 |".
    """
    lines = ["| | |", "| --- | --- |"]
    for name, value in facts.items():
        if value is not None:
            cell = str(value).replace("|", r"\|")
            lines.append(f"| {name} | {cell} |")
    return "\n".join(lines)


def model_card(name: str, checkpoint: Checkpoint, config: dict[str, Any], weights: Weights) -> str:
    """Return the model card of an exported checkpoint, in the layout of the Hugging Face Hub.

    Args:
        name: The name of the exported folder.
        checkpoint: The content of the checkpoint.
        config: OpenCLIP's configuration of the model, with the key "text_cfg".
        weights: The model that OpenCLIP will load, "teacher" or "student".

    Returns:
        A text in Markdown, which begins with metadata in YAML.
    """
    metadata = ModelCardData(
        license="mit",
        library_name="open_clip",
        pipeline_tag="zero-shot-image-classification",
        tags=list(dict.fromkeys(["clip", checkpoint.method])),
    )
    model_names = " and ".join(f"the {name}" for name in sorted(checkpoint.weights))
    modules = ""
    if checkpoint.model_kind == "cosmos":
        modules = ", cross-attention modules included"
    template = Path(__file__).with_name("card.md").read_text("utf-8")
    return template.format(
        metadata=metadata.to_yaml(),
        name=name,
        method=checkpoint.method.upper(),
        tokenizer=_tokenizer_code(config),
        weights=weights,
        stored=model_names,
        modules=modules,
        facts=facts_table(training_facts(checkpoint)),
    )


def _tokenizer_code(config: Mapping[str, Any]) -> str:
    """Return Python code that creates the tokenizer of a model, for the model card.

    A vocabulary of another size than CLIP's belongs to the rendered scenes. OpenCLIP's
    configuration cannot name its tokenizer, so the code imports it from cosmos_core.

    Args:
        config: OpenCLIP's configuration of the model, with the key "text_cfg".
    """
    text_config = config["text_cfg"]
    clip_vocab_size = open_clip.CLIPTextCfg.vocab_size
    vocab_size = text_config.get("vocab_size", clip_vocab_size)
    if vocab_size == clip_vocab_size:
        return "tokenizer = open_clip.get_tokenizer(name)"
    length = text_config.get("context_length", open_clip.CLIPTextCfg.context_length)
    version = _SCENES_VERSIONS.get(vocab_size, "VERSION_1")
    return f"""# Not open_clip.get_tokenizer, whose vocabulary is another: this one has {vocab_size}
# tokens, and OpenCLIP's configuration cannot carry it. The scenes' comes with cosmos_core:
from cosmos_core.data.scenes import {version}
from cosmos_core.data.scenes.vocabulary import scenes_tokenizer

tokenizer = scenes_tokenizer({length}, {version})"""
