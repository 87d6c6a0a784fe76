"""Options of a run, and the progress that it reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from cosmos_core.utils.distributed import SINGLE_PROCESS, Distributed
from cosmos_eval.types.errors import UsageError
from cosmos_eval.types.models import Attention, Precision
from cosmos_eval.types.protocols import Protocol

Executor = Literal["local", "ray", "slurm"]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a measurement is run.

    Raises UsageError for options that contradict each other.
    """

    # The folder that data sets are read from.
    data_root: str | None = None
    download: bool = False
    stream: bool = False
    # The form of attention of the last block; None: the protocol's own.
    attention: Attention | None = None
    # The encoder that guides attention `proxy`, as `--auxiliary` takes it.
    auxiliary: str | None = None
    # `auto` is the first CUDA device, or else the CPU.
    device: str = "auto"
    precision: Precision = "fp32"
    batch_size: int = 32
    workers: int = 2
    # The first samples to measure; None: all.
    limit: int | None = None
    # Whether the samples of a known data set that is incomplete are measured.
    allow_partial: bool = False
    # The folder for predicted label maps.
    save_predictions: str | None = None
    overlays: bool = False
    # The folder for the finished parts of a measurement, from which a killed run resumes.
    unfinished: str | None = None
    # The folder for embeddings; None: they are not cached.
    cache: str | None = None
    seed: int = 0
    distributed: Distributed = SINGLE_PROCESS

    def __post_init__(self) -> None:
        if self.allow_partial and self.limit is not None:
            raise UsageError("--partial measures all samples found and --limit the first: give one")
        if (self.attention == "proxy") != (self.auxiliary is not None):
            raise UsageError("--attention proxy and --auxiliary SPEC, which guides it, go together")
        if self.stream and (self.limit is not None or self.distributed.world_size > 1):
            raise UsageError("--stream reads whole sets in one process: no --limit, no torchrun")

    def streams(self, protocol: Protocol) -> bool:
        """Return whether a data set is measured while its archives are fetched."""
        has_list = bool(getattr(protocol, "annotations", ""))
        return self.stream and protocol.repository is not None and not has_list


class Progress(NamedTuple):
    """One step of a long loop: `done` of `total` units of `phase`, and a line for the user."""

    phase: str
    done: int
    total: int
    note: str = ""


OnProgress = Callable[[Progress], None]


def no_progress(step: Progress) -> None:
    """Show nothing."""
