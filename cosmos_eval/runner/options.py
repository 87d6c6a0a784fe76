"""The options of a run, as `cosmos-eval run`, `evaluate` and `embed` make them."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, get_args

from cosmos_core.utils.distributed import SINGLE_PROCESS, Distributed
from cosmos_eval.data.readers import path_of
from cosmos_eval.embedding.cache import embeddings_folder
from cosmos_eval.types import (
    Attention,
    DataOptions,
    ModelOptions,
    Precision,
    RunOptions,
    UsageError,
)


def make_run_options(
    data_options: DataOptions,
    model_options: ModelOptions,
    *,
    batch_size: int,
    workers: int,
    use_cache: bool,
    output: Path | None = None,
    save_predictions: str | None = None,
    overlays: bool = False,
    distributed: Distributed = SINGLE_PROCESS,
) -> RunOptions:
    """Return the options of a run: what is measured, how it is computed, and by which processes.

    Args:
        data_options: The samples to measure, and the place to read them from.
        model_options: How the model is run.
        batch_size: How many images or texts are encoded at once.
        workers: How many threads read images.
        use_cache: True if embeddings are read from, and written to, the folder that
            `cosmos-eval cache info` shows.
        output: The folder of the results. Its subfolder `.partial` keeps the finished parts of a
            measurement, from which a killed run resumes. None: no results are stored.
        save_predictions: The folder for predicted label maps. None: they are not written.
        overlays: True if predicted label maps are also drawn over the images.
        distributed: The processes that share the work.

    Raises:
        UsageError: If a value is impossible, or if options contradict each other.
    """
    _require_count("batch_size", batch_size, least=1)
    _require_count("workers", workers, least=0)
    if data_options.limit is not None:
        _require_count("limit", data_options.limit, least=1)
    if data_options.data_root is not None:
        path_of(data_options.data_root, "data_root")
    _require_choice("precision", model_options.precision, get_args(Precision))
    if model_options.attention is not None:
        _require_choice("attention", model_options.attention, get_args(Attention))

    cache_folder = str(embeddings_folder()) if use_cache else None
    unfinished_folder = None if output is None else str(output / ".partial")
    return RunOptions(
        **vars(data_options),
        **vars(model_options),
        batch_size=batch_size,
        workers=workers,
        save_predictions=save_predictions,
        overlays=overlays,
        unfinished=unfinished_folder,
        cache=cache_folder,
        distributed=distributed,
    )


def _require_count(option: str, value: Any, *, least: int) -> None:
    """Raise UsageError unless the value of an option is a whole number of at least `least`."""
    is_count = isinstance(value, Integral) and int(value) >= least
    if not is_count:
        raise UsageError(f"{option} must be a whole number, {least} or more, not {value!r}")


def _require_choice(option: str, value: Any, choices: Sequence[str]) -> None:
    """Raise UsageError unless the value of an option is one of the choices."""
    if value not in choices:
        raise UsageError(f"{option} must be one of {', '.join(choices)}, not {value!r}")
