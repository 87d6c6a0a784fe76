"""OpenCLIP's CLIP for views of several sizes and captions of several lengths, and heads on it."""

from collections.abc import Sequence
from typing import NamedTuple

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosmos_core.model.packed import attends_in_one_call, pack, pack_blocks, through_blocks

# Lengths of captions are rounded up to multiples of a step, by type of device, and captions of the
# same length are encoded together. A small step saves tokens. A large step saves calls of the
# attention, each of which launches kernels on a GPU, and costs little on a CPU.
LENGTH_STEPS = {"cpu": 4}
OTHER_LENGTH_STEP = 16
HEAD = "head"  # the name of a module that is used only in training: checkpoints leave it out


class Tokens(NamedTuple):
    """Features of images or texts, and the tokens of the first of them."""

    # The features of all M images or texts (M, D), not normalised.
    features: Tensor
    # The N tokens of each of the first `keep` images or texts (keep, N, width).
    tokens: Tensor


class MultiViewCLIP(open_clip.CLIP):
    """OpenCLIP's CLIP, with its state-dict keys, for images and captions of several sizes.

    The image tower must be a ViT with a class token, and the text tower must be causal and read at
    the end of text. Raises ValueError for other towers.
    """

    # Keys of the state dict before a method adds parameters.
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
        """Return the features (B, D) of images (B, 3, H, W)."""
        features = self.image_tokens([image]).features
        return F.normalize(features, dim=-1) if normalize else features

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """Return the features (B, D) of token ids (B, S)."""
        if text.is_cuda and not torch.is_grad_enabled():
            # `text_tokens` reads the lengths of captions on the host, and would wait for the GPU.
            # It would gain little: an evaluation sorts and cuts its texts, so has little padding.
            return super().encode_text(text, normalize)
        features = self.text_tokens(text).features
        return F.normalize(features, dim=-1) if normalize else features

    def encode_pairs(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Return normalised features (V, B, D) of views and (T, B, D) of captions.

        The views `images` are (V, B, 3, H, W), the captions `texts` are token ids (T, B, S).
        """
        image_features = self.encode_image(images.flatten(0, 1), normalize=True)
        text_features = self.encode_text(texts.flatten(0, 1), normalize=True)
        image_features = image_features.unflatten(0, images.shape[:2])
        text_features = text_features.unflatten(0, texts.shape[:2])
        return image_features, text_features

    def image_tokens(self, batches: Sequence[Tensor], keep: int = 0) -> Tokens:
        """Encode batches of images (M_i, 3, H_i, W_i), which may differ in size, in one pass.

        Return the features of all images, in order, and the patch tokens of the first `keep`
        images of the first batch. A tower that reads only the class token computes only that token
        of all other images in its last block.
        """
        visual = self.visual
        embedded_batches = self._embed_batches(batches, keep)
        batch_shapes = [tokens.shape[:2] for tokens in embedded_batches]  # (images, tokens of each)
        x = visual.ln_pre(torch.cat([tokens.flatten(0, 1) for tokens in embedded_batches]))
        lengths = torch.cat([torch.full((n_images,), length) for n_images, length in batch_shapes])
        longest = max(length for _, length in batch_shapes)
        one_call = attends_in_one_call(visual.transformer, x)
        packing = pack(lengths, longest, x, causal=False, one_call=one_call)

        # The first batches, of which the last block must compute every token.
        reads_class_token = visual.attn_pool is None and visual.pool_type == "tok"
        if not reads_class_token:
            complete_shapes = batch_shapes
        elif keep:
            complete_shapes = batch_shapes[:1]
        else:
            complete_shapes = []
        n_complete_images = sum(n_images for n_images, _ in complete_shapes)
        tokens_per_batch = [n_images * length for n_images, length in complete_shapes]
        # The class token is the first one of every other image.
        class_positions = torch.zeros(
            len(lengths) - n_complete_images, dtype=torch.long, device=x.device
        )
        complete_tokens, class_tokens = through_blocks(
            visual.transformer,
            x,
            packing,
            n_complete_images,
            sum(tokens_per_batch),
            class_positions,
        )

        # Tensors (images, tokens of each, width); of the other images only the class token.
        output_batches = []
        for tokens, shape in zip(
            complete_tokens.split(tokens_per_batch), complete_shapes, strict=True
        ):
            output_batches.append(tokens.view(*shape, -1))
        output_batches.append(class_tokens[:, None])
        features, patch_tokens = [], []
        for output_batch in output_batches:
            batch_features, batch_patch_tokens = visual._pool(output_batch)
            features.append(batch_features)
            patch_tokens.append(batch_patch_tokens)
        return Tokens(torch.cat(features) @ visual.proj, patch_tokens[0][:keep])

    def _embed_batches(self, batches: Sequence[Tensor], keep: int) -> list[Tensor]:
        """Return the embedded tokens of batches of images, without empty batches.

        The first batch is split in two: its first `keep` images, and its other images.
        """
        first_batch, *other_batches = [self._embed(images) for images in batches]
        embedded_batches = [first_batch[:keep], first_batch[keep:], *other_batches]
        return [tokens for tokens in embedded_batches if len(tokens) > 0]

    def _embed(self, images: Tensor) -> Tensor:
        """Return the embedded tokens (M, 1 + N, width) of images (M, 3, H, W).

        These are the class token and N patch tokens, to which position embeddings are added.
        """
        visual = self.visual
        patches = visual.conv1(images)
        grid = patches.shape[2], patches.shape[3]
        positions = resize_positional_embedding(visual.positional_embedding, grid)
        class_token = visual.class_embedding.to(patches.dtype).expand(len(images), 1, -1)
        x = torch.cat([class_token, patches.flatten(2).transpose(1, 2)], dim=1)
        return visual.patch_dropout(x + positions.to(x.dtype))

    def text_tokens(self, texts: Tensor, keep: int = 0) -> Tokens:
        """Encode captions (M, S), S up to the context length, in one pass, in their order.

        A caption is cut near its end, since later positions do not change its feature. The first
        `keep` captions are not cut: their tokens at all S positions, after `ln_final`, are
        returned. The host reads the lengths; for captions on the host it does not wait for the
        model's device.
        """
        weight, context = self.positional_embedding, texts.shape[1]
        device = weight.device
        # The id of the end of text is the highest, unless the configuration names it.
        if self.text_pool_type == "eos":
            ends = (texts == self.text_eos_id).int().argmax(dim=-1)
        else:
            ends = texts.argmax(dim=-1)
        one_call = attends_in_one_call(self.transformer, weight)
        step = 1 if one_call else LENGTH_STEPS.get(device.type, OTHER_LENGTH_STEP)
        order, lengths, token_ids, positions = pack_texts(texts, ends, keep, step)
        packing = pack(lengths, context, weight, causal=True, one_call=one_call)

        ends = ends.to(device, non_blocking=True)
        order = order.to(device, non_blocking=True)
        token_ids = token_ids.to(device, non_blocking=True)
        positions = positions.to(device, non_blocking=True)
        x = self.token_embedding(token_ids) + F.embedding(positions, weight)
        complete_tokens, end_tokens = through_blocks(
            self.transformer, x, packing, keep, keep * context, ends[order[keep:]]
        )

        tokens = self.ln_final(complete_tokens).view(keep, context, complete_tokens.shape[-1])
        first_ends = tokens[torch.arange(keep, device=device), ends[:keep]]
        pooled = torch.cat([first_ends, self.ln_final(end_tokens)])
        return Tokens(pooled[order.argsort()] @ self.text_projection, tokens)


def resize_positional_embedding(positional_embedding: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resize position embeddings (1 + N, width) of a square grid to (1 + h*w, width) of `grid`.

    The class token keeps its embedding. Those of patches are resized by bicubic interpolation
    without antialiasing, with a scale factor of (side + 0.1) / sqrt(N) per axis. The factor, and
    not the size, decides where samples are taken, so the published features need exactly this form
    (github.com/ExplainableML/cosmos, after DINO).
    """
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
    """Sort captions (M, S) by length, cut them to their lengths, and concatenate them.

    The length of a caption is its last position, from `ends` (M,), plus one, rounded up to a
    multiple of `step`. The first `keep` captions stay first, and keep all S positions. Return the
    order (M,), the lengths (M,) on the host, and the token ids and their positions (T,).
    """
    context_length = texts.shape[1]
    lengths = ((ends // step + 1) * step).clamp(max=context_length)
    # With a length of 0 the first captions are sorted to the front.
    lengths[:keep] = 0
    order = lengths.argsort(stable=True)
    lengths = lengths[order]
    lengths[:keep] = context_length
    # The row and the position in `texts` of each token: for lengths 2 and 3 of the rows 5 and 1,
    # the rows are 5 5 1 1 1 and the positions 0 1 0 1 2.
    rows = order.repeat_interleave(lengths)
    first_tokens = lengths.cumsum(0) - lengths
    positions = torch.arange(len(rows), device=rows.device)
    positions = positions - first_tokens.repeat_interleave(lengths)
    return order, lengths.cpu(), texts[rows, positions], positions


@pack_texts.register_fake
def _(texts: Tensor, ends: Tensor, keep: int, step: int) -> tuple[Tensor, ...]:
    """Return empty tensors of the shapes that `pack_texts` returns, for the compiler."""
    complete_tokens = keep * texts.shape[1]
    total_tokens: int | torch.SymInt = complete_tokens
    if keep != len(texts):
        total_tokens = torch.library.get_ctx().new_dynamic_size(min=complete_tokens)
    order = ends.new_empty(len(texts))
    lengths = ends.new_empty(len(texts), device="cpu")
    token_ids = ends.new_empty(total_tokens)
    positions = ends.new_empty(total_tokens)
    return order, lengths, token_ids, positions


class ProjectionHead(nn.Sequential):
    """Three linear layers with GELU, (..., embed_dim) -> (..., out).

    Unlike SLIP's head, it has no batch normalisation, so that projections do not depend on how a
    batch is split.
    """

    def __init__(self, embed_dim: int, hidden: int, out: int) -> None:
        super().__init__(
            nn.Linear(embed_dim, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, out),
        )


class PrototypeHead(nn.Module):
    """DINO's head (arXiv 2104.14294): an MLP to a bottleneck, then cosines with K prototypes."""

    center: Tensor  # (K,), the running mean of the teacher's logits

    def __init__(self, embed_dim: int, hidden: int, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        self.mlp = ProjectionHead(embed_dim, hidden, bottleneck)
        self.prototypes = nn.Parameter(torch.randn(prototypes, bottleneck))
        self.register_buffer("center", torch.zeros(prototypes))

    def forward(self, features: Tensor) -> Tensor:
        """Return the cosines (..., K) of features (..., D) with the prototypes."""
        bottleneck = F.normalize(self.mlp(features), dim=-1)
        return bottleneck @ F.normalize(self.prototypes, dim=-1).T
