"""What a run would measure, what exists, and about how long it takes. Imports no torch."""

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
from cosmos_eval.runner.execute import found_part
from cosmos_eval.runner.facts import FACTS
from cosmos_eval.runner.plan import Pair, Plan, Result, pair_of
from cosmos_eval.tasks import task_for
from cosmos_eval.types import ModelSpec, Protocol, RunOptions, UsageError

Data = Literal[
    "there", "not found", "no --data-root", "made by the run", "not in the hub's cache", "streamed"
]
Rows = Sequence[ResultRow]

_HASHED_BYTES = 100_000_000  # larger files of weights are not hashed for a preview
ROUGH = "rough: ViT-B/16 on two busy CPU cores, which a GPU leaves far behind"
"""The basis of an estimate without results."""


class Preview(NamedTuple):
    """A result before it is measured.

    `data` is the folder that the data set's paths are relative to or its repository on the hub,
    None where the user has to name it; `data_state` is about the folders that it needs, not about
    their content. `samples` is None where neither protocol nor results state it. `result` is the
    file of an existing result, `result_fault` why it has to be measured again. `embeddings_kept`
    counts cached embeddings of the weights by role, of any images and texts; None: unknown ones.
    """

    model: str
    dataset: str
    protocol: str
    task: str
    data: str | None
    data_state: Data
    samples: int | None
    result: str | None
    result_fault: str | None
    embeddings_kept: Mapping[str, int] | None
    estimated_seconds: float | None
    estimated_from: str | None


def preview(plan: Plan, existing: Mapping[Pair, Result], output: Path) -> list[Preview]:
    """Return one preview per pair, in the plan's order; `existing` are its results in `output`."""
    rows, options = _results(output), plan.options
    samples = [_samples(protocol, options, rows) for protocol in plan.protocols]
    previews = []
    for spec in plan.specs:
        cached = _cached(spec, options, rows)
        for protocol, count in zip(plan.protocols, samples, strict=True):
            result = existing.get(pair_of(spec, protocol))
            seconds, basis = _estimate(spec, protocol, count, options, rows)
            one = Preview(
                *pair_of(spec, protocol),
                task=protocol.task,
                data=protocol.root or protocol.repository or options.data_root,
                data_state=_data(protocol, options),
                samples=count,
                result=None if result is None else str(result.path),
                result_fault=str(result.error) if result and result.error else None,
                embeddings_kept=cached,
                estimated_seconds=seconds,
                estimated_from=basis,
            )
            previews.append(one)
    return previews


def _results(output: Path) -> list[ResultRow]:
    rows = []
    for path in sorted(output.glob("*.json")):
        with suppress(UsageError):
            rows.append(read_result(path))
    return rows


def _data(protocol: Protocol, options: RunOptions) -> Data:
    if protocol.repository is not None:
        with suppress(UsageError):
            root_of(protocol, options, ".")
            return "there"
        return "streamed" if options.streams(protocol) else "not in the hub's cache"
    root = protocol.root or options.data_root
    if root is None:
        return "no --data-root"
    if is_embedded(protocol) and not Path(root).is_dir():
        return "made by the run"
    return "there" if task_for(protocol).is_there(protocol, Path(root)) else "not found"


def _samples(protocol: Protocol, options: RunOptions, rows: Rows) -> int | None:
    """Return the number of samples: of the files, of the protocol, or of complete results."""
    part = found_part(protocol, options)
    if part is not None and part.unit in ("images", "items"):
        return part.found
    key = protocol.dataset, protocol.family
    alike = (row for row in reversed(rows) if (row.dataset, row.protocol) == key)
    measured = (row.n_samples for row in alike if not is_partial(row))
    count = task_for(protocol).n_samples(protocol) or next(measured, None)
    return count if count is None or options.limit is None else min(count, options.limit)


def _cached(spec: ModelSpec, options: RunOptions, rows: Rows) -> Mapping[str, int] | None:
    """Count cached embeddings of a model's weights, hashed here or by results of the model."""
    files = local_weights(spec)
    digests = {row.model["weights_sha256"] for row in rows if row.model["spec"] == spec.text}
    if files:
        small = sum(file.stat().st_size for file in files) <= _HASHED_BYTES
        digests = {weights_sha256(files)} if small else set()
    digest = digests.pop() if len(digests) == 1 else None
    if digest is None or options.cache is None:
        return None if digest is None else {}
    cached = spaces(
        Path(options.cache),
        weights_sha256=digest,
        weights=spec.weights if spec.kind in TWO_SETS else None,
        precision=options.precision,
        code=fingerprint(*EMBEDDING),
        code_of_model=code_sha256(spec),
    )
    counts: Counter[str] = Counter()
    for space in cached:
        if space.identity["role"] != FACTS:
            counts[str(space.identity["role"])] += space.embeddings
    return dict(sorted(counts.items()))


def _estimate(
    spec: ModelSpec, protocol: Protocol, samples: int | None, options: RunOptions, rows: Rows
) -> tuple[float | None, str | None]:
    """Return seconds, and what they follow from: results of the same model or architecture."""
    if samples is None:
        return None, None
    alike = [
        row
        for row in rows
        if row.task == protocol.task
        and row.provenance["precision"] == options.precision
        and options.device in ("auto", row.provenance["device"])
        and (row.model["spec"] == spec.text or row.model["architecture"] == spec.arch)
    ]
    here = [row for row in alike if row.dataset == protocol.dataset]
    for basis, chosen in {"results on this data set": here, "results of this task": alike}.items():
        if chosen:
            rate = median(row.provenance["seconds"]["total"] / row.n_samples for row in chosen)
            return round(samples * rate, 1), basis
    return round(samples * task_for(protocol).seconds, 1), ROUGH
