"""The records and protocols that the packages of cosmos_core share. Letters in shapes: V student
views, T caption views, L local views, B samples of this process, N samples of all processes, D
embedding width, S tokens of a caption, H W pixels of a global view, h w pixels of a local view."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn


class Views(NamedTuple):
    """The views of one batch. `global_images` (G, B, 3, H, W), `local_images` (L, B, 3, h, w),
    L >= 0, `texts` (T, B, S) padded with zeros. In COSMOS two images and two texts are global. In a
    training on a GPU `texts` stay on the host, and the model's `encode_text` and `text_tokens` take
    them from there."""

    global_images: Tensor
    local_images: Tensor
    texts: Tensor


class ViewCounts(NamedTuple):
    """Which views a method trains on: numbers of global views, and whether there are local ones."""

    global_images: int
    local_images: bool
    global_texts: int
    local_texts: bool


EVERY_VIEW = ViewCounts(global_images=2, local_images=True, global_texts=2, local_texts=True)
"""The views of COSMOS."""


class Features(NamedTuple):
    """L2-normalised features of a batch's views, and the scales, 0-d and already exponentiated.
    `image` (V, B, D) and `text` (T, B, D) have global views first. `image_crossmodal` and
    `text_crossmodal` have the same shapes, or are None for a teacher."""

    image: Tensor
    text: Tensor
    image_crossmodal: Tensor | None
    text_crossmodal: Tensor | None
    logit_scale: Tensor
    distill_logit_scale: Tensor | None


class LossTerms(dict[str, Tensor]):
    """The terms of a loss by name, 0-d tensors, in the order of the method's `terms`; their sum,
    `total`, is minimised. `LossTerms(clip=loss).clip` is the term `clip`."""

    @property
    def total(self) -> Tensor:
        return torch.stack([*self.values()]).sum()

    def __getattr__(self, name: str) -> Tensor:
        if name not in self:
            raise AttributeError(f"the loss has no term {name!r}, only {', '.join(self)}")
        return self[name]


class Gathered(NamedTuple):
    """Features of this process (V, B, D), and of all (V, N, D), where it has rows from `offset`;
    `gather`, without rounding, what a loss makes of them."""

    local: Tensor
    everywhere: Tensor
    offset: int
    gather: "Gather | None" = None


class Gather:
    """Gathers the features of all processes for a loss; here those of a single process."""

    def __call__(self, tensors: Sequence[Tensor]) -> list[Gathered]:
        """Gather features (V_i, B, D_i): one collective forward, and one backward for gradients."""
        return [Gathered(tensor, tensor, 0, self) for tensor in tensors]

    def mean(self, tensor: Tensor) -> Tensor:
        """Return the mean over processes, without gradient: one collective."""
        return tensor.detach()


class Method(Protocol):
    """How a model is trained, as a frozen dataclass whose fields are the method's options. Features
    are a NamedTuple of tensors with three dimensions (V, B, D), one row per sample, and of others,
    such as scales, that belong to the whole batch, or None."""

    @property
    def name(self) -> str:
        """The name of its file in `cosmos_core.methods`, chosen by `--set method=NAME`."""

    @property
    def counts(self) -> ViewCounts:
        """The views of each sample."""

    @property
    def terms(self) -> tuple[str, ...]:
        """The names of the loss terms, in the order in which they are logged and drawn."""

    def create_student(self, architecture: Any) -> nn.Module:
        """Create a model with random weights; freeze parameters that this method does not train.
        Parameters added to it are stored in checkpoints, but for those of the module `head`."""

    def student_features(self, student: Any, views: Views) -> Any:
        """Return the student's features for the loss."""

    def teacher_features(self, teacher: Any, views: Views) -> Any:
        """Return the teacher's features without gradient, None without a teacher."""

    def loss(self, student: Any, teacher: Any, gather: Gather) -> LossTerms:
        """Return the loss of this process's samples; its mean over processes is the batch's."""
