"""The results that a collection has accepted: new results must be measured on the same terms.

The terms are the setting that comparisons need, see `settings`, and the precision. A new result
must also record the hash of its data, and the revision, if the accepted results do.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cosmos_eval.results.labels import StoredResult
from cosmos_eval.results.record import ResultRow
from cosmos_eval.results.settings import (
    DATA_FIELDS,
    TEXT_WEIGHT,
    describe_mismatches,
    setting_of_result,
    text_weight_of,
)
from cosmos_eval.results.store import list_results, read_stored, result_paths
from cosmos_eval.types import UsageError


def read_accepted(folder: Path, new_places: Iterable[Path] = ()) -> list[StoredResult]:
    """Read the accepted results in a folder and its subfolders.

    Args:
        folder: The folder, which may also hold new results.
        new_places: Files and folders of new results, which are not read.

    Raises:
        UsageError: If the folder has no result at all, or if a file is not a result or was edited.
    """
    new_paths: set[Path] = set()
    for place in new_places:
        paths, _ = list_results(place)
        new_paths.update(path.resolve() for path in paths)
    accepted_paths = [path for path in result_paths(folder) if path.resolve() not in new_paths]
    results = read_stored(accepted_paths)
    for result in results:
        if result.unchanged is False:
            raise UsageError(f"{result.path}: this accepted result was edited: restore it")
    return results


def departures_from_accepted(row: ResultRow, accepted: Sequence[StoredResult]) -> list[str]:
    """Return one line for each term on which a new result and an accepted one differ.

    The accepted result is the one of the same task, data set and protocol that differs least.

    Args:
        row: The new result.
        accepted: The accepted results, from `read_accepted`.

    Returns:
        The lines, such as "unlike accepted/a.json: precision is bf16 and fp32 there". The list is
        empty if the new result is like one of the accepted results.

    Raises:
        UsageError: If no accepted result has the data set under the protocol.
    """
    departures_by_path: dict[Path, list[str]] = {}
    for result in accepted:
        accepted_row = result.row
        is_same_set = (accepted_row.task, accepted_row.dataset) == (row.task, row.dataset)
        if is_same_set and accepted_row.protocol == row.protocol:
            departures_by_path[result.path] = list(_departures(row, accepted_row))
    if not departures_by_path:
        raise UsageError(
            f"no accepted result of {row.dataset} ({row.protocol}) says on which terms: accept a "
            "first one by hand"
        )
    path = min(departures_by_path, key=lambda path: len(departures_by_path[path]))
    return [f"unlike {path}: {departure}" for departure in departures_by_path[path]]


def _departures(row: ResultRow, accepted_row: ResultRow) -> Iterator[str]:
    """Yield one line for each term on which two results differ.

    Args:
        row: The new result.
        accepted_row: An accepted result of the same data set and protocol.
    """
    terms = _terms_of(row)
    accepted_terms = _terms_of(accepted_row)
    for mismatch in describe_mismatches(terms, accepted_terms):
        yield f"{mismatch} there"
    weights = text_weight_of(row.provenance), text_weight_of(accepted_row.provenance)
    if None not in weights and weights[0] != weights[1]:
        yield f"{TEXT_WEIGHT} is {weights[0]} and {weights[1]} there"
    for name in DATA_FIELDS:
        if name in accepted_terms and name not in terms:
            yield f"{name} is not recorded: measure again with this version of cosmos-eval"


def _terms_of(row: ResultRow) -> dict[str, Any]:
    """Return the setting of a result and its precision, by name."""
    terms = setting_of_result(row)
    terms["precision"] = row.provenance["precision"]
    return terms
