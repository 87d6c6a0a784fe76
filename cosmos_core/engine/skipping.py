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

    def should_skip(self, values: Iterable[Tensor]) -> bool:
        """Return whether a step is skipped, and count it if it is.

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
        if is_finite:
            return False
        self.count += 1
        return True
