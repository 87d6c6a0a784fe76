"""Skip training steps whose loss or gradient is not finite."""

from collections.abc import Iterable

import torch
from torch import Tensor


class SkippedSteps:
    """Counts the skipped steps of a training, and decides whether another step is skipped.

    A skipped step changes neither the models nor the optimizer. Its samples are not used again.
    """

    def __init__(self, limit: int = 0) -> None:
        """Skip nothing yet.

        Args:
            limit: The number of steps of the whole training that may be skipped.
        """
        self.limit = limit
        self.count = 0
        # Buffers and their values before this step.
        self._remembered: list[tuple[Tensor, Tensor]] = []

    def remember(self, buffers: Iterable[Tensor]) -> None:
        """Copy buffers that a step may change, if steps may still be skipped.

        For example, SILC's loss moves a centre of the teacher.

        Args:
            buffers: The buffers, which get these values back if the step is skipped.
        """
        self._remembered = []
        if self.count < self.limit:
            self._remembered = [(buffer, buffer.clone()) for buffer in buffers]

    def should_skip(self, values: Iterable[Tensor]) -> bool:
        """Return whether a step is to be skipped.

        If steps may still be skipped, the process waits until the device has computed the values.

        Args:
            values: The loss terms and the gradient's norm, which are the same in all processes, as
                0-d tensors.

        Returns:
            True if a value is NaN or infinite and fewer steps than the limit were skipped so far.
        """
        if self.count >= self.limit:
            return False
        is_finite = torch.stack([value.detach().float() for value in values]).isfinite().all()
        return not is_finite

    def skip(self) -> None:
        """Count a skipped step, and give the buffers the values that were copied before it."""
        for buffer, value in self._remembered:
            buffer.copy_(value)
        self.count += 1
