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
    """Return one preview per pair of a plan, in its order.

    `existing` are the plan's results in the folder `output`.
    """
    rows, options = _read_rows(output), plan.options
    counts = [_n_samples(protocol, options, rows) for protocol in plan.protocols]
    previews = []
    for spec in plan.specs:
        embeddings_kept = _count_embeddings(spec, options, rows)
        for protocol, n_samples in zip(plan.protocols, counts, strict=True):
            pair = pair_of(spec, protocol)
            result = existing.get(pair)
            seconds, basis = _estimate(spec, protocol, n_samples, options, rows)
            previews.append(
                Preview(
                    model=pair.model,
                    dataset=pair.dataset,
                    protocol=pair.protocol,
                    task=protocol.task,
                    data=protocol.root or protocol.repository or options.data_root,
                    data_state=_data_state(protocol, options),
                    samples=n_samples,
                    result=None if result is None else str(result.path),
                    result_fault=str(result.error) if result and result.error else None,
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


def _data_state(protocol: Protocol, options: RunOptions) -> DataState:
    """Return whether the folders of a data set are there."""
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
    return "there" if task_for(protocol).is_there(protocol, Path(root)) else "not found"


def _n_samples(protocol: Protocol, options: RunOptions, rows: Sequence[ResultRow]) -> int | None:
    """Return the number of samples that would be measured; None if it is unknown.

    It is counted in the files of an incomplete data set. Otherwise the protocol states it, or else
    the last complete result of the data set.
    """
    part = found_samples_of(protocol, options)
    if part is not None and part.unit in ("images", "items"):
        return part.n_found
    count = task_for(protocol).n_samples(protocol)
    if not count:
        count = None
        for row in rows:
            is_same = (row.dataset, row.protocol) == (protocol.dataset, protocol.protocol_name)
            if is_same and not is_partial(row):
                count = row.n_samples
    if count is None or options.limit is None:
        return count
    return min(count, options.limit)


def _count_embeddings(
    spec: ModelSpec, options: RunOptions, rows: Sequence[ResultRow]
) -> Mapping[str, int] | None:
    """Count the cached embeddings by a model's weights, by role; None for unknown weights."""
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

    Return None for large files, which would take long to hash, and if results differ or are
    missing.
    """
    files = local_weights(spec)
    if files:
        if sum(file.stat().st_size for file in files) > _MOST_HASHED_BYTES:
            return None
        return weights_sha256(files)
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

    It follows from results of the same model or architecture: on this data set if there are any, or
    else from all results of the task.
    """
    if n_samples is None:
        return None, None
    task_rows = [row for row in rows if _is_comparable(row, spec, protocol, options)]
    dataset_rows = [row for row in task_rows if row.dataset == protocol.dataset]
    if dataset_rows:
        return round(n_samples * _seconds_per_sample(dataset_rows), 1), "results on this data set"
    if task_rows:
        return round(n_samples * _seconds_per_sample(task_rows), 1), "results of this task"
    return round(n_samples * task_for(protocol).seconds, 1), ROUGH


def _is_comparable(
    row: ResultRow, spec: ModelSpec, protocol: Protocol, options: RunOptions
) -> bool:
    """Return whether a measurement would take about as long per sample as a result took."""
    return (
        row.task == protocol.task
        and row.provenance["precision"] == options.precision
        and options.device in ("auto", row.provenance["device"])
        and (row.model["spec"] == spec.text or row.model["architecture"] == spec.arch)
    )


def _seconds_per_sample(rows: Sequence[ResultRow]) -> float:
    """Return the median time per sample of several results."""
    return median(row.provenance["seconds"]["total"] / row.n_samples for row in rows)
