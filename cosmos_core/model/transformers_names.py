"""Names of the tensors of CLIP in OpenCLIP (3.3) and in transformers (5), for ViT image towers."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Names = Mapping[str, Sequence[str]]

# OpenCLIP's name -> transformers' names. A name that ends with `.` or `_` is the prefix of a weight
# and of a bias.
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
_TOWERS = {
    "visual.transformer.resblocks": "vision_model.encoder.layers",
    "transformer.resblocks": "text_model.encoder.layers",
}
_BLOCK = {
    "ln_1.": ["layer_norm1."],
    "attn.in_proj_": ["self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj."],
    "attn.out_proj.": ["self_attn.out_proj."],
    "ln_2.": ["layer_norm2."],
    "mlp.c_fc.": ["mlp.fc1."],
    "mlp.c_proj.": ["mlp.fc2."],
}


def tensor_names(vision_layers: int, text_layers: int) -> dict[str, list[str]]:
    """Map OpenCLIP's name of each tensor to its names in transformers.

    Queries, keys and values are one tensor in OpenCLIP and three in transformers. All other tensors
    have one name.
    """
    names = dict(_NAMES)
    for (openclip_tower, transformers_tower), layers in zip(
        _TOWERS.items(), (vision_layers, text_layers), strict=True
    ):
        for layer in range(layers):
            for openclip_name, transformers_names in _BLOCK.items():
                names[f"{openclip_tower}.{layer}.{openclip_name}"] = [
                    f"{transformers_tower}.{layer}.{name}" for name in transformers_names
                ]
    full_names = {}
    for openclip_name, transformers_names in names.items():
        kinds = ("weight", "bias") if openclip_name[-1] in "._" else ("",)
        for kind in kinds:
            full_names[f"{openclip_name}{kind}"] = [f"{name}{kind}" for name in transformers_names]
    return full_names


def to_transformers(state: Mapping[str, Tensor], names: Names) -> dict[str, Tensor]:
    """Return OpenCLIP's tensors under transformers' names; leave out tensors without such a name.

    `names` is the result of `tensor_names`.
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
    """Return transformers' tensors under OpenCLIP's names. `names` is from `tensor_names`."""
    joined = {}
    for openclip_name, transformers_names in names.items():
        tensors = [state[name] for name in transformers_names]
        tensor = torch.cat(tensors) if len(tensors) > 1 else tensors[0]
        if openclip_name in _TRANSPOSED:
            tensor = tensor.T
        joined[openclip_name] = tensor.contiguous()
    return joined
