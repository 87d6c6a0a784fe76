"""Model cards: what must be known of a set of weights, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import open_clip
from huggingface_hub import ModelCardData

from cosmos_core.model.checkpoint import Checkpoint, Weights

CARD_NAME = "README.md"
# Name of a fact, and its place in the metadata that cosmos-train writes.
TRAINING_FACTS = {
    "Command": "command",
    "Seed": "seed",
    "Commit": "commit",
    "Finished": "date",
    "Duration in seconds": "seconds",
    "Processes": "processes",
    "CPU threads": "threads",
    "Steps": "steps",
    "Batch size": "config.optim.batch_size",
    "Samples seen": "samples_seen",
    "Training data": "config.data.shards",
    "Precision": "config.compute.precision",
    "PyTorch": "torch",
}


def training_facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """How a model was trained, by name; None for what the checkpoint does not say."""
    training = checkpoint.training or {}
    facts = {name: _look_up(training, path) for name, path in TRAINING_FACTS.items()}
    return {"Method": checkpoint.method, **facts}


def _look_up(record: Any, path: str) -> Any:
    for key in path.split("."):
        record = record.get(key) if isinstance(record, Mapping) else None
    return record


def facts_table(facts: Mapping[str, Any]) -> str:
    """Facts as a Markdown table without a head; unknown ones, None, are left out."""
    cells = {
        name: str(value).replace("|", r"\|") for name, value in facts.items() if value is not None
    }
    return "\n".join(["| | |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in cells.items())])


def model_card(
    name: str, checkpoint: Checkpoint, config: Mapping[str, Any], weights: Weights
) -> str:
    """A card in the Hub's layout for a folder that `export` writes."""
    metadata = ModelCardData(
        license="mit",
        library_name="open_clip",
        pipeline_tag="zero-shot-image-classification",
        tags=["clip", checkpoint.method] if checkpoint.method != "clip" else ["clip"],
    )
    return f"""---
{metadata.to_yaml()}
---
# {name}

A CLIP model, trained by the method {checkpoint.method.upper()}. The front matter names the MIT
licence, that of the code: change it where the weights are under another.

## Use

```python
import open_clip

name = "local-dir:{name}"  # this folder; on the Hub "hf-hub:OWNER/{name}"
model, _, preprocess = open_clip.create_model_and_transforms(name)
{_tokenizer(config)}
```

OpenCLIP loads the {weights}. `cosmos.safetensors` holds {_whole(checkpoint)}:
`cosmos_core.load_model("cosmos.safetensors", weights="{weights}")`.

## Training

{facts_table(training_facts(checkpoint))}

## Results

None are recorded here. `cosmos-eval run --model cosmos:cosmos.safetensors` measures the model.
"""


def _tokenizer(config: Mapping[str, Any]) -> str:
    """How to get the tokenizer; OpenCLIP's configuration can name none but its own."""
    vocabulary = config["text_cfg"].get("vocab_size", open_clip.CLIPTextCfg.vocab_size)
    if vocabulary == open_clip.CLIPTextCfg.vocab_size:
        return "tokenizer = open_clip.get_tokenizer(name)"
    length = config["text_cfg"].get("context_length", open_clip.CLIPTextCfg.context_length)
    return f"""# Not open_clip.get_tokenizer, whose vocabulary is another: this one has {vocabulary}
# tokens, and OpenCLIP's configuration cannot carry it. The scenes' comes with cosmos_core:
from cosmos_core.data.scenes import scenes_tokenizer

tokenizer = scenes_tokenizer({length})"""


def _whole(checkpoint: Checkpoint) -> str:
    names = " and ".join(f"the {name}" for name in sorted(checkpoint.weights))
    parts = ", cross-attention modules included" if checkpoint.model_kind == "cosmos" else ""
    return names + parts
