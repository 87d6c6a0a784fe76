"""Self-attention of vision transformers: faster in half precision, and forms for dense features.

The attention of the last block decides how well patches keep to their own position:
vanilla   as trained
csa       SCLIP, arXiv:2312.01597      weights softmax(qq') + softmax(kk'), residual and MLP kept
maskclip  MaskCLIP, arXiv:2112.01071   every token attends to itself, residual and MLP kept
clearclip ClearCLIP, arXiv:2407.12442  weights softmax(qq'), neither residual nor MLP
naclip    NACLIP, arXiv:2404.08181     weights softmax(kk' + w), neither residual nor MLP
proxy     ProxyCLIP, arXiv:2408.04883  weights of another encoder's patches (`proxy_weights`),
                                       neither residual nor MLP
crossmodal: the values of COSMOS's cross-attention after the block as trained (models/cosmos.py).
All products of q and k are divided by sqrt(head width). q and k are those that the block
multiplies: after its norms and rotations (RoPE). The heads, the output projection and whatever the
block has between them are kept: norms, gates, scales of the heads and of the branch.

Shapes: B images, N tokens of which the first P are no patches, h x w patches, C tower width."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.functional import scaled_dot_product_attention as attend
from torch.overrides import TorchFunctionMode

from cosmos_eval.types import Attention

# NACLIP, arXiv:2404.08181, section 4: standard deviation of its Gaussian, in patches.
NACLIP_STD = 5.0
# ProxyCLIP, arXiv:2408.04883, supplement B, and proxyclip_segmentor.py: shift and scale.
PROXY_BETA, PROXY_GAMMA = 1.2, 3.0

Grid: TypeAlias = tuple[int, int]


class Mixing(TorchFunctionMode):
    """Replace the weights of `scaled_dot_product_attention` by those of `form`, in whatever runs in
    this context. `calls` counts how often: other attentions do not call it once per block."""

    def __init__(self, form: Attention, prefix: int, grid_hw: Grid) -> None:
        super().__init__()
        self._form, self._prefix, self._grid_hw = form, prefix, grid_hw
        self.calls = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is not attend:
            return func(*args, **(kwargs or {}))
        self.calls += 1
        q, k, v, *_ = args
        return self._mix(q, k, v, (kwargs or {}).get("scale"))

    def _mix(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        """Mix the values of every head, all (B, heads, N, C / heads)."""
        if self._form == "csa":  # unhalved, so that weights sum to 2, as SCLIP's code does
            return attend(q, q, v, scale=scale) + attend(k, k, v, scale=scale)
        if self._form == "maskclip":
            return v
        if self._form == "clearclip":
            return attend(q, q, v, scale=scale)
        near = neighbourhood(self._grid_hw, self._prefix, k)
        return attend(k, k, v, attn_mask=near, scale=scale)


def proxy_attention(attn: Any, x: Tensor, grid_hw: Grid, features: Tensor) -> Tensor:
    """Tokens of patches (B, hw, C) -> (B, h'w', C): values, brought to the grid of `features` (B,
    h', w', D) by bilinear interpolation, are mixed by its `proxy_weights`."""
    v = F.linear(x, attn.in_proj_weight, attn.in_proj_bias).chunk(3, dim=-1)[2]
    values = v.transpose(1, 2).unflatten(2, grid_hw)
    resized = F.interpolate(values, features.shape[1:3], mode="bilinear").flatten(2)
    return attn.out_proj(proxy_weights(features).to(resized.dtype) @ resized.transpose(1, 2))


def proxy_weights(features: Tensor) -> Tensor:
    """Patch features (B, h, w, D) -> weights (B, hw, hw): softmax(3 (S - 1.2 mean(S))) of their
    cosines S, mean over an image, over the entries that are not negative. A patch is always among
    its own, which changes rows alone that ProxyCLIP's code leaves without any (NaN)."""
    unit = F.normalize(features.flatten(1, 2).float(), dim=-1)
    with torch.autocast(unit.device.type, enabled=False):
        cosines = unit @ unit.mT
    shifted = PROXY_GAMMA * (cosines - PROXY_BETA * cosines.mean((1, 2), keepdim=True))
    own = torch.eye(shifted.shape[1], dtype=torch.bool, device=shifted.device)
    return shifted.masked_fill((shifted < 0) & ~own, -torch.inf).softmax(-1)


def neighbourhood(grid_hw: Grid, prefix: int, like: Tensor) -> Tensor:
    """NACLIP's additive term exp(-distance^2 / (2 * 5^2)), 0 for the prefix: (P + hw, P + hw)."""
    axes = (torch.arange(length, device=like.device) for length in grid_hw)
    patches = torch.cartesian_prod(*axes).float()
    distance_squared = (patches[:, None] - patches[None]).square().sum(-1)
    near = torch.exp(-distance_squared / (2 * NACLIP_STD**2))
    return F.pad(near, (prefix, 0, prefix, 0)).to(like.dtype)


def self_attention(attn: nn.MultiheadAttention, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Tokens (B, N, C) -> mixed tokens (B, N, C); `mask` (N, N) is added to the logits."""
    projected = F.linear(x, attn.in_proj_weight, attn.in_proj_bias)
    q, k, v = projected.unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    mixed = attend(q, k, v, attn_mask=None if mask is None else mask.to(q.dtype))
    return attn.out_proj(mixed.transpose(1, 2).flatten(2))


def project_in_one_piece(model: nn.Module) -> None:
    """Replace the self-attentions of a model, in place, for half precision. `nn.MultiheadAttention`
    projects a transposed view, for which PyTorch multiplies sample by sample and, in bf16 on a CPU,
    copies the weights for each: most of the time of a ViT-B/16. Names and hooks stay."""
    for module in model.modules():
        plain = type(module) is nn.MultiheadAttention and module.in_proj_bias is not None
        if plain and module.batch_first and module.bias_k is None and not module.add_zero_attn:
            module.__class__ = _SelfAttention


class _SelfAttention(nn.MultiheadAttention):
    """As its base without dropout, weights or padding mask; anything else goes to the base."""

    def forward(  # type: ignore[override]
        self, query: Tensor, key: Tensor, value: Tensor, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, N, C) -> mixed tokens (B, N, C); `attn_mask` (N, N) is added to the logits."""
        mask = options.pop("attn_mask", None)
        usual = {"need_weights": False, "is_causal": False}
        # A mask of its own for every sample and head (CoCa's texts) is the base's.
        shared_mask = mask is None or (mask.ndim == 2 and mask.is_floating_point())
        own = query is key is value and query.ndim == 3 and shared_mask
        if self.training or not own or {**usual, **options} != usual:
            return super().forward(query, key, value, attn_mask=mask, **options)
        return self_attention(self, query, mask), None
