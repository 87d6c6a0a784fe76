"""Convert state dicts of CLIP between the names of OpenCLIP (3.3) and of transformers (5).

The image tower must be a ViT.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

# The names in transformers of each tensor, by its name in OpenCLIP.
Names = Mapping[str, Sequence[str]]

# The names outside the transformer blocks. A name that ends with `.` or `_` is the prefix of the
# names of a weight and of a bias.
_NAMES = {
    "logit_scale": ["logit_scale"],
    "visual.class_embedding": ["vision_model.embeddings.class_embedding"],
    "visual.conv1.weight": ["vision_model.embeddings.patch_embedding.weight"],
    "visual.positional_embedding": ["vision_model.embeddings.position_embedding.weight"],
    "visual.ln_pre.": ["vision_model.pre_layrnorm."],
    "visual.ln_post.": ["vision_model.post_layernorm."],
    "visual.proj": ["visual_projection.weight"],
    "token_embedding.weight": ["text_model.embeddings.token_embedding.weight"],
    "positional_embedding": ["text_model.embeddings.position_embedding.weight"],
    "ln_final.": ["text_model.final_layer_norm."],
    "text_projection": ["text_projection.weight"],
}
# OpenCLIP's names of tensors that transformers stores transposed.
_TRANSPOSED = ("visual.proj", "text_projection")
# The prefixes of the blocks of the image and text towers.
_TOWERS = {
    "visual.transformer.resblocks": "vision_model.encoder.layers",
    "transformer.resblocks": "text_model.encoder.layers",
}
# The names in a block, without the prefix of the block.
_BLOCK = {
    "ln_1.": ["layer_norm1."],
    "attn.in_proj_": ["self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj."],
    "attn.out_proj.": ["self_attn.out_proj."],
    "ln_2.": ["layer_norm2."],
    "mlp.c_fc.": ["mlp.fc1."],
    "mlp.c_proj.": ["mlp.fc2."],
}


def tensor_names(vision_layers: int, text_layers: int) -> dict[str, list[str]]:
    """Return the names in transformers of each tensor of a CLIP model, by its name in OpenCLIP.

    Projections to queries, keys and values are one tensor in OpenCLIP and three in transformers, so
    they have three names.

    Args:
        vision_layers: The number of blocks of the image tower.
        text_layers: The number of blocks of the text tower.

    Example::

        {"visual.proj": ["visual_projection.weight"],
         "transformer.resblocks.0.attn.in_proj_bias": [
             "text_model.encoder.layers.0.self_attn.q_proj.bias",
             "text_model.encoder.layers.0.self_attn.k_proj.bias",
             "text_model.encoder.layers.0.self_attn.v_proj.bias"], ...}
    """
    # Add the names of a block for each layer of both towers.
    names_or_prefixes = dict(_NAMES)
    for (openclip_tower, transformers_tower), n_layers in zip(
        _TOWERS.items(), (vision_layers, text_layers), strict=True
    ):
        for layer in range(n_layers):
            for openclip_name, transformers_names in _BLOCK.items():
                # "ln_1." -> "transformer.resblocks.0.ln_1."
                full_openclip_name = f"{openclip_tower}.{layer}.{openclip_name}"
                full_transformers_names = [
                    f"{transformers_tower}.{layer}.{name}" for name in transformers_names
                ]
                names_or_prefixes[full_openclip_name] = full_transformers_names

    # Complete prefixes: "visual.ln_pre." -> "visual.ln_pre.weight" and "visual.ln_pre.bias".
    names = {}
    for openclip_name, transformers_names in names_or_prefixes.items():
        is_prefix = openclip_name[-1] in "._"
        endings = ("weight", "bias") if is_prefix else ("",)
        for ending in endings:
            names[openclip_name + ending] = [name + ending for name in transformers_names]
    return names


def to_transformers(state: Mapping[str, Tensor], names: Names) -> dict[str, Tensor]:
    """Convert a state dict of OpenCLIP to one of transformers.

    Projections to queries, keys and values are split into three tensors.

    Args:
        state: OpenCLIP's tensors by name.
        names: The result of `tensor_names`. Tensors that it does not name are left out.
    """
    renamed: dict[str, Tensor] = {}
    for openclip_name, transformers_names in names.items():
        tensor = state[openclip_name]
        if openclip_name in _TRANSPOSED:
            tensor = tensor.T
        if len(transformers_names) == 1:
            renamed[transformers_names[0]] = tensor.contiguous()
            continue
        chunks = tensor.chunk(len(transformers_names))
        for transformers_name, chunk in zip(transformers_names, chunks, strict=True):
            renamed[transformers_name] = chunk.contiguous()
    return renamed


def to_openclip(state: Mapping[str, Tensor], names: Names) -> dict[str, Tensor]:
    """Convert a state dict of transformers to one of OpenCLIP.

    Projections to queries, keys and values are concatenated to one tensor.

    Args:
        state: The tensors of transformers by name.
        names: The result of `tensor_names`. Tensors that it does not name are left out.
    """
    renamed = {}
    for openclip_name, transformers_names in names.items():
        tensors = [state[name] for name in transformers_names]
        tensor = torch.cat(tensors) if len(tensors) > 1 else tensors[0]
        if openclip_name in _TRANSPOSED:
            tensor = tensor.T
        renamed[openclip_name] = tensor.contiguous()
    return renamed
