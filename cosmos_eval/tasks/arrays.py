"""The values that stored arrays may hold: declared beside each task's arrays, checked on reading.

Figures are computed only from samples that pass: every index lies within the axis it refers to, and
axes are short enough for the figures to be computed in memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cosmos_eval.types import Samples

MOST_ENTRIES = 1 << 21
"""The longest axis: a bootstrap has 200 weights of 8 bytes for each entry at a time."""
MOST_CELLS = 1 << 26
"""The largest array, also of those that figures need beside the stored ones."""
ROUNDING = 0.005
"""How far fractions and cosines may be out of bounds: features have a length of 1 +- 0.001."""

Kind = Literal["whole number", "number", "truth value", "text"]
_DTYPES = {"whole number": "iu", "number": "fiu", "truth value": "biu", "text": "U"}


@dataclass(frozen=True)
class SampleArray:
    """A stored array of a task and the values that it may hold.

    Axes with the same name are equally long in all arrays of a result.
    """

    name: str
    kind: Kind
    # Names or lengths of the axes; None: any length.
    axes: tuple[str | int | None, ...]
    least: float = -math.inf
    # A number, or the name of the axis whose length is the greatest value.
    most: float | str = math.inf
    # The name of the axis that the values are indices of.
    below: str = ""
    may_be_nan: bool = False
    optional: bool = False

    def require_shape(self, array: NDArray[Any], lengths: dict[str, int]) -> None:
        """Raise ValueError for an array with another data type, number of axes, or axis length.

        Args:
            array: The stored array.
            lengths: The lengths of axes, by their names, in the arrays that were checked before.
                The lengths of new axes are added to it.

        Example:
            If `labels` has the axes ("images",) and 50 entries, then "images" is 50 for all arrays
            that are checked afterwards.
        """
        has_valid_type = array.dtype.kind in _DTYPES[self.kind] and array.dtype != "uint64"
        if not has_valid_type:
            raise ValueError(f"`{self.name}` holds {array.dtype}, not {self.kind}s")
        if array.ndim != len(self.axes):
            raise ValueError(f"`{self.name}` has {array.ndim} axes, not {len(self.axes)}")
        is_too_large = array.size > MOST_CELLS or max(array.shape) > MOST_ENTRIES
        if is_too_large:
            shape = " x ".join(f"{length:,}" for length in array.shape)
            raise ValueError(f"`{self.name}` has {shape} values, more than can be read")
        for axis, length in zip(self.axes, array.shape, strict=True):
            if axis is None:  # any length
                continue
            if isinstance(axis, int):
                expected_length, noun = axis, "columns"
            else:
                # The length of this axis in earlier arrays; if it is new, its length here.
                expected_length, noun = lengths.setdefault(axis, length), axis
            if length != expected_length:
                raise ValueError(f"`{self.name}` has {length:,} {noun}, not {expected_length:,}")

    def require_bounds(self, array: NDArray[Any], lengths: Mapping[str, int]) -> None:
        """Raise ValueError for a value that the array may not hold.

        Numbers that are not whole may be out of bounds by a rounding error.

        Args:
            array: The stored array.
            lengths: The lengths of the axes of all arrays, by their names. They bound indices: an
                index of an image must be below the length of the axis "images".
        """
        import numpy as np

        if self.kind == "text" or not array.size:
            return
        least, most = self.least, self.most
        if self.below:
            most = lengths[self.below] - 1
        elif self.kind == "truth value":
            least, most = 0, 1
        elif isinstance(most, str):
            most = lengths[most]

        rounding = ROUNDING if self.kind == "number" else 0
        is_valid = (array >= least - rounding) & (array <= most + rounding)
        if self.may_be_nan:
            is_valid |= np.isnan(array)
        if not is_valid.all():
            bounds = f"{least:g} or more" if most == math.inf else f"{least:g} to {most:g}"
            value = array[~is_valid][0].item()
            raise ValueError(f"`{self.name}` holds {value}, and its values are {bounds}")


def require_valid(arrays: Sequence[SampleArray], samples: Samples) -> None:
    """Raise ValueError, with a message of one line, for samples that a task cannot have.

    Such samples lack an array, have an array of another shape, or hold an impossible value.

    Args:
        arrays: The arrays of the task, and the values that they may hold.
        samples: The stored arrays of a result, by name.
    """
    # Check all shapes first: a value may be limited by the length of another array.
    lengths: dict[str, int] = {}  # of the axes by their names
    for array in arrays:
        if array.name in samples:
            array.require_shape(samples[array.name], lengths)
        elif not array.optional:
            raise ValueError(f"there is no array `{array.name}`")
    for array in arrays:
        if array.name in samples:
            array.require_bounds(samples[array.name], lengths)
