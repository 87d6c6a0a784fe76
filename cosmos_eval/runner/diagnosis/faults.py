"""The base class of faults: a name, a description, and advice."""

from dataclasses import dataclass


class NotApplicableError(Exception):
    """A fault cannot be applied to a model or a data set. The message says why."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A mistake that somebody makes when a model is evaluated.

    A subclass stands for one kind of mistake, and has a method `apply`, which makes the mistake.
    """

    # The name in tables, such as `BGR`.
    name: str
    # The mistake, as a sentence without a full stop.
    wrong: str
    # The advice, as an imperative clause.
    check: str
