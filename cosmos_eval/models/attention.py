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
    """A context in which `scaled_dot_product_attention` computes another form of attention.

    The attribute `n_calls` counts the calls of that function. If a block does not call it exactly
    once, its attention cannot be replaced by another form.

    Args:
        form: The form of attention: "csa", "maskclip", "clearclip" or "naclip".
        prefix: The number of tokens before the patches, such as 1 for a class token.
        grid_hw: (h, w), the height and width of the grid of patches.
    """

    def __init__(self, form: Attention, prefix: int, grid_hw: Grid) -> None:
        super().__init__()
        self._form = form
        self._prefix = prefix
        self._grid_hw = grid_hw
        self.n_calls = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of PyTorch, or compute this form of attention in its place.

        Only the arguments q, k, v (B, heads, N, C / heads) and `scale` of attention are used.
        The result has their shape.
        """
        keyword_args = kwargs or {}
        if func is not attend:
            return func(*args, **keyword_args)

        self.n_calls += 1
        q, k, v, *_ = args
        # Logits are multiplied by the scale. If it is None, they are divided by sqrt(head width).
        scale = keyword_args.get("scale")
        if self._form == "csa":  # weights sum to 2, as in SCLIP's code
            return attend(q, q, v, scale=scale) + attend(k, k, v, scale=scale)
        if self._form == "maskclip":
            return v
        if self._form == "clearclip":
            return attend(q, q, v, scale=scale)
        proximity = naclip_proximity(self._grid_hw, self._prefix, k)
        return attend(k, k, v, attn_mask=proximity, scale=scale)


def proxy_attention(
    attention: Any, patches: Tensor, grid_hw: Grid, guide_features: Tensor
) -> Tensor:
    """Return the patches (B, h' * w', C) after ProxyCLIP's attention.

    Its weights are the `proxy_weights` of another encoder's features of patches.

    Args:
        attention: The plain attention of a block, which projects values and outputs.
        patches: The input of the block's attention (B, h * w, C).
        grid_hw: (h, w), the height and width of the grid of `patches`.
        guide_features: The other encoder's features (B, h', w', D).
    """
    projected = F.linear(patches, attention.in_proj_weight, attention.in_proj_bias)
    _, _, values = projected.chunk(3, dim=-1)  # queries and keys are not used

    # Resize the values to the grid of the other encoder.
    value_grid = values.transpose(1, 2).unflatten(2, grid_hw)  # (B, C, h, w)
    resized_grid = F.interpolate(value_grid, guide_features.shape[1:3], mode="bilinear")
    resized_values = resized_grid.flatten(2).transpose(1, 2)  # (B, h' * w', C)

    weights = proxy_weights(guide_features).to(resized_values.dtype)
    return attention.out_proj(weights @ resized_values)


def proxy_weights(features: Tensor) -> Tensor:
    """Return ProxyCLIP's attention weights (B, hw, hw) from the features (B, h, w, D) of patches.

    The weights are softmax(3 * (S - 1.2 * mean(S))), where S are the cosines of all pairs of an
    image's patches. Negative logits get the weight 0, except that a patch always attends to itself.
    In ProxyCLIP's code, a row whose logits are all negative is NaN. All other rows are the same as
    in that code.
    """
    unit_features = F.normalize(features.flatten(1, 2).float(), dim=-1)  # (B, hw, D)
    with torch.autocast(unit_features.device.type, enabled=False):
        cosines = unit_features @ unit_features.mT  # (B, hw, hw)
    mean_cosine = cosines.mean((1, 2), keepdim=True)
    logits = PROXY_GAMMA * (cosines - PROXY_BETA * mean_cosine)

    is_same_patch = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
    is_ignored = (logits < 0) & ~is_same_patch
    return logits.masked_fill(is_ignored, -torch.inf).softmax(-1)


def naclip_proximity(grid_hw: Grid, prefix: int, like: Tensor) -> Tensor:
    """Return the matrix (P + h * w, P + h * w) that NACLIP adds to the logits of attention.

    For two patches, it is exp(-distance^2 / (2 * 5^2)), with the distance in patches. For all pairs
    with a token of the prefix, it is 0.

    Args:
        grid_hw: (h, w), the height and width of the grid of patches.
        prefix: P, the number of tokens before the patches.
        like: A tensor whose dtype and device the matrix gets.
    """
    rows = torch.arange(grid_hw[0], device=like.device)
    columns = torch.arange(grid_hw[1], device=like.device)
    positions = torch.cartesian_prod(rows, columns).float()  # (h * w, 2)
    distance_squared = (positions[:, None] - positions[None]).square().sum(-1)  # (h * w, h * w)
    proximity = torch.exp(-distance_squared / (2 * NACLIP_STD**2))

    # Put P columns of zeros on the left, and P rows of zeros on the top.
    return F.pad(proximity, (prefix, 0, prefix, 0)).to(like.dtype)


def is_plain_attention(module: Any) -> bool:
    """Return whether a module has the parts of plain self-attention and no others.

    `self_attention` computes its output. One matrix projects queries, keys and values, and another
    one projects the output. `nn.MultiheadAttention` is such a module, and so is the attention of
    OpenCLIP, unless they were made with options that add keys, norms or scales.
    """
    projection_names = ("in_proj_weight", "out_proj", "num_heads")
    if any(getattr(module, name, None) is None for name in projection_names):
        return False
    # Options of `nn.MultiheadAttention`, and of OpenCLIP's attention.
    adds_keys = getattr(module, "bias_k", None) is not None or bool(
        getattr(module, "add_zero_attn", False)
    )
    has_scale = any(
        getattr(module, name, None) is not None for name in ("logit_scale", "head_scale")
    )
    has_norm = any(
        not isinstance(getattr(module, name, None), nn.Identity | None)
        for name in ("ln_q", "ln_k", "ln_inner")
    )
    return not (adds_keys or has_scale or has_norm)


def self_attention(attention: Any, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the output (B, N, C) of a module's self-attention.

    Args:
        attention: A module of plain attention, whose projections and number of heads are used.
        tokens: Its input (B, N, C).
        mask: A matrix (N, N) that is added to the logits, or None.
    """
    projected = F.linear(tokens, attention.in_proj_weight, attention.in_proj_bias)
    heads = projected.unflatten(-1, (3, attention.num_heads, -1))  # (B, N, 3, heads, C / heads)
    q, k, v = heads.permute(2, 0, 3, 1, 4)  # each (B, heads, N, C / heads)
    if mask is not None:
        mask = mask.to(q.dtype)
    mixed_values = attend(q, k, v, attn_mask=mask)
    output: Tensor = attention.out_proj(mixed_values.transpose(1, 2).flatten(2))
    return output


