"""Faults of the model itself, applied to its modules within a context."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from cosmos_eval.models.live import unchanged
from cosmos_eval.runner.diagnosis.faults import Fault, NotApplicableError


class QuickGelu(nn.Module):
    """x * sigmoid(1.702 x), OpenAI's approximation of GELU (Hendrycks and Gimpel 2016)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation of a tensor, in the same shape."""
        return x * torch.sigmoid(1.702 * x)


@dataclass(frozen=True, kw_only=True)
class ModuleFault(Fault, ABC):
    """A fault of the modules of the model, which concerns images and texts."""

    @abstractmethod
    def apply(self, modules: Sequence[nn.Module]) -> AbstractContextManager[None]:
        """Make the mistake within the context, and undo it. Raises NotApplicableError."""


@dataclass(frozen=True, kw_only=True)
class ActivationFault(ModuleFault):
    """QuickGELU and GELU are exchanged."""

    # Parts of the names of modules' classes, in small letters. For example, `quickgelu` is a part
    # of `QuickGELUActivation` of transformers.
    quick: ClassVar[str] = "quickgelu"
    gelu: ClassVar[str] = "gelu"

    @contextmanager
    def apply(self, modules: Sequence[nn.Module]) -> Iterator[None]:
        """Exchange the activations within the context. Raises NotApplicableError without any."""
        replaced: list[tuple[nn.Module, str, nn.Module]] = []
        for module in modules:
            for parent in module.modules():
                for name, child in parent.named_children():
                    if self.gelu in type(child).__name__.lower():
                        replaced.append((parent, name, child))
        if not replaced:
            raise NotApplicableError("it has no GELU")
        try:
            for parent, name, child in replaced:
                is_quick = self.quick in type(child).__name__.lower()
                setattr(parent, name, nn.GELU() if is_quick else QuickGelu())
            yield
        finally:
            for parent, name, child in replaced:
                setattr(parent, name, child)


@dataclass(frozen=True, kw_only=True)
class TrainingModeFault(ModuleFault):
    """The model is in training mode: dropout, and batch norms that use their own batch."""

    @contextmanager
    def apply(self, modules: Sequence[nn.Module]) -> Iterator[None]:
        """Put the modules into training mode within the context, with the random seed 0."""
        original_buffers = []
        for module in modules:
            for buffer in module.buffers():  # running means of batch norms change in this mode
                original_buffers.append((buffer, buffer.clone()))
        with unchanged(modules):
            torch.manual_seed(0)
            for module in modules:
                module.train()
            try:
                yield
            finally:
                for buffer, value in original_buffers:
                    buffer.copy_(value)


@dataclass(frozen=True, kw_only=True)
class LogitScaleFault(ModuleFault):
    """Another logit scale. It changes calibration only, and is listed for completeness."""

    @contextmanager
    def apply(self, modules: Sequence[nn.Module]) -> Iterator[None]:
        """Raise NotApplicableError, since the order of scores stays the same."""
        raise NotApplicableError("no metric here depends on it")
        yield


MODULE_FAULTS: tuple[ModuleFault, ...] = (
    ActivationFault(
        name="GELU / QuickGELU",
        wrong="the model has GELU instead of QuickGELU, or the reverse",
        check="use -quickgelu architectures for such weights only",
    ),
    TrainingModeFault(
        name="training mode",
        wrong="the model is in training mode, with dropout",
        check="call model.eval()",
    ),
    LogitScaleFault(
        name="logit scale",
        wrong="similarities are multiplied by another scale",
        check="compare the values of logit_scale, and whether it is exponentiated",
    ),
)
