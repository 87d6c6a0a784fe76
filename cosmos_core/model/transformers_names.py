"""Names of the tensors of CLIP in OpenCLIP (3.3) and in transformers (5), for ViT image towers."""

from collections.abc import Mapping, Sequence
from itertools import product

import torch
from torch import Tensor

Names = Mapping[str, Sequence[str]]

_NAMES = {  # OpenCLIP's -> transformers'; what ends with a mark has a weight and a bias
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
    """Map OpenCLIP's names of a ViT's tensors to transformers': three for q, k and v, else one."""
    names = dict(_NAMES)
    for (own, other), layers in zip(_TOWERS.items(), (vision_layers, text_layers), strict=True):
        for i, (part, parts) in product(range(layers), _BLOCK.items()):
            names[f"{own}.{i}.{part}"] = [f"{other}.{i}.{one}" for one in parts]
    return {
        f"{own}{kind}": [f"{other}{kind}" for other in others]
        for own, others in names.items()
        for kind in (("weight", "bias") if own[-1] in "._" else ("",))
    }


def to_transformers(state: Mapping[str, Tensor], names: Names) -> dict[str, Tensor]:
    """Return OpenCLIP's tensors under transformers' names, without those that have none."""
    renamed: dict[str, Tensor] = {}
    for own, others in names.items():
        tensor = state[own].T if own in _TRANSPOSED else state[own]
        parts = tensor.chunk(len(others)) if len(others) > 1 else [tensor]
        renamed |= {other: part.contiguous() for other, part in zip(others, parts, strict=True)}
    return renamed


def to_openclip(state: Mapping[str, Tensor], names: Names) -> dict[str, Tensor]:
    """Return transformers' tensors under OpenCLIP's names."""
    joined = {}
    for own, others in names.items():
        parts = [state[other] for other in others]
        tensor = torch.cat(parts) if len(parts) > 1 else parts[0]
        joined[own] = (tensor.T if own in _TRANSPOSED else tensor).contiguous()
    return joined