def project_in_one_piece(model: nn.Module) -> None:
    """Make the self-attentions of a model faster in half precision, in place.

    `nn.MultiheadAttention` projects a transposed view of its input. For this, PyTorch multiplies
    sample by sample and, in bf16 on a CPU, copies the weights for each sample, which is most of the
    time of a ViT-B/16. The classes of these modules are replaced, and their names and hooks stay.

    OpenCLIP's own attention takes the place of `nn.MultiheadAttention` in OpenCLIP 4. It projects
    its input in one piece by itself if it is not given the same input as keys and values too.
    """
    for module in model.modules():
        if type(module) is nn.MultiheadAttention:
            # `self_attention` expects samples in the first dimension.
            if module.batch_first and is_plain_attention(module):
                module.__class__ = _SelfAttention
        elif getattr(module, "in_proj_weight", None) is not None:
            module.register_forward_pre_hook(_leave_out_equal_inputs, with_kwargs=True)


def _leave_out_equal_inputs(
    _module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Leave out the keys `k_x` and the values `v_x` of an attention if they are its input.

    A hook that runs before `forward`. The result holds the arguments of `forward`.
    """
    is_self_attention = options.get("k_x") is inputs[0] and options.get("v_x") is inputs[0]
    if is_self_attention:
        options = {name: value for name, value in options.items() if name not in ("k_x", "v_x")}
    return inputs, options


class _SelfAttention(nn.MultiheadAttention):
    """Runs `self_attention` in evaluation mode.

    The base class does everything else: training, cross-attention, padding masks, and the return of
    attention weights.
    """

    def forward(  # type: ignore[override]
        self, query: Tensor, key: Tensor, value: Tensor, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Return the output (B, N, C) of attention, and None or the weights of attention.

        `options` are as in `nn.MultiheadAttention`. `attn_mask` (N, N) among them is added to the
        logits. Inputs that `self_attention` does not know are left to the base class.
        """
        mask = options.pop("attn_mask", None)
        supported_options = {"need_weights": False, "is_causal": False}
        has_supported_options = (supported_options | options) == supported_options
        is_self_attention = query is key is value and query.ndim == 3
        # All samples and heads must share one mask. CoCa's texts have a mask for each of them.
        has_shared_mask = mask is None or (mask.ndim == 2 and mask.is_floating_point())
        is_supported = is_self_attention and has_shared_mask and has_supported_options
        if self.training or not is_supported:
            return super().forward(query, key, value, attn_mask=mask, **options)
        return self_attention(self, query, mask), None
