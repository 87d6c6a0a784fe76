"""Suites: data sets that are measured together, and the mean over them."""

from collections.abc import Mapping
from typing import NamedTuple

from cosmos_eval.types.protocols import Protocol


class SuiteMember(NamedTuple):
    """A data set that counts in the mean of a suite."""

    task: str
    dataset: str
    protocol: str
    # The metric that counts, or the metrics whose mean counts.
    metrics: tuple[str, ...]
    # Below 1 if several data sets count as one.
    weight: float = 1.0


class Suite(NamedTuple):
    """The models and data sets of a suite."""

    name: str
    # As `--model` takes them; empty if `--model` has to name them.
    models: tuple[str, ...]
    # The name of each model in results; None: the specification.
    names: tuple[str | None, ...]
    # The protocols by which each model is measured.
    protocols: tuple[Protocol, ...]
    # The members of the mean; empty if the suite has no `score`.
    members: tuple[SuiteMember, ...]
    # Data sets of the source that the suite lacks, with the reason. Each counts as a member that no
    # model has.
    left_out: Mapping[str, str]
    source: str

    def present(self, n_present: int) -> str:
        """Return a text such as `3 of 38`; the data sets that are left out count in the total."""
        n_total = len(self.members or self.protocols) + len(self.left_out)
        return f"{n_present} of {n_total}"
