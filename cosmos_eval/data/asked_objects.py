"""The objects that the items of a caption selection set ask about (docs/caption-selection.md).

An item may state which `object` of its image it asks about, by which `word` (kind, colour, place),
which `area` of the image that object covers, and which the largest one. The object is the dominant
one, a small one beside it, or a control: a small one without a dominant one beside it. Imports no
torch.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.types import UsageError

DOMINANT, SMALL, CONTROL = "dominant", "small", "control"
ROLES = (DOMINANT, SMALL, CONTROL)
OBJECT, WORD, AREA, DOMINANT_AREA = "object", "word", "area", "dominant_area"
FIELDS = (OBJECT, WORD, AREA, DOMINANT_AREA)


class AskedObject(NamedTuple):
    """The object of an image that an item asks about."""

    # One of ROLES; empty if the item does not say.
    role: str = ""
    # The kind of word that is asked for, such as `colour`; empty if the item does not say.
    word: str = ""
    # The fraction of the image that the object covers; NaN if unknown.
    area: float = math.nan
    # The fraction that the largest object of the image covers; NaN if unknown.
    dominant_area: float = math.nan


def states_objects(records: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether any record of a file states the object that it asks about.

    Otherwise, fields of these names hold something else, such as `"object": "dog"`. A role in other
    letters, such as "Small", counts, so that `read_asked_object` refuses it.
    """
    for record in records:
        if DOMINANT_AREA in record or str(record.get(OBJECT)).strip().lower() in ROLES:
            return True
    return False


def read_asked_object(record: Mapping[str, Any], location: str) -> AskedObject:
    """Return the object that a record asks about.

    Without `object`, the object is dominant if its area is equal to the area of the largest object,
    and else small.

    Args:
        record: The fields of the record. Missing and empty ones are unknown.
        location: The file and the line or number of the record, for error messages.

    Raises:
        UsageError: If a field has a wrong value, or if an area is above the area of the largest
            object.

    Example:
        `{"word": "kind", "area": 0.03, "dominant_area": 0.2}` gives `AskedObject("small", "kind",
        0.03, 0.2)`.
    """
    stated = {name: record[name] for name in FIELDS if record.get(name) not in (None, "")}
    word = stated.get(WORD, "")
    if not isinstance(word, str):
        raise UsageError(f"{location}: `{WORD}` must be text such as colour, not {word!r}")
    area = _read_fraction(stated, AREA, location)
    dominant_area = _read_fraction(stated, DOMINANT_AREA, location)
    if area > dominant_area:
        raise UsageError(
            f"{location}: `{AREA}` {area:g} is above `{DOMINANT_AREA}` {dominant_area:g}, the area "
            "of the largest object"
        )
    role = stated.get(OBJECT)
    if role is None:
        has_areas = not math.isnan(area) and not math.isnan(dominant_area)
        role = (DOMINANT if area == dominant_area else SMALL) if has_areas else ""
    elif role not in ROLES:
        roles = f"{DOMINANT}, {SMALL} or {CONTROL}"
        raise UsageError(f"{location}: `{OBJECT}` must be {roles}, not {role!r}")
    return AskedObject(role, word, area, dominant_area)


def _read_fraction(stated: Mapping[str, Any], name: str, location: str) -> float:
    """Return the fraction of the image in a field, or NaN if it is not stated.

    Raise UsageError unless it is a number from 0 to 1, or such a number as text.
    """
    if name not in stated:
        return math.nan
    value = stated[name]
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            fraction = float(value)
        except ValueError:
            fraction = math.nan
        if 0 <= fraction <= 1:
            return fraction
    raise UsageError(
        f"{location}: `{name}` must be a fraction of the image, from 0 to 1, not {value!r}"
    )


def make_arrays(objects: Sequence[AskedObject]) -> dict[str, NDArray[Any]]:
    """Return what N items state about their objects as arrays (N,), by the names in `FIELDS`.

    Return no arrays if no item states a role, and leave out words and areas that no item states.
    """
    roles, words, areas, dominant_areas = zip(*objects, strict=True)
    if not any(roles):
        return {}
    arrays: dict[str, NDArray[Any]] = {OBJECT: np.array(roles)}
    if any(words):
        arrays[WORD] = np.array(words)
    for name, values in ((AREA, areas), (DOMINANT_AREA, dominant_areas)):
        if not np.isnan(values).all():
            arrays[name] = np.array(values)
    return arrays
