"""What the suite needs of a model. Anything with these methods can be measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from cosmos_eval.types import Attention, CaptionWord, EncoderInfo, Rgb, UsageError

if TYPE_CHECKING:
    import PIL.Image
    from torch import Tensor


@runtime_checkable
class Encoder(Protocol):
    """A CLIP-like model with its own transform and tokenizer, in evaluation mode, on its device."""

    info: EncoderInfo

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """Everything that decides what `transform` returns, in JSON's types.

        Equal in every process for equal transforms, different for different ones.
        """

    @property
    def tokenizer(self) -> Mapping[str, Any]:
        """Everything that decides what `tokenize` returns, as `preprocessing` does for images."""

    def transform(self, image: PIL.Image.Image) -> Tensor:
        """The model's own evaluation transform: an RGB image -> (3, H, W) float32 on the CPU."""

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Texts -> (B, context_length) int64 token ids, padded with 0 after the end of text."""

    def overlong(self, texts: Sequence[str]) -> Tensor:
        """(B,) bool: whether `tokenize` cuts a text because it does not fit the context."""

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D) float32 on the CPU, L2-normalised."""

    def encode_text(self, tokens: Tensor) -> Tensor:
        """(B, L) -> (B, D) float32 on the CPU, L2-normalised.

        L may be shorter than the context length where `trims_text` is true.
        """

    @property
    def trims_text(self) -> bool:
        """True where positions after the end of text cannot change the feature."""


@runtime_checkable
class DenseEncoder(Encoder, Protocol):
    """An encoder whose image tower is a ViT with patch tokens.

    `image_mean` and `image_std` are what its images are normalised by, RGB on the 0-1 scale.
    """

    patch_size: int
    image_mean: Rgb
    image_std: Rgb

    def encode_patches(self, images: Tensor, attention: Attention) -> Tensor:
        """(B, 3, H, W) -> (B, H // patch, W // patch, D) float32, L2-normalised, same device.

        `attention` chooses the form of the last block; raises UsageError where the tower has no
        patch tokens.
        """


@runtime_checkable
class CrossAttentionEncoder(DenseEncoder, Protocol):
    """An encoder in which each modality looks at the tokens of the other.

    Queries are features that are not normalised, float32 on the CPU. Weights are float32 on the
    CPU, and sum to 1 over the patches of an image and over the tokens of a text.
    """

    def words(self, text: str) -> Sequence[CaptionWord]:
        """The words of a text, with the places of their tokens; all of them, also where it is cut.

        They cover every token but the start and the end of text.
        """

    def image_queries(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D)."""

    def text_queries(self, tokens: Tensor) -> Tensor:
        """(T, L) -> (T, D); L may be shorter than the context where `trims_text` is true."""

    def patch_attention(self, images: Tensor, queries: Tensor) -> Tensor:
        """Images (B, 3, H, W), queries of texts (T, D) -> (B, heads, T, H // patch, W // patch)."""

    def token_attention(self, tokens: Tensor, queries: Tensor) -> Tensor:
        """Texts (T, L) of the whole context, queries of images (B, D) -> (T, heads, B, L).

        Padding is looked at as well, as in training.
        """


def require_finite(
    features: Tensor | NDArray[Any], info: EncoderInfo, name: Callable[[int], str]
) -> None:
    """Raise UsageError where features (N, ...) hold NaN or infinity.

    Rankings and label maps of such features look like poor results of a sound model. `name` gives
    the name of an input by its index; the error names the model and the first input concerned.
    """
    import torch

    finite = torch.isfinite(torch.as_tensor(features)).flatten(1).all(1)
    if finite.all():
        return
    first = int(finite.int().argmin())
    reason = "check its weights"
    if info.precision != "fp32":
        reason += f", or use --precision fp32, as values may exceed the range of {info.precision}"
    raise UsageError(
        f"{info.spec} returns features that are not finite (NaN or infinity) for {name(first)}: "
        f"{reason}"
    )
