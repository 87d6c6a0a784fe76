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
class DataOptions:
    """Options of data sets: the samples that are measured, and where they are read from."""

    # The folder that data sets are read from.
    data_root: str | None = None
    # Whether missing data sets are downloaded, and archives measured while they are fetched.
    download: bool = False
    stream: bool = False
    # The first samples to measure; None: all.
    limit: int | None = None
    # Whether the samples of a known data set that is incomplete are measured.
    allow_partial: bool = False

    def streams(self, protocol: Protocol) -> bool:
        """Return whether a data set is measured while its archives are fetched."""
        has_list = bool(getattr(protocol, "annotations", ""))
        return self.stream and protocol.repository is not None and not has_list


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The form in which a model is measured."""

    # The form of attention of the last block; None: the protocol's own.
    attention: Attention | None = None
    # The encoder that guides attention `proxy`, as `--auxiliary` takes it.
    auxiliary: str | None = None
    # `auto` is the first CUDA device, or else the CPU.
    device: str = "auto"
    precision: Precision = "fp32"


@dataclass(frozen=True, kw_only=True)
class RunOptions(DataOptions, ModelOptions):
    """All options of a run: data, model, and how results are computed and stored.

    Raises UsageError for options that contradict each other.
    """

    batch_size: int = 32
    # Threads that read images.
    workers: int = 2
    # The folder for predicted label maps, and whether they are also drawn over the images.
    save_predictions: str | None = None
    overlays: bool = False
    # The folder for the finished parts of a measurement, from which a killed run resumes.
    unfinished: str | None = None
    # The folder for embeddings; None: they are not cached.
    cache: str | None = None
    seed: int = 0
    # The processes that share the work.
    distributed: Distributed = SINGLE_PROCESS

    def __post_init__(self) -> None:
        if self.allow_partial and self.limit is not None:
            raise UsageError("--partial measures all samples found and --limit the first: give one")
        if (self.attention == "proxy") != (self.auxiliary is not None):
            raise UsageError("--attention proxy and --auxiliary SPEC, which guides it, go together")
        if self.stream and (self.limit is not None or self.distributed.world_size > 1):
            raise UsageError("--stream reads whole sets in one process: no --limit, no torchrun")


class Progress(NamedTuple):
    """One step of a long loop: `done` of `total` units of `phase`, and a line for the user."""

    phase: str
    done: int
    total: int
    note: str = ""


OnProgress = Callable[[Progress], None]


def no_progress(step: Progress) -> None:
    """Show nothing."""
