"""OpenCLIP's CLIP for views of several sizes and captions of several lengths, and heads on it."""

from collections.abc import Sequence
from typing import NamedTuple

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosmos_core.model.packed import pack, pack_blocks, run_blocks, supports_varlen

# The lengths of captions are rounded up to multiples of a step, and captions of the same length are
# encoded together. The step depends on the type of the device. A small step saves tokens. A large
# step saves calls of the attention, which cost much on a GPU and little on a CPU.
LENGTH_STEPS = {"cpu": 4}
OTHER_LENGTH_STEP = 16
# The name of a module that only the training uses. Checkpoints leave it out.
HEAD = "head"


class FeaturesAndTokens(NamedTuple):
    """The features of all images or captions of a batch, and the tokens of the first of them."""

    # The features of all M images or captions (M, D), not normalised.
    features: Tensor
    # The N tokens of each of the first `keep` images or captions (keep, N, width).
    tokens: Tensor


class MultiViewCLIP(open_clip.CLIP):
    """OpenCLIP's CLIP, for batches of images of several sizes and captions of several lengths.

    The keys of the state dict are OpenCLIP's. The image tower must be a ViT with a class token. The
    text tower must be causal, and must read the feature at the end-of-text token.

    Raises:
        ValueError: If the configuration names another kind of tower.
    """

    # The keys of the state dict that follow from the architecture. A method may add other keys.
    architecture_keys: frozenset[str]

    def __init__(self, *args: object, **kwargs: object) -> None:
        """Create a model with random weights; it has the arguments of `open_clip.CLIP`.

        Raises:
            ValueError: If the configuration names a tower of another kind.
        """
        super().__init__(*args, **kwargs)
        if not isinstance(self.visual, open_clip.transformer.VisionTransformer):
            raise ValueError("COSMOS needs a ViT image tower: the config names another kind")
        is_causal = self.attn_mask is not None
        reads_end_of_text = self.text_pool_type in ("argmax", "eos")
        if not is_causal or not reads_end_of_text:
            raise ValueError(
                "architecture: the text tower must be causal and read at the end of text"
            )
        # Let the blocks process concatenated sequences too.
        pack_blocks(self.visual.transformer)
        pack_blocks(self.transformer)

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        """Return the features (B, D) of images.

        Args:
            image: Pixels (B, 3, H, W).
            normalize: True if the features are L2-normalised.
        """
        features = self.image_tokens([image]).features
        return F.normalize(features, dim=-1) if normalize else features

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """Return the features (B, D) of texts.

        Args:
            text: Token ids (B, S), padded to S.
            normalize: True if the features are L2-normalised.
        """
        if text.is_cuda and not torch.is_grad_enabled():
            # `text_tokens` would copy the lengths of the captions to the host, and wait for the
            # GPU. It would save little time: an evaluation sorts its texts by length and cuts off
            # most of the padding before it calls this function.
            return super().encode_text(text, normalize)
        features = self.text_tokens(text).features
        return F.normalize(features, dim=-1) if normalize else features

    def encode_pairs(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Encode several views of each image, and several captions of each image.

        Args:
            images: Pixels (V, B, 3, H, W) of V views of each of B images.
            texts: Token ids (T, B, S) of T captions of each of B images.

        Returns:
            The L2-normalised features (V, B, D) of the views and (T, B, D) of the captions.
        """
        image_features = self.encode_image(images.flatten(0, 1), normalize=True)
        text_features = self.encode_text(texts.flatten(0, 1), normalize=True)
        image_features = image_features.unflatten(0, images.shape[:2])
        text_features = text_features.unflatten(0, texts.shape[:2])
        return image_features, text_features

    def image_tokens(self, batches: Sequence[Tensor], keep: int = 0) -> FeaturesAndTokens:
        """Encode batches of images of different sizes in one pass through the ViT.

        The tokens of all images are concatenated to one sequence without padding, and an image
        attends only to its own tokens. If the features are read from the class token, the last
        block computes only this token, except for the first `keep` images.

        Args:
            batches: Pixels (M_i, 3, H_i, W_i) of each batch. The images of a batch have one size.
            keep: The number of images of the first batch whose patch tokens are returned.

        Returns:
            The features (M, D) of the images of all batches, in order, and the patch tokens (keep,
            N, width) of the first images.
        """
        visual = self.visual

        # Embed the patches of each batch: (images, tokens of each image, width). The first `keep`
        # images become a batch of their own.
        first_batch, *other_batches = [self._embed_patches(images) for images in batches]
        embedded_batches = []
        for batch in (first_batch[:keep], first_batch[keep:], *other_batches):
            if len(batch) > 0:
                embedded_batches.append(batch)

        # Concatenate the tokens of all images, and list the number of tokens of each image.
        x = visual.ln_pre(torch.cat([batch.flatten(0, 1) for batch in embedded_batches]))
        lengths = torch.cat(
            [torch.full((batch.shape[0],), batch.shape[1]) for batch in embedded_batches]
        )
        longest = max(batch.shape[1] for batch in embedded_batches)
        uses_varlen = supports_varlen(visual.transformer, x)
        packing = pack(lengths, longest, x, causal=False, uses_varlen=uses_varlen)

        # The last block computes all tokens of some images, and only the class token of the others.
        complete_batches = embedded_batches[: self._count_complete(len(embedded_batches), keep)]
        n_complete_images = sum(len(batch) for batch in complete_batches)
        tokens_per_batch = [batch.shape[0] * batch.shape[1] for batch in complete_batches]

        # The class token is the first token of an image: its position is 0.
        n_other_images = len(lengths) - n_complete_images
        class_positions = torch.zeros(n_other_images, dtype=torch.long, device=x.device)
        complete_tokens, class_tokens = run_blocks(
            visual.transformer,
            x,
            packing,
            n_complete=n_complete_images,
            n_complete_tokens=sum(tokens_per_batch),
            positions_to_read=class_positions,
        )

        # Shape the tokens to batches (images, tokens of each image, width) again. The images of
        # which only the class token is left are the last batch, with one token each.
        output_batches = []
        for tokens, batch in zip(
            complete_tokens.split(tokens_per_batch), complete_batches, strict=True
        ):
            output_batches.append(tokens.view(batch.shape[0], batch.shape[1], -1))
        output_batches.append(class_tokens[:, None])

        # OpenCLIP's `_pool` returns the pooled token of each image, and its patch tokens.
        pooled_batches = [visual._pool(output_batch) for output_batch in output_batches]
        pooled = torch.cat([pooled_tokens for pooled_tokens, _ in pooled_batches])
        _, first_patch_tokens = pooled_batches[0]
        return FeaturesAndTokens(pooled @ visual.proj, first_patch_tokens[:keep])

    def _count_complete(self, n_batches: int, keep: int) -> int:
        """Return for how many batches, from the first one on, the last block computes all tokens.

        Args:
            n_batches: The number of all batches.
            keep: The number of images of the first batch whose patch tokens are needed.
        """
        reads_class_token = self.visual.attn_pool is None and self.visual.pool_type == "tok"
        if not reads_class_token:
            return n_batches
        return 1 if keep > 0 else 0

    def _embed_patches(self, images: Tensor) -> Tensor:
        """Return the input tokens (M, 1 + N, width) of the ViT for images (M, 3, H, W).

        They are the class token and the N embedded patches, plus position embeddings, which are
        resized to the number of patches along the height and the width.
        """
        visual = self.visual
        patch_maps = visual.conv1(images)  # (M, width, rows, columns)
        n_rows, n_columns = patch_maps.shape[2:]
        patches = patch_maps.flatten(2).transpose(1, 2)  # (M, N, width)
        class_token = visual.class_embedding.to(patches.dtype).expand(len(images), 1, -1)
        x = torch.cat([class_token, patches], dim=1)
        positions = resize_positional_embedding(visual.positional_embedding, (n_rows, n_columns))
        return visual.patch_dropout(x + positions.to(x.dtype))

    def text_tokens(self, texts: Tensor, keep: int = 0) -> FeaturesAndTokens:
        """Encode captions of different lengths in one pass through the text transformer.

        The attention is causal, so that tokens after the end-of-text token do not change the
        feature. They are cut off, except in the first `keep` captions. Then the captions are sorted
        by length, and their tokens are concatenated to one sequence without padding. The host
        reads the lengths: if `texts` are on a GPU, this waits for the GPU.

        Args:
            texts: Token ids (M, S) of the captions, padded to S, at most the context length.
            keep: The number of captions whose tokens are returned.

        Returns:
            The features (M, D) of all captions, in the order of `texts`, and the tokens (keep, S,
            width) of the first captions after `ln_final`, padding included.
        """
        context_length = texts.shape[1]
        device = self.positional_embedding.device

        # Find the end of text in each caption. Its id is the highest in CLIP's vocabulary, unless
        # the configuration names another id.
        if self.text_pool_type == "eos":
            end_positions = (texts == self.text_eos_id).int().argmax(dim=-1)
        else:
            end_positions = texts.argmax(dim=-1)

        # Cut the captions and sort them by length. `order` lists the indices of the captions in
        # their new order, and `lengths` the lengths in this order. `token_ids` and `positions` are
        # the tokens of all captions, and their positions in the captions.
        uses_varlen = supports_varlen(self.transformer, self.positional_embedding)
        length_step = 1 if uses_varlen else LENGTH_STEPS.get(device.type, OTHER_LENGTH_STEP)
        order, lengths, token_ids, positions = pack_texts(texts, end_positions, keep, length_step)
        packing = pack(
            lengths, context_length, self.positional_embedding, causal=True, uses_varlen=uses_varlen
        )

        # Embed the tokens.
        end_positions = end_positions.to(device, non_blocking=True)
        order = order.to(device, non_blocking=True)
        token_ids = token_ids.to(device, non_blocking=True)
        positions = positions.to(device, non_blocking=True)
        x = self.token_embedding(token_ids) + F.embedding(positions, self.positional_embedding)

        # Compute all tokens of the first captions, and the end-of-text token of the others.
        sorted_end_positions = end_positions[order[keep:]]
        complete_tokens, end_tokens = run_blocks(
            self.transformer,
            x,
            packing,
            n_complete=keep,
            n_complete_tokens=keep * context_length,
            positions_to_read=sorted_end_positions,
        )

        # Pick the end-of-text token of each of the first captions.
        width = complete_tokens.shape[-1]
        tokens = self.ln_final(complete_tokens).view(keep, context_length, width)
        first_end_tokens = tokens[torch.arange(keep, device=device), end_positions[:keep]]

        # Project the end-of-text tokens of all captions, in the order of `texts`. The inverse of
        # the permutation `order` restores it: [2, 0, 1] has the inverse [1, 2, 0].
        sorted_end_tokens = torch.cat([first_end_tokens, self.ln_final(end_tokens)])
        inverse_order = order.argsort()
        features = sorted_end_tokens[inverse_order] @ self.text_projection
        return FeaturesAndTokens(features, tokens)


def resize_positional_embedding(positional_embedding: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resize the position embeddings of a ViT to another number of patches.

    The embedding of the class token stays. The others are resized by bicubic interpolation without
    antialiasing. The scale factors are (rows + 0.1) / sqrt(N) for the height and (columns + 0.1) /
    sqrt(N) for the width. `F.interpolate` samples at places that follow from the factor and not
    from the size, so published features can only be reproduced with these factors
    (github.com/ExplainableML/cosmos, after DINO).

    Args:
        positional_embedding: The embeddings (1 + N, width) of the class token and of a square grid
            of N patches.
        grid: The new numbers of rows and columns of patches.

    Returns:
        The embeddings (1 + rows * columns, width). For example, `grid` (6, 6) resizes
        (1 + 14 * 14, width) to (1 + 6 * 6, width).
    """
    class_embedding, patch_embeddings = positional_embedding[:1], positional_embedding[1:]
    side = round(patch_embeddings.shape[0] ** 0.5)
    if grid == (side, side):
        return positional_embedding

    # Shape the embeddings to an image (1, width, side, side), in float32 at least.
    dtype = torch.promote_types(patch_embeddings.dtype, torch.float32)
    square = patch_embeddings.to(dtype).reshape(1, side, side, -1).permute(0, 3, 1, 2)

    rows, columns = grid
    scale_factor = ((rows + 0.1) / side, (columns + 0.1) / side)
    resized = F.interpolate(square, scale_factor=scale_factor, mode="bicubic")

    # (1, width, rows, columns) -> (rows * columns, width)
    resized = resized.permute(0, 2, 3, 1).reshape(rows * columns, -1)
    return torch.cat([class_embedding, resized.to(patch_embeddings.dtype)])


# This is a custom operator, because `torch.compile` cannot trace a tensor whose size depends on the
# values of another tensor.
@torch.library.custom_op("cosmos_core::pack_texts", mutates_args=())
def pack_texts(
    texts: Tensor, end_positions: Tensor, keep: int, length_step: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cut captions after their end of text, sort them by length, and concatenate them.

    The first `keep` captions stay in front, and are not cut. The length of another caption is its
    end position plus one, rounded up to a multiple of `length_step`, and at most S.

    Args:
        texts: Token ids (M, S), padded.
        end_positions: The position of the end-of-text token in each caption (M,).
        keep: The number of captions that are not cut.
        length_step: Lengths are multiples of this number.

    Returns:
        Four tensors:

        - the indices of the captions in their new order (M,)
        - the lengths of the captions in this order (M,), on the host
        - the token ids of all captions, concatenated in this order (T,)
        - the position of each of these tokens in its caption (T,)

    Example:
        `texts` [[1, 2, 9, 0], [1, 9, 0, 0]] with the end positions [2, 1], `keep` 0 and
        `length_step` 1 give the order [1, 0], the lengths [2, 3], the token ids [1, 9, 1, 2, 9] and
        the positions [0, 1, 0, 1, 2].
    """
    # Round the lengths up: with steps of 4, the end positions 2 and 4 give the lengths 4 and 8.
    context_length = texts.shape[1]
    n_steps = end_positions // length_step + 1
    lengths = (n_steps * length_step).clamp(max=context_length)

    # A length of 0 sorts the first captions to the front. Afterwards they get their real length.
    lengths[:keep] = 0
    order = lengths.argsort(stable=True)
    lengths = lengths[order]
    lengths[:keep] = context_length

    # Find the caption of each token, and the token's position in it. With the order [1, 0] and the
    # lengths [2, 3], the captions of the tokens are [1, 1, 0, 0, 0]. The tokens are numbered
    # [0, 1, 2, 3, 4], and the captions start at the tokens [0, 2], so that the positions are
    # [0 - 0, 1 - 0, 2 - 2, 3 - 2, 4 - 2] = [0, 1, 0, 1, 2].
    caption_indices = order.repeat_interleave(lengths)
    caption_starts = lengths.cumsum(0) - lengths
    token_numbers = torch.arange(len(caption_indices), device=caption_indices.device)
    positions = token_numbers - caption_starts.repeat_interleave(lengths)
    return order, lengths.cpu(), texts[caption_indices, positions], positions


@pack_texts.register_fake
def _(texts: Tensor, end_positions: Tensor, keep: int, length_step: int) -> tuple[Tensor, ...]:
    """Return empty tensors of the shapes that `pack_texts` returns.

    `torch.compile` calls this function instead of `pack_texts`, with the same arguments, to learn
    the shapes. The number of tokens is known only if no caption is cut. Otherwise it is a symbol
    for a number that is at least the number of tokens of the first `keep` captions.
    """
    n_complete_tokens = keep * texts.shape[1]
    n_tokens: int | torch.SymInt = n_complete_tokens
    cuts_captions = keep != len(texts)
    if cuts_captions:
        n_tokens = torch.library.get_ctx().new_dynamic_size(min=n_complete_tokens)
    order = end_positions.new_empty(len(texts))
    lengths = end_positions.new_empty(len(texts), device="cpu")
    token_ids = end_positions.new_empty(n_tokens)
    positions = end_positions.new_empty(n_tokens)
    return order, lengths, token_ids, positions


class ProjectionHead(nn.Sequential):
    """An MLP of three linear layers with GELU, which maps (..., embed_dim) to (..., out_dim).

    Unlike SLIP's head, it has no batch normalisation. Its outputs therefore do not change if a
    batch is split over several processes.
    """

    def __init__(self, embed_dim: int, hidden_dim: int, out_dim: int) -> None:
        """Create a head with random weights.

        Args:
            embed_dim: The width of the features that the head maps.
            hidden_dim: The width of both hidden layers.
            out_dim: The width of the outputs.
        """
        super().__init__(
            nn.Linear(embed_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, out_dim),
        )


class PrototypeHead(nn.Module):
    """DINO's head (arXiv 2104.14294), whose logits are cosines with K learned prototypes.

    An MLP maps a feature to a vector of `bottleneck_dim` values, which is compared with the
    prototypes.
    """

    # The running mean of the teacher's logits (K,).
    center: Tensor

    def __init__(
        self, embed_dim: int, hidden_dim: int, bottleneck_dim: int, n_prototypes: int
    ) -> None:
        """Create a head with random weights, and a mean of the teacher's logits that is zero.

        Args:
            embed_dim: The width of features, D.
            hidden_dim: The width of both hidden layers of the MLP.
            bottleneck_dim: The width of the vectors that are compared with the prototypes.
            n_prototypes: The number of prototypes, K.
        """
        super().__init__()
        self.mlp = ProjectionHead(embed_dim, hidden_dim, bottleneck_dim)
        self.prototypes = nn.Parameter(torch.randn(n_prototypes, bottleneck_dim))
        self.register_buffer("center", torch.zeros(n_prototypes))

    def forward(self, features: Tensor) -> Tensor:
        """Return the cosine similarities (..., K) of features (..., D) with the prototypes."""
        vectors = F.normalize(self.mlp(features), dim=-1)
        return vectors @ F.normalize(self.prototypes, dim=-1).T
