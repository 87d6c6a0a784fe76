"""Preview a run: its measurements, existing results, and a rough time. Imports no torch."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Literal, NamedTuple

from cosmos_eval.data.folders import root_of
from cosmos_eval.embedding.cache import EMBEDDING, fingerprint, spaces
from cosmos_eval.models.specs import TWO_SETS, code_sha256, local_weights, weights_sha256
from cosmos_eval.protocols import is_embedded
from cosmos_eval.results.identity import is_partial
from cosmos_eval.results.record import ResultRow
from cosmos_eval.results.store import read_result
from cosmos_eval.runner.execute import found_samples_of
from cosmos_eval.runner.facts import FACTS
from cosmos_eval.runner.plan import Pair, Plan, Result, pair_of
from cosmos_eval.tasks import task_for
from cosmos_eval.types import ModelSpec, Protocol, RunOptions, UsageError

DataState = Literal[
    "there", "not found", "no --data-root", "made by the run", "not in the hub's cache", "streamed"
]
"""The state of the folders that a data set needs. Their content is not checked."""

_MOST_HASHED_BYTES = 100_000_000  # larger files of weights are not hashed for a preview
ROUGH = "rough: ViT-B/16 on two busy CPU cores, which a GPU leaves far behind"
"""The basis of an estimate that does not follow from results."""


class Preview(NamedTuple):
    """A result before it is measured."""

    model: str
    dataset: str
    protocol: str
    task: str
    # The folder that the data set's paths are relative to, or its repository on the hub; None if
    # the user has to name it.
    data: str | None
    data_state: DataState
    # The number of samples; None if neither the protocol nor existing results state it.
    samples: int | None
    # The file of an existing result.
    result: str | None
    # Why the existing result has to be measured again.
    result_fault: str | None
    # How many embeddings by the model's weights are cached, by role, for any images and texts; None
    # if the hash of the weights is unknown.
    embeddings_kept: Mapping[str, int] | None
    # The estimated time, and the results that the estimate follows from.
    estimated_seconds: float | None
    estimated_from: str | None


def preview(plan: Plan, existing: Mapping[Pair, Result], output: Path) -> list[Preview]:
    """Return what a run would measure: a preview for each model and data set, in the plan's order.

    Args:
        plan: The models and data sets.
        existing: The results of the plan that are already in the folder `output`.
        output: The folder of the results, from which times are estimated.
    """
    options = plan.options
    rows = _read_rows(output)
    sample_counts = [_n_samples(protocol, options, rows) for protocol in plan.protocols]
    previews = []
    for spec in plan.specs:
        embeddings_kept = _count_embeddings(spec, options, rows)
        for protocol, n_samples in zip(plan.protocols, sample_counts, strict=True):
            pair = pair_of(spec, protocol)
            result = existing.get(pair)
            result_path = None if result is None else str(result.path)
            result_fault = None
            if result is not None and result.error is not None:
                result_fault = str(result.error)
            seconds, basis = _estimate(spec, protocol, n_samples, options, rows)
            previews.append(
                Preview(
                    model=pair.model,
                    dataset=pair.dataset,
                    protocol=pair.protocol,
                    task=protocol.task,
                    data=protocol.root or protocol.repository or options.data_root,
                    data_state=data_state(protocol, options),
                    samples=n_samples,
                    result=result_path,
                    result_fault=result_fault,
                    embeddings_kept=embeddings_kept,
                    estimated_seconds=seconds,
                    estimated_from=basis,
                )
            )
    return previews


def _read_rows(folder: Path) -> list[ResultRow]:
    """Read the results in a folder; files that cannot be read are left out."""
    rows = []
    for path in sorted(folder.glob("*.json")):
        with suppress(UsageError):
            rows.append(read_result(path))
    return rows


def data_state(protocol: Protocol, options: RunOptions) -> DataState:
    """Return the state of the folders of a data set, such as `there` or `not found`."""
    if protocol.repository is not None:
        try:
            root_of(protocol, options, ".")
        except UsageError:
            return "streamed" if options.streams(protocol) else "not in the hub's cache"
        return "there"
    root = protocol.root or options.data_root
    if root is None:
        return "no --data-root"
    if is_embedded(protocol) and not Path(root).is_dir():
        return "made by the run"
    if task_for(protocol).is_there(protocol, Path(root)):
        return "there"
    return "not found"


def _n_samples(protocol: Protocol, options: RunOptions, rows: Sequence[ResultRow]) -> int | None:
    """Return the number of samples that would be measured; None if it is unknown.

    It is counted in the files of an incomplete data set. Otherwise the protocol states it, or else
    the last complete result of the data set.

    Args:
        protocol: The protocol of the data set.
        options: They may limit the number of samples, and allow incomplete data sets.
        rows: Earlier results.
    """
    found_samples = found_samples_of(protocol, options)
    if found_samples is not None and found_samples.unit in ("images", "items"):
        return found_samples.n_found

    n_samples = task_for(protocol).n_samples(protocol) or None
    if n_samples is None:
        for row in rows:
            is_same = (row.dataset, row.protocol) == (protocol.dataset, protocol.protocol_name)
            if is_same and not is_partial(row):
                n_samples = row.n_samples
    if n_samples is None or options.limit is None:
        return n_samples
    return min(n_samples, options.limit)


def _count_embeddings(
    spec: ModelSpec, options: RunOptions, rows: Sequence[ResultRow]
) -> Mapping[str, int] | None:
    """Count the cached embeddings by a model's weights, such as `{"image": 500, "text": 30}`.

    Args:
        spec: The model.
        options: They have the folder of the cache and the precision.
        rows: Earlier results, which may state the hash of the weights.

    Returns:
        The number for each role, for any images and texts. None if the hash of the weights is
        unknown.
    """
    weights_hash = _weights_hash(spec, rows)
    if weights_hash is None:
        return None
    if options.cache is None:
        return {}
    counts: Counter[str] = Counter()
    for space in spaces(
        Path(options.cache),
        weights_sha256=weights_hash,
        weights=spec.weights if spec.kind in TWO_SETS else None,
        precision=options.precision,
        code=fingerprint(*EMBEDDING),
        code_of_model=code_sha256(spec),
    ):
        role = str(space.identity["role"])
        if role != FACTS:
            counts[role] += space.embeddings
    return dict(sorted(counts.items()))


def _weights_hash(spec: ModelSpec, rows: Sequence[ResultRow]) -> str | None:
    """Return the SHA-256 of a model's weights: of local files, or else as its results record it.

    Return None for large files, which would take long to hash, and if the results of the model
    differ or are missing. `rows` are results of any models.
    """
    files = local_weights(spec)
    if files:
        n_bytes = sum(file.stat().st_size for file in files)
        return None if n_bytes > _MOST_HASHED_BYTES else weights_sha256(files)
    hashes = {row.model["weights_sha256"] for row in rows if row.model["spec"] == spec.text}
    return hashes.pop() if len(hashes) == 1 else None


def _estimate(
    spec: ModelSpec,
    protocol: Protocol,
    n_samples: int | None,
    options: RunOptions,
    rows: Sequence[ResultRow],
) -> tuple[float | None, str | None]:
    """Return the estimated seconds of a measurement, and the basis of the estimate.

    The time per sample follows from results of the same model or architecture: on this data set if
    there are any, or else on all data sets of the task. Without results, it is a rough constant of
    the task.

    Args:
        spec: The model.
        protocol: The protocol of the data set.
        n_samples: How many samples would be measured. If it is None, both values are None.
        options: They have the precision and the device.
        rows: Earlier results.

    Example:
        `(12.5, "results of this task")`
    """
    if n_samples is None:
        return None, None
    task_rows = [row for row in rows if _is_comparable(row, spec, protocol, options)]
    dataset_rows = [row for row in task_rows if row.dataset == protocol.dataset]
    if dataset_rows:
        seconds_per_sample = _seconds_per_sample(dataset_rows)
        basis = "results on this data set"
    elif task_rows:
        seconds_per_sample = _seconds_per_sample(task_rows)
        basis = "results of this task"
    else:
        seconds_per_sample = task_for(protocol).seconds
        basis = ROUGH
    return round(n_samples * seconds_per_sample, 1), basis


def _is_comparable(
    row: ResultRow, spec: ModelSpec, protocol: Protocol, options: RunOptions
) -> bool:
    """Return whether a measurement would take about as long per sample as a result took.

    Task, precision and device must be the same, and the model or its architecture.

    Args:
        row: The result.
        spec: The model that would be measured.
        protocol: The protocol that it would be measured by.
        options: The precision and the device of the measurement.
    """
    return (
        row.task == protocol.task
        and row.provenance["precision"] == options.precision
        and options.device in ("auto", row.provenance["device"])
        and (row.model["spec"] == spec.text or row.model["architecture"] == spec.arch)
    )


def _seconds_per_sample(rows: Sequence[ResultRow]) -> float:
    """Return the median time per sample of several results."""
    return median(row.provenance["seconds"]["total"] / row.n_samples for row in rows)
