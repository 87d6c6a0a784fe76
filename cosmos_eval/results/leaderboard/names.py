"""Long model names, shortened so that they stay apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

_LONGEST = 40
_CUT = "…/"


def shortened(names: Iterable[str], longest: int = _LONGEST) -> dict[str, str]:
    """What to show for every name: long paths lose their first folders, as many as may go.

    `cosmos:/data/runs/a/last.pt (bf16)` becomes `cosmos:…/a/last.pt (bf16)`. No two names become
    the same. A name without folders stays as it is.
    """
    ends = {name: _ends(name) for name in dict.fromkeys(names)}
    times = Counter(end for found in ends.values() for end in found)
    return {
        name: name if len(name) <= longest else next((e for e in found if times[e] == 1), name)
        for name, found in ends.items()
    }


def _ends(name: str) -> list[str]:
    """The kind of model and every end of its path, shortest first, as far as that is shorter."""
    kind, colon, path = name.partition(":")
    starts = [place + 1 for place, character in enumerate(path) if character == "/"]
    ends = (f"{kind}{colon}{_CUT}{path[start:]}" for start in reversed(starts))
    return [end for end in ends if len(end) < len(name)]
