"""Read the two sides of a comparison from files, and compare them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cosmos_eval.results import compare, groups
from cosmos_eval.results.compare import Comparison
from cosmos_eval.results.labels import StoredResult, result_warnings
from cosmos_eval.results.store import read_samples, read_stored, result_paths
from cosmos_eval.types import UsageError


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
        a: A result file, or a folder of results.
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
    results_a = _read_results(a)
    results_b = results_a if b is None else _read_results(b)
    if trainings:
        name_a, name_b = trainings
        comparison = groups.compare(
            groups.select_group_results(results_a, name_a),
            groups.select_group_results(results_a, name_b),
            read_samples,
            by_seed=same_seeds,
        )
    else:
        comparison = _compare_models(a, results_a, b or a, results_b, models)
    warnings = list(result_warnings(results_a))
    if results_b is not results_a:
        warnings += result_warnings(results_b)
    return comparison._replace(notes=(*dict.fromkeys(warnings), *comparison.notes))


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


def _read_results(path: Path) -> list[StoredResult]:
    """Read a result or a folder of results. Their metrics are checked when they are compared."""
    return read_stored(result_paths(path) if path.is_dir() else [path])


def _compare_models(
    path_a: Path,
    results_a: Sequence[StoredResult],
    path_b: Path,
    results_b: Sequence[StoredResult],
    models: Sequence[str],
) -> Comparison:
    """Compare two models. `models` names one model for both sides, or A's model, then B's.

    Without names, the results of each path must be results of one model.
    """
    names: Sequence[str | None] = models or [None]
    chosen_a = compare.select_model_results(results_a, names[0], str(path_a))
    chosen_b = compare.select_model_results(results_b, names[-1], str(path_b))
    pairs, unpaired_notes = compare.pair_results(chosen_a, chosen_b)
    comparison = compare.compare(pairs, read_samples)
    return comparison._replace(notes=(*unpaired_notes, *comparison.notes))
