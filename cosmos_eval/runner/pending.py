"""Which results of a plan are there already. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from cosmos_core.utils.files import file_sha256
from cosmos_eval.models.specs import TWO_SETS, code_file, local_file
from cosmos_eval.results.labels import overrides_of, stem_of
from cosmos_eval.results.record import ResultRow
from cosmos_eval.results.store import read_files, samples_of
from cosmos_eval.runner.plan import Pair, Plan, pair_of
from cosmos_eval.tasks import part_of
from cosmos_eval.types import LabelMapProtocol, ModelSpec, Part, Protocol, UsageError


class ExistingResult(NamedTuple):
    """A result file of a pair; `fault` says why it must be measured again, else `row` is it."""

    path: Path
    row: ResultRow | None
    fault: str = ""


def existing_results(plan: Plan, output: Path) -> dict[Pair, ExistingResult]:
    """The result files that are there of a plan's pairs, by what they are called."""
    there = {}
    for spec in plan.specs:
        for protocol in plan.protocols:
            path = output / f"{_stem(spec, protocol, plan)}.json"
            if path.exists():
                there[pair_of(spec, protocol)] = _existing(spec, path)
    return there


def _existing(spec: ModelSpec, path: Path) -> ExistingResult:
    """A result is valid with its own samples, and with the weights and code its model has now."""
    try:
        stored = read_files(path)
        row = stored.row
        samples_of(path, stored)
    except UsageError as error:
        return ExistingResult(path, None, str(error))
    file = local_file(spec)
    if file is not None and file_sha256(file) != row.model["weights_sha256"]:
        return ExistingResult(path, None, f"{path} is of other weights than {file} now holds")
    code = code_file(spec)
    if code is not None and file_sha256(code) != row.model.get("code_sha256"):
        return ExistingResult(path, None, f"{path} is of other code than {code} now holds")
    return ExistingResult(path, row)


def _stem(spec: ModelSpec, protocol: Protocol, plan: Plan) -> str:
    """The file name that `store.file_stem` will give the result."""
    own = protocol.attention if isinstance(protocol, LabelMapProtocol) else None
    part = _part(protocol, plan)
    words = overrides_of(
        student=spec.kind in TWO_SETS and spec.weights == "student",
        attention=(plan.options.attention or own) if own else None,
        usual_attention=own,
        precision=plan.machine.precision,
        limit=plan.options.limit,
        partial=None if part is None else str(part),
    )
    return stem_of(spec.text, protocol.dataset, protocol.family, words)


def _part(protocol: Protocol, plan: Plan) -> Part | None:
    """The number of samples there are now of an incomplete set; None where none can be read."""
    try:
        return part_of(protocol, plan.options)
    except UsageError:
        return None  # the run reports it, unless it fetches the set
