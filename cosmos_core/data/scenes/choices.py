"""Two captions of a scene, a right one and a wrong one, that differ in one attribute.

Both are two sentences of captioner IB joined as in its long captions, the large thing first, and
name colours that the kinds come in, so that models trained on scenes know texts like either. The
wrong one swaps the attribute between the two things, which leaves both captions the same words;
where no two things of a scene can swap it to something false, it replaces it in one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from .captions import PLACE_PHRASES
from .classes import COLOURS, PALETTE, SIDE, THINGS
from .compose import LARGE, SMALL, Thing, place_of

ATTRIBUTES = ("colour", "place", "kind", "size")

# Pixels that a thing's centre must lie outside of a place for that place to be clearly wrong.
_CLEAR = 8.0
# Place -> its column and row of thirds.
_THIRDS = {
    place_of((x * SIDE // 3, y * SIDE // 3, (x + 1) * SIDE // 3, (y + 1) * SIDE // 3)): (x, y)
    for x in range(3)
    for y in range(3)
}
_VALUES = {
    "colour": tuple(PALETTE),
    "place": tuple(PLACE_PHRASES),
    "kind": THINGS,
    "size": (LARGE, SMALL),
}


class Claim(NamedTuple):
    """What one sentence says: there is such a thing."""

    size: str
    colour: str
    kind: str
    place: str

    @property
    def sentence(self) -> str:
        """As captioner IB puts it."""
        return f"a {self.size} {self.colour} {self.kind} {PLACE_PHRASES[self.place]}"


class Choice(NamedTuple):
    """The right caption and the wrong one."""

    caption: str
    negative: str


_Pair = tuple[Claim, Claim]


def choose(rng: np.random.Generator, things: Sequence[Thing], attribute: str) -> Choice:
    """Draw two captions that differ in one of ATTRIBUTES, out of all that are equally good.

    `things` has the dominant one first and at least two small ones.
    """
    pairs = [(_claim(a), _claim(b)) for a, b in combinations(things, 2)]
    options = [*_swapped(pairs, things, attribute)] or [*_replaced(pairs, things, attribute)]
    right, wrong = options[int(rng.integers(len(options)))]
    return Choice(_caption(right), _caption(wrong))


def _claim(thing: Thing) -> Claim:
    return Claim(thing.size, thing.colour, thing.kind, thing.place)


def _swapped(
    pairs: Sequence[_Pair], things: Sequence[Thing], attribute: str
) -> Iterator[tuple[_Pair, _Pair]]:
    """Every pair whose claims are both wrong once their attributes are swapped, and so swapped."""
    for a, b in pairs:
        values = getattr(a, attribute), getattr(b, attribute)
        swapped = _with(a, attribute, values[1]), _with(b, attribute, values[0])
        if all(_is_wrong(claim, things) for claim in swapped):
            yield (a, b), swapped


def _replaced(
    pairs: Sequence[_Pair], things: Sequence[Thing], attribute: str
) -> Iterator[tuple[_Pair, _Pair]]:
    """Every pair, with every value of its second claim's attribute that makes that claim wrong."""
    for a, b in pairs:
        for value in _VALUES[attribute]:
            claim = _with(b, attribute, value)
            if _is_wrong(claim, things):
                yield (a, b), (a, claim)


def _with(claim: Claim, attribute: str, value: str) -> Claim:
    return claim._replace(**{attribute: value})


def _is_wrong(claim: Claim, things: Sequence[Thing]) -> bool:
    """Whether a claim could be made of some scene and is clearly false of this one."""
    alike = [thing for thing in things if _claim(thing)[:3] == claim[:3]]
    return claim.colour in COLOURS[claim.kind] and all(
        _outside(thing, claim.place) >= _CLEAR for thing in alike
    )


def _outside(thing: Thing, place: str) -> float:
    """Pixels along the farther axis from a thing's centre to the third of the image of a place."""
    column, row = _THIRDS[place]
    x0, y0, x1, y1 = thing.box
    x, y = 1.5 * (x0 + x1) / SIDE, 1.5 * (y0 + y1) / SIDE
    return max(column - x, x - column - 1, row - y, y - row - 1, 0.0) * SIDE / 3


def _caption(pair: _Pair) -> str:
    """Joined as long captions are, which begin with the large thing."""
    return ". ".join(
        claim.sentence for claim in sorted(pair, key=lambda claim: claim.size != LARGE)
    )
