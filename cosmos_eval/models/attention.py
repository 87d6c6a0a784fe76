"""Self-attention of vision transformers: faster in half precision, and forms for dense features.

The attention of the last block decides how well the features of patches describe their own place:
vanilla   as trained
csa       SCLIP, arXiv:2312.01597      weights softmax(qq') + softmax(kk'), residual and MLP kept
maskclip  MaskCLIP, arXiv:2112.01071   every token attends to itself, residual and MLP kept
clearclip ClearCLIP, arXiv:2407.12442  weights softmax(qq'), neither residual nor MLP
naclip    NACLIP, arXiv:2404.08181     weights softmax(kk' + w), neither residual nor MLP
proxy     ProxyCLIP, arXiv:2408.04883  weights of another encoder's patches (`proxy_weights`),
                                       neither residual nor MLP
crossmodal: the values of COSMOS's cross-attention after the block as trained (models/cosmos.py).
All products of q and k are divided by sqrt(head width). q and k are taken after the norms and
rotations (RoPE) of the block. Everything after the weights stays as it is: the heads, their norms,
gates and scales, the output projection, and the scale of the branch.

Shapes: B images, N tokens of which the first P are not patches, h x w patches, C tower width."""

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
    """A context in which `scaled_dot_product_attention` mixes values by another form of attention.

    `prefix` is the number of tokens before the patches. `calls` counts the calls of the function.
    If one block does not call it exactly once, its attention cannot be replaced by another form.
    """

    def __init__(self, form: Attention, prefix: int, grid_hw: Grid) -> None:
        super().__init__()
        self._form = form
        self._prefix = prefix
        self._grid_hw = grid_hw
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
        """Return the mixed values of each head. All shapes are (B, heads, N, C / heads)."""
        if self._form == "csa":  # weights sum to 2, as in SCLIP's code
            return attend(q, q, v, scale=scale) + attend(k, k, v, scale=scale)
        if self._form == "maskclip":
            return v
        if self._form == "clearclip":
            return attend(q, q, v, scale=scale)
        proximity = neighbourhood(self._grid_hw, self._prefix, k)
        return attend(k, k, v, attn_mask=proximity, scale=scale)


def proxy_attention(attn: Any, x: Tensor, grid_hw: Grid, features: Tensor) -> Tensor:
    """Return the patches (B, h'w', C) that `attn` makes of patches x (B, hw, C), by other weights.

    The weights are the `proxy_weights` of features (B, h', w', D). The values are resized to the
    grid of the features by bilinear interpolation.
    """
    _, _, values = F.linear(x, attn.in_proj_weight, attn.in_proj_bias).chunk(3, dim=-1)
    value_grid = values.transpose(1, 2).unflatten(2, grid_hw)
    resized = F.interpolate(value_grid, features.shape[1:3], mode="bilinear").flatten(2)
    return attn.out_proj(proxy_weights(features).to(resized.dtype) @ resized.transpose(1, 2))


def proxy_weights(features: Tensor) -> Tensor:
    """Return attention weights (B, hw, hw) from the features (B, h, w, D) of patches.

    The weights are softmax(3 * (S - 1.2 * mean(S))), where S are the cosines of all pairs of an
    image's patches. Negative entries get the weight 0, except that a patch always attends to
    itself. In ProxyCLIP's code, a row whose entries are all negative is NaN. All other rows are the
    same as in that code.
    """
    unit = F.normalize(features.flatten(1, 2).float(), dim=-1)
    with torch.autocast(unit.device.type, enabled=False):
        cosines = unit @ unit.mT
    shifted = PROXY_GAMMA * (cosines - PROXY_BETA * cosines.mean((1, 2), keepdim=True))
    is_same_patch = torch.eye(shifted.shape[1], dtype=torch.bool, device=shifted.device)
    return shifted.masked_fill((shifted < 0) & ~is_same_patch, -torch.inf).softmax(-1)


def neighbourhood(grid_hw: Grid, prefix: int, like: Tensor) -> Tensor:
    """Return the term w (P + hw, P + hw) that NACLIP adds to the logits of attention.

    It is exp(-distance^2 / (2 * 5^2)) for two patches, and 0 for the P tokens of the prefix. It has
    the dtype and the device of `like`.
    """
    axes = (torch.arange(length, device=like.device) for length in grid_hw)
    patches = torch.cartesian_prod(*axes).float()
    distance_squared = (patches[:, None] - patches[None]).square().sum(-1)
    proximity = torch.exp(-distance_squared / (2 * NACLIP_STD**2))
    return F.pad(proximity, (prefix, 0, prefix, 0)).to(like.dtype)


def self_attention(attn: nn.MultiheadAttention, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the output (B, N, C) of self-attention for tokens (B, N, C).

    `mask` (N, N) is added to the logits.
    """
    projected = F.linear(x, attn.in_proj_weight, attn.in_proj_bias)
    q, k, v = projected.unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    mixed = attend(q, k, v, attn_mask=None if mask is None else mask.to(q.dtype))
    return attn.out_proj(mixed.transpose(1, 2).flatten(2))


def project_in_one_piece(model: nn.Module) -> None:
    """Make the self-attentions of a model faster in half precision, in place.

    `nn.MultiheadAttention` projects a transposed view. For this, PyTorch multiplies sample by
    sample and, in bf16 on a CPU, copies the weights for each sample, which is most of the time of a
    ViT-B/16. The names and hooks of modules stay.
    """
    for module in model.modules():
        if type(module) is nn.MultiheadAttention and _is_plain(module):
            module.__class__ = _SelfAttention


def _is_plain(attention: nn.MultiheadAttention) -> bool:
    """Return whether `self_attention` computes the same as this module."""
    return (
        attention.in_proj_bias is not None
        and attention.batch_first
        and attention.bias_k is None
        and not attention.add_zero_attn
    )


class _SelfAttention(nn.MultiheadAttention):
    """Runs `self_attention` in evaluation mode.

    The base class does everything else: training, cross-attention, padding masks, and the return of
    attention weights.
    """

    def forward(  # type: ignore[override]
        self, query: Tensor, key: Tensor, value: Tensor, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Return mixed tokens (B, N, C), and None; `attn_mask` (N, N) is added to the logits."""
        mask = options.pop("attn_mask", None)
        default_options = {"need_weights": False, "is_causal": False}
        has_default_options = (default_options | options) == default_options
        is_self_attention = query is key is value and query.ndim == 3
        # CoCa's texts have a mask for each sample and head instead.
        has_shared_mask = mask is None or (mask.ndim == 2 and mask.is_floating_point())
        if self.training or not (is_self_attention and has_shared_mask and has_default_options):
            return super().forward(query, key, value, attn_mask=mask, **options)
        return self_attention(self, query, mask), None
