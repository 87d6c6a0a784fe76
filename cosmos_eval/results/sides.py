"""Read the two sides of a comparison from files, and compare them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cosmos_core.utils.text import first_of
from cosmos_eval.results import compare, groups, wordings
from cosmos_eval.results.compare import Comparison
from cosmos_eval.results.exchange.differences import compare_without_samples
from cosmos_eval.results.exchange.places import find_results
from cosmos_eval.results.exchange.record import ImportedResult
from cosmos_eval.results.identity import is_stopped
from cosmos_eval.results.labels import StoredResult, result_warnings, without_other_wordings
from cosmos_eval.results.store import read_samples, read_stored
from cosmos_eval.results.wordings import WordingComparison
from cosmos_eval.types import UsageError, nearest

_MOST_MODELS = 10  # that an error names


def read_comparison(
    a: Path,
    b: Path | None = None,
    *,
    models: Sequence[str] = (),
    trainings: Sequence[str] = (),
    same_seeds: bool = False,
) -> Comparison:
    """Read results and compare two models on the same samples, or two groups of trainings.

    Args:
        a: A result file, a folder of results, or a file of another tool.
        b: The file or folder of the other side. By default it is the folder `a`.
        models: The names of both models. One name stands for both sides. Without names, each side
            must have the results of one model.
        trainings: The names of two groups of trainings in the folder `a`, instead of models.
        same_seeds: True to pair the trainings of both groups by their seeds.

    Returns:
        The comparison. Its notes begin with warnings about the results.

    Raises:
        UsageError: If the sides are not two models or two groups, or cannot be compared.
    """
    _require_two_sides(b, models, trainings)
    side_a = _with_published_wordings(_read_side(a))
    side_b = side_a if b is None else _with_published_wordings(_read_side(b))
    if trainings:
        name_a, name_b = trainings
        comparison = groups.compare(
            groups.select_group_results(side_a.results, name_a),
            groups.select_group_results(side_a.results, name_b),
            read_samples,
            by_seed=same_seeds,
        )
    else:
        comparison = _compare_models(side_a, side_b, models)
    return comparison._replace(notes=(*_warnings_of(side_a, side_b), *comparison.notes))


def read_over_wordings(
    a: Path,
    b: Path | None = None,
    *,
    models: Sequence[str] = (),
    trainings: Sequence[str] = (),
    metrics: Sequence[str] = (),
) -> WordingComparison:
    """Read results with other wordings, and compare two models or groups of trainings over them.

    A single model, or a single group, is allowed.

    Args:
        a: A folder of results.
        b: The folder of the other side. By default it is the folder `a`.
        models: The names of the models, A's first.
        trainings: The names of groups of trainings in the folder `a`, instead of models.
        metrics: Patterns of names of metrics; empty: headline metrics that decide comparisons.

    Raises:
        UsageError: If the sides are not one or two models or groups, or cannot be compared.
    """
    if len(models) > 2 or len(trainings) > 2 or (trainings and (models or b is not None)):
        raise UsageError(
            "--over wording takes --model once or twice, or --group once or twice and one folder"
        )
    side_a = _read_side(a)
    side_b = side_a if b is None else _read_side(b)
    sides: list[list[StoredResult]] = []
    if trainings:
        for name in trainings:
            sides.append(groups.select_group_results(side_a.results, name))
    else:
        names: Sequence[str | None] = models or [None]
        places = [(side_a, names[0])]
        if b is not None or len(names) == 2:
            places.append((side_b, names[-1]))
        for side, model in places:
            sides.append(compare.select_model_results(side.results, model, str(side.path)))
    comparison = wordings.compare_over_wordings(sides, read_samples, metrics)
    return comparison._replace(notes=(*_warnings_of(side_a, side_b), *comparison.notes))


def _require_two_sides(b: Path | None, models: Sequence[str], trainings: Sequence[str]) -> None:
    """Raise UsageError unless two models, or two groups of trainings, are named."""
    if trainings:
        if models or b is not None or len(trainings) != 2:
            raise UsageError(
                "methods are compared by one folder and --group twice, without --model"
            )
    elif len(models) > 2:
        raise UsageError("--model is given at most twice: A's model, then B's")
    elif b is None and len(models) != 2:
        raise UsageError("Missing argument 'B': name it, or give --model or --group twice")


class _Side(NamedTuple):
    """The results of a file or a folder."""

    path: Path
    # The results of cosmos-eval. Their metrics are checked when they are compared.
    results: list[StoredResult]
    # The results of other tools.
    imported: list[ImportedResult]
    # What was not read, one line each.
    notes: list[str]


def _read_side(path: Path) -> _Side:
    """Read a result, a folder of results, or a file of another tool."""
    if not path.exists():
        return _Side(path, read_stored([path]), [], [])  # raises an error that names the file
    files = find_results([path])
    results = read_stored(files.paths)
    if not path.is_dir():
        return _Side(path, results, files.imported, files.notes)
    # A run that stopped early is not compared, and must not look like a second model.
    whole_results = [result for result in results if not is_stopped(result.row)]
    notes = list(files.notes)
    n_stopped = len(results) - len(whole_results)
    if n_stopped and not whole_results and not files.imported:
        raise UsageError(
            f"{path} has only results of runs that stopped early: run again without --until"
        )
    if n_stopped:
        notes.append(f"{path}: results of runs that stopped early are left out: {n_stopped}")
    return _Side(path, whole_results, files.imported, notes)


def _warnings_of(side_a: _Side, side_b: _Side) -> list[str]:
    """Return what was not read of two sides, and warnings about their results, each line once."""
    warnings = [*side_a.notes, *side_b.notes]
    warnings += result_warnings(side_a.results)
    if side_b is not side_a:
        warnings += result_warnings(side_b.results)
    return list(dict.fromkeys(warnings))


def _with_published_wordings(side: _Side) -> _Side:
    """Return a side without results with other wordings, unless it has no others, and a note."""
    results, notes = without_other_wordings(side.results)
    return side._replace(
        results=results, notes=[*side.notes, *(f"left out: {note}" for note in notes)]
    )


def _compare_models(side_a: _Side, side_b: _Side, models: Sequence[str]) -> Comparison:
    """Compare two models. `models` names one model for both sides, or A's model, then B's.

    Without names, the results of each side must be results of one model. If one of the models was
    measured by another tool, differences are not tested.
    """
    names: Sequence[str | None] = models or [None]
    imported_a = _select_imported(side_a, names[0])
    imported_b = _select_imported(side_b, names[-1])
    if not imported_a and not imported_b:
        chosen_a = compare.select_model_results(side_a.results, names[0], str(side_a.path))
        chosen_b = compare.select_model_results(side_b.results, names[-1], str(side_b.path))
        pairs, unpaired_notes = compare.pair_results(chosen_a, chosen_b)
        comparison = compare.compare(pairs, read_samples)
        return comparison._replace(notes=(*unpaired_notes, *comparison.notes))

    return compare_without_samples(
        imported_a or compare.select_model_results(side_a.results, names[0], str(side_a.path)),
        imported_b or compare.select_model_results(side_b.results, names[-1], str(side_b.path)),
    )


def _select_imported(side: _Side, name: str | None) -> list[ImportedResult]:
    """Return the imported results of one model of a side.

    Args:
        side: The results.
        name: The name of the model; None if the side must have one model.

    Returns:
        The results; empty if a model of that name was measured by cosmos-eval.

    Raises:
        UsageError: If no model, or several models without a name, are there.
    """
    measured_models = {result.model for result in side.results}
    models = {result.model for result in side.imported}
    if not models:
        return []
    if name is None and len(models | measured_models) > 1:
        choices = first_of(sorted(models | measured_models), _MOST_MODELS)
        raise UsageError(
            f"{side.path} has several models ({choices}): choose with --model, A's then B's"
        )
    if any(name is None or result.is_called(name) for result in side.results):
        return []
    if name is not None and name not in models:
        all_models = sorted(models | measured_models)
        raise UsageError(
            f"{side.path} has no result of model '{name}'; nearest: {nearest(name, all_models)}"
        )
    return [result for result in side.imported if name in (None, result.model)]
