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
    """Models, the data sets that they are measured on, and the mean over these data sets."""

    name: str
    # The specifications of models, as for `--model`; empty if the user has to name the models.
    models: tuple[str, ...]
    # The name of each model in results; None: its specification.
    names: tuple[str | None, ...]
    # The protocols of the data sets that every model is measured on.
    protocols: tuple[Protocol, ...]
    # The data sets that count in the mean; empty if the suite has no mean.
    members: tuple[SuiteMember, ...]
    # Data sets that the publication of the suite has and the suite lacks, with the reason. Each
    # counts as a member for which every model lacks a result.
    left_out: Mapping[str, str]
    # The publication that the suite is from.
    source: str
    # Whether the score is the harmonic mean of the means of the metrics over all members, and not
    # the mean of the members' means.
    is_harmonic: bool = False

    def present(self, n_present: int) -> str:
        """Return how many data sets of the suite are present as a text, such as `3 of 38`.

        Data sets that are left out count in the total.
        """
        n_total = len(self.members or self.protocols) + len(self.left_out)
        return f"{n_present} of {n_total}"
