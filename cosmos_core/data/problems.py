"""Samples that cannot be read: their kinds, their count, and when there are too many."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import NamedTuple

KINDS = (
    "image_missing",
    "image_broken",
    "image_too_large",  # more pixels than Pillow takes for safe (PIL.Image.MAX_IMAGE_PIXELS)
    "record_missing",
    "record_broken",  # not a JSON object
    "captions_missing",
    "captions_wrong",  # not text
    "truncated",  # the tar ends before the sample does
    "unreadable",  # the system failed to open or to read a shard
)
LOGGED = 3  # of each kind; after that only every time their number has doubled
_READ = "read"

_log = logging.getLogger(__name__)


class Problem(NamedTuple):
    """A sample that could not be read: one of `KINDS`, its key, and where and why, in one line."""

    kind: str
    key: str
    detail: str


class BadSampleError(ValueError):
    """Raised where a sample cannot be read; `kind` is one of `KINDS`."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind

    def problem(self, shard: str, key: str) -> Problem:
        """What is to be reported of it, printable whatever a name in a tar holds."""
        line = " ".join(f"{shard}: {self}".split())
        return Problem(self.kind, _printable(key), _printable(line))


class UnreadableDataError(ValueError):
    """Too many samples cannot be read for training to go on."""


class ProblemCounter:
    """Counts bad samples by kind, logs some of them, and stops a run that has too many.

    `limit` is the largest share of all samples that may be bad, once `minimum` have been seen.
    In a run of several processes each counts its own: samples are dealt to them at random, so a
    share is about the same everywhere. Or all count all: `add` takes the problems of everyone.
    """

    def __init__(self, limit: float, *, minimum: int = 200) -> None:
        self._limit, self._minimum = limit, minimum
        self._read = 0
        self._counts = dict.fromkeys(KINDS, 0)
        self._examples: dict[str, str] = {}

    @property
    def bad(self) -> int:
        """Bad samples so far."""
        return sum(self._counts.values())

    def add(self, problems: Iterable[Problem], *, seen: int) -> None:
        """Count the bad samples met on the way to `seen` good ones.

        Raises UnreadableDataError where there have been too many by now.
        """
        self._read += seen
        for problem in problems:
            self._counts[problem.kind] += 1
            self._examples[problem.kind] = problem.key
            self._report(problem, self._counts[problem.kind])
        total = self._read + self.bad
        if total >= self._minimum and self.bad > self._limit * total:
            raise UnreadableDataError(self._verdict(total))

    def state(self) -> dict[str, int]:
        """The counts, as plain numbers for a snapshot."""
        return {_READ: self._read, **self._counts}

    def load(self, state: Mapping[str, int]) -> None:
        """Go on from the counts of a snapshot."""
        self._read = state[_READ]
        self._counts = {kind: state.get(kind, 0) for kind in KINDS}

    @staticmethod
    def _report(problem: Problem, count: int) -> None:
        if count <= LOGGED or count.bit_count() == 1:
            so_far = f" ({count} of this kind so far)" if count > 1 else ""
            _log.warning(
                "bad sample %s: %s: %s%s", problem.key, problem.kind, problem.detail, so_far
            )

    def _verdict(self, total: int) -> str:
        kind = max(KINDS, key=self._counts.__getitem__)
        example = f", as in {self._examples[kind]}" if kind in self._examples else ""
        return (
            f"{self.bad} of {total} samples could not be read ({self.bad / total:.1%}), more than "
            f"data.max_bad={self._limit:g} allows; most often {kind}{example}"
        )


def _printable(text: str) -> str:
    """Names in tars may hold bytes that are no text; logs and terminals refuse those."""
    return text.encode("utf-8", "backslashreplace").decode()
