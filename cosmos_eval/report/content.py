"""Everything that a page says in words and numbers, from results and their samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from threadpoolctl import threadpool_limits

from cosmos_eval.report.mistakes import Confusions, confusions_of
from cosmos_eval.report.pairs import Found, Versus, compare_set, ties_of, versus
from cosmos_eval.report.sets import Read, Set, sets_of
from cosmos_eval.results.labels import Stored, distinguish
from cosmos_eval.results.leaderboard import Board, Entry, boards, entries_of
from cosmos_eval.types import OnProgress, Progress, UsageError, no_progress


class Content(NamedTuple):
    """A page without pictures.

    `results` are those measured here without the edited ones, `entries` all of them and the
    published ones beside them, `pairs` every two models, `notes` what could not be shown, a line
    each.
    """

    results: tuple[Stored, ...]
    entries: tuple[Entry, ...]
    boards: tuple[Board, ...]
    pairs: tuple[Versus, ...]
    confusions: tuple[Confusions, ...]
    notes: tuple[str, ...]


class _Seen(NamedTuple):
    found: Sequence[Found]
    confusions: Confusions | None
    notes: Sequence[str]


def content_of(
    results: Sequence[Stored],
    read: Read,
    others: Sequence[Entry] = (),
    progress: OnProgress = no_progress,
) -> Content:
    """Compare everything that can be compared.

    Of `others`, published numbers, those of data sets and protocols that were measured are kept.
    Raises UsageError where two results are of the same model, data set and protocol.
    """
    results = distinguish(results)
    trusted = [one for one in results if not one.is_edited]
    own = entries_of(results)
    measured_sets = {(entry.protocol, entry.dataset) for entry in own}
    entries = [*own, *(o for o in others if (o.protocol, o.dataset) in measured_sets)]
    seen: list[_Seen] = []
    # The matrices are small: more threads of NumPy's gain little, and wait for each other where
    # other processes are busy.
    with threadpool_limits(1):
        for one in sets_of(trusted, read):
            progress(Progress("data sets compared", len(seen), len(measured_sets)))
            seen.append(_look_at(one))
    found = [pair for one in seen for pair in one.found]
    return Content(
        results=tuple(trusted),
        entries=tuple(sorted(entries, key=lambda entry: entry.key)),
        boards=tuple(boards(entries, ties_of(found, entries))),
        pairs=tuple(versus(found)),
        confusions=tuple(one.confusions for one in seen if one.confusions is not None),
        notes=(
            *(note for one in seen for note in one.notes),
            *(
                f"in leaderboards alone: {one.path}, which was edited after it was written"
                for one in results
                if one.is_edited
            ),
        ),
    )


def _look_at(one: Set) -> _Seen:
    found = compare_set(one)
    try:
        return _Seen(found, confusions_of(one), one.notes)
    except UsageError as error:
        return _Seen(found, None, (*one.notes, str(error)))
