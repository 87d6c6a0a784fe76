"""Records and protocols that the packages of cosmos_core share.

Letters in shapes: V student views, T caption views, G global and L local image views, B samples of
this process, N samples of all processes, D embedding width, S tokens of a caption, H W pixels of a
global view, h w pixels of a local view.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn


class Views(NamedTuple):
    """The views of one batch. In COSMOS two images and two texts are global.

    In a training on a GPU, `texts` stay on the host; `encode_text` and `text_tokens` of the model
    move them.
    """

    global_images: Tensor  # (G, B, 3, H, W)
    local_images: Tensor  # (L, B, 3, h, w), L >= 0
    texts: Tensor  # token ids (T, B, S), padded with zeros, globals first


class ViewCounts(NamedTuple):
    """The views that a method trains on: how many global ones, and whether there are local ones."""

    global_images: int
    local_images: bool
    global_texts: int
    local_texts: bool


EVERY_VIEW = ViewCounts(global_images=2, local_images=True, global_texts=2, local_texts=True)
"""The views of COSMOS."""


class Features(NamedTuple):
    """L2-normalised features of a batch's views, global views first, and scales.

    Scales are 0-d and already exponentiated.
    """

    image: Tensor  # (V, B, D)
    text: Tensor  # (T, B, D)
    image_crossmodal: Tensor | None  # (V, B, D); None for a teacher
    text_crossmodal: Tensor | None  # (T, B, D); None for a teacher
    logit_scale: Tensor
    distill_logit_scale: Tensor | None


class LossTerms(dict[str, Tensor]):
    """The terms of a loss by name, 0-d tensors, in the order of the method's `terms`.

    Their sum, `total`, is minimised. `LossTerms(clip=loss).clip` is the term `clip`.
    """

    @property
    def total(self) -> Tensor:
        """The sum of all terms, 0-d, which is minimised."""
        return torch.stack([*self.values()]).sum()

    def __getattr__(self, name: str) -> Tensor:
        """Return a term by its name. Python calls this for names that are not attributes."""
        if name not in self:
            raise AttributeError(f"the loss has no term {name!r}, only {', '.join(self)}")
        return self[name]


class Gathered(NamedTuple):
    """Features of this process, and of all processes."""

    local: Tensor  # (V, B, D)
    everywhere: Tensor  # (V, N, D)
    # The sample of `everywhere` at which the samples of this process begin.
    offset: int
    # Gathers tensors that a loss computes from the features, without rounding.
    gather: "Gather | None" = None


class Gather:
    """Gathers the features of all processes for a loss; this class is for a single process."""

    def __call__(self, tensors: Sequence[Tensor]) -> list[Gathered]:
        """Return the features of all processes, by one collective operation in forward.

        The gradients need one more collective operation in backward.

        Args:
            tensors: Features (V_i, B, D_i) of the B samples of this process, for example of images
                and of captions.

        Returns:
            The features of this process and of all processes, for each of the tensors.
        """
        return [Gathered(tensor, tensor, offset=0, gather=self) for tensor in tensors]

    def mean(self, tensor: Tensor) -> Tensor:
        """Return the mean of a tensor over processes, without gradient, by one collective."""
        return tensor.detach()


class Method(Protocol):
    """A training method: a frozen dataclass whose fields are the method's options.

    Features are a NamedTuple. Tensors with three dimensions (V, B, D) have one row per sample.
    Other tensors, such as scales, belong to the whole batch. A field may also be None.
    """

    @property
    def name(self) -> str:
        """The name of the method's file in `cosmos_core.methods`, for `--set method=NAME`."""

    @property
    def counts(self) -> ViewCounts:
        """The views of each sample."""

    @property
    def terms(self) -> tuple[str, ...]:
        """The names of the loss terms, in the order in which they are logged and drawn."""

    def create_student(self, architecture: Any) -> nn.Module:
        """Create a model with random weights; freeze parameters that this method does not train.

        Parameters that are added to the model are stored in checkpoints, except the module
        `head`.
        """

    def student_features(self, student: Any, views: Views) -> Any:
        """Return the student's features for the loss."""

    def teacher_features(self, teacher: Any, views: Views) -> Any:
        """Return the teacher's features without gradient; None if the loss needs no teacher."""

    def loss(self, student: Any, teacher: Any, gather: Gather) -> LossTerms:
        """Return the loss of this process's samples; its mean over processes is minimised.

        Args:
            student: The result of `student_features`.
            teacher: The result of `teacher_features`.
            gather: Collects the features of all processes.
        """
