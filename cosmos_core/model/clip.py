"""OpenCLIP's CLIP for views of several sizes and captions of several lengths, and heads on it."""

from collections.abc import Sequence
from typing import NamedTuple

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosmos_core.model.packed import attends_in_one_call, pack, pack_blocks, through_blocks

# Captions of about the same length are encoded together. A finer step saves tokens, a coarser one
# calls of the attention: those cost little on a CPU, and a launch of kernels each on a GPU.
LENGTH_STEPS = {"cpu": 4}
OTHER_LENGTH_STEP = 16
HEAD = "head"  # of a model, used in training alone: checkpoints leave it out


class Tokens(NamedTuple):
    """`features` (M, D), not normalised, and `tokens` (keep, N, width) of the first ones."""

    features: Tensor
    tokens: Tensor


class MultiViewCLIP(open_clip.CLIP):
    """OpenCLIP's CLIP, with its state-dict keys. The image tower must be a ViT with a class token,
    the text tower causal and read at the end of text. Raises ValueError for others. `own_keys` are
    those of its state dict before a method adds parameters."""

    own_keys: frozenset[str]

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        if not isinstance(self.visual, open_clip.transformer.VisionTransformer):
            raise ValueError("COSMOS needs a ViT image tower: the config names another kind")
        if self.attn_mask is None or self.text_pool_type not in ("argmax", "eos"):
            raise ValueError(
                "architecture: the text tower must be causal and read at the end of text"
            )
        pack_blocks(self.visual.transformer)
        pack_blocks(self.transformer)

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        """(B, 3, H, W) -> (B, D)."""
        features = self.image_tokens([image]).features
        return F.normalize(features, dim=-1) if normalize else features

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """(B, S) token ids -> (B, D)."""
        if text.is_cuda and not torch.is_grad_enabled():
            # The lengths of runs are read, for which a GPU would be waited for. An evaluation that
            # sorts and cuts its texts has little padding.
            return super().encode_text(text, normalize)
        features = self.text_tokens(text).features
        return F.normalize(features, dim=-1) if normalize else features

    def encode_pairs(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Views (V, B, 3, H, W) and captions (T, B, S) -> normalised (V, B, D) and (T, B, D)."""
        image = self.encode_image(images.flatten(0, 1), normalize=True)
        text = self.encode_text(texts.flatten(0, 1), normalize=True)
        return image.unflatten(0, images.shape[:2]), text.unflatten(0, texts.shape[:2])

    def image_tokens(self, batches: Sequence[Tensor], keep: int = 0) -> Tokens:
        """Encode images (M_i, 3, H_i, W_i) in order; return patch tokens of the first `keep`."""
        visual = self.visual
        first, *others = (self._embed(images) for images in batches)
        embedded = [x for x in (first[:keep], first[keep:], *others) if len(x)]
        runs = [x.shape[:2] for x in embedded]
        x = visual.ln_pre(torch.cat([x.flatten(0, 1) for x in embedded]))
        reads_class = visual.attn_pool is None and visual.pool_type == "tok"
        whole = runs[: min(keep, 1)] if reads_class else runs
        lengths = torch.cat([torch.full((count,), length) for count, length in runs])
        one_call = attends_in_one_call(visual.transformer, x)
        longest = max(length for _, length in runs)
        packing = pack(lengths, longest, x, causal=False, one_call=one_call)
        kept = sum(count for count, _ in whole)
        ends = torch.zeros(len(lengths) - kept, dtype=torch.long, device=x.device)
        sizes = [count * length for count, length in whole]
        x, at_ends = through_blocks(visual.transformer, x, packing, kept, sum(sizes), ends)
        views = [piece.view(*run, -1) for piece, run in zip(x.split(sizes), whole, strict=True)]
        pooled = [visual._pool(view) for view in (*views, at_ends[:, None])]
        features = torch.cat([feature for feature, _ in pooled])
        return Tokens(features @ visual.proj, pooled[0][1][:keep])

    def _embed(self, images: Tensor) -> Tensor:
        """(M, 3, H, W) -> class and patch tokens with their positions, (M, 1 + N, width)."""
        visual = self.visual
        patches = visual.conv1(images)
        grid = patches.shape[2], patches.shape[3]
        positions = resize_positional_embedding(visual.positional_embedding, grid)
        first = visual.class_embedding.to(patches.dtype).expand(len(images), 1, -1)
        x = torch.cat([first, patches.flatten(2).transpose(1, 2)], dim=1)
        return visual.patch_dropout(x + positions.to(x.dtype))

    def text_tokens(self, texts: Tensor, keep: int = 0) -> Tokens:
        """Encode captions (M, S), S up to the context length, in one pass, in their order. Each is
        cut near its end, after which nothing changes its feature; but the first `keep` keep all S
        positions, and their tokens, after `ln_final`, are returned. The host reads the lengths: of
        captions on the host without waiting for the model's device."""
        like, context = self.positional_embedding, texts.shape[1]
        # The id of the end of text is the highest, unless the config names it.
        is_end = (texts == self.text_eos_id).int() if self.text_pool_type == "eos" else texts
        ends = is_end.argmax(dim=-1)
        one_call = attends_in_one_call(self.transformer, like)
        step = 1 if one_call else LENGTH_STEPS.get(like.device.type, OTHER_LENGTH_STEP)
        order, lengths, tokens, positions = pack_texts(texts, ends, keep, step)
        packing = pack(lengths, context, like, causal=True, one_call=one_call)
        moved = (t.to(like.device, non_blocking=True) for t in (ends, order, tokens, positions))
        ends, order, tokens, positions = moved
        x = self.token_embedding(tokens) + F.embedding(positions, self.positional_embedding)
        others = ends[order[keep:]]
        x, at_ends = through_blocks(self.transformer, x, packing, keep, keep * context, others)
        tokens = self.ln_final(x).view(keep, context, x.shape[-1])
        first = tokens[torch.arange(keep, device=like.device), ends[:keep]]
        pooled = torch.cat([first, self.ln_final(at_ends)])[order.argsort()]
        return Tokens(pooled @ self.text_projection, tokens)


def resize_positional_embedding(positional_embedding: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resize position embeddings (1 + N, width) of a square grid to (1 + h*w, width). Bicubic
    without antialiasing, by a scale factor of (side + 0.1) / sqrt(N) per axis: the factor, not the
    size, fixes where samples are taken, so the published features need exactly this form
    (github.com/ExplainableML/cosmos, after DINO). The class token keeps its own embedding."""
    class_embedding, patches = positional_embedding[:1], positional_embedding[1:]
    side = round(patches.shape[0] ** 0.5)
    if grid == (side, side):
        return positional_embedding
    precise = patches.to(torch.promote_types(patches.dtype, torch.float32))
    square = precise.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    factor = ((grid[0] + 0.1) / side, (grid[1] + 0.1) / side)
    resized = F.interpolate(square, scale_factor=factor, mode="bicubic")
    resized = resized.permute(0, 2, 3, 1).reshape(grid[0] * grid[1], -1)
    return torch.cat([class_embedding, resized.to(patches.dtype)])


# An operator, since compiled code cannot have a size that depends on data.
@torch.library.custom_op("cosmos_core::pack_texts", mutates_args=())
def pack_texts(
    texts: Tensor, ends: Tensor, keep: int, step: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Concatenate captions (M, S) by length, rounded up to multiples of `step` so that few lengths
    differ. The first `keep` stay first, with S positions; `ends` (M,) are last positions of all.
    Return the order (M,), lengths (M,) on the host, and token ids and their positions (T,)."""
    lengths = ((ends // step + 1) * step).clamp(max=texts.shape[1])
    lengths[:keep] = 0
    order = lengths.argsort(stable=True)
    lengths = lengths[order]
    lengths[:keep] = texts.shape[1]
    rows = order.repeat_interleave(lengths)
    starts = (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
    positions = torch.arange(len(rows), device=rows.device) - starts
    return order, lengths.cpu(), texts[rows, positions], positions


@pack_texts.register_fake
def _(texts: Tensor, ends: Tensor, keep: int, step: int) -> tuple[Tensor, ...]:
    kept = keep * texts.shape[1]
    total = kept if keep == len(texts) else torch.library.get_ctx().new_dynamic_size(min=kept)
    order, tokens = ends.new_empty(len(texts)), ends.new_empty(total)
    return order, order.new_empty(len(texts), device="cpu"), tokens, tokens.new_empty(total)


class ProjectionHead(nn.Sequential):
    """Three linear layers, (..., embed_dim) -> (..., out). Unlike SLIP's, it has no batch
    normalisation: projections do not depend on how a batch is split."""

    def __init__(self, embed_dim: int, hidden: int, out: int) -> None:
        layers = nn.Linear(embed_dim, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU()
        super().__init__(*layers, nn.Linear(hidden, out))


class PrototypeHead(nn.Module):
    """DINO's head (arXiv 2104.14294): an MLP to a bottleneck of unit length, then K prototypes of
    unit length; `center` is the running mean of the logits."""

    center: Tensor

    def __init__(self, embed_dim: int, hidden: int, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        self.mlp = ProjectionHead(embed_dim, hidden, bottleneck)
        self.prototypes = nn.Parameter(torch.randn(prototypes, bottleneck))
        self.register_buffer("center", torch.zeros(prototypes))

    def forward(self, features: Tensor) -> Tensor:
        """(..., D) -> cosines with the prototypes (..., K)."""
        return F.normalize(self.mlp(features), dim=-1) @ F.normalize(self.prototypes, dim=-1).T
