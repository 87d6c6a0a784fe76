"""Options of a run, and the progress that it reports.

`DataOptions` and `ModelOptions` say what is measured. `RunOptions` has the fields of both, and adds
how results are computed and stored, and the processes (`Distributed`) that share the work.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar
from typing import Protocol as Interface

from cosmos_core.utils.distributed import SINGLE_PROCESS, Distributed
from cosmos_eval.types.errors import UsageError
from cosmos_eval.types.models import Attention, Precision
from cosmos_eval.types.protocols import Protocol

Executor = Literal["local", "ray", "slurm"]

Value = TypeVar("Value")


class InputMemory(Interface):
    """Keeps prepared inputs for the next measurement of the same data set.

    `cosmos_eval.embedding.prepared.PreparedInputs` explains the methods.
    """

    def get(self, key: Hashable, prepare: Callable[[], Value]) -> Value:
        """Return the value that is kept under a key, or prepare it and keep it."""

    def sha256(self, image: Any, compute: Callable[[], bytes]) -> bytes:
        """Return the SHA-256 of an image's file."""

    def pixels(
        self, sha256: bytes, transform: Callable[[Any], Any], load: Callable[[], Any]
    ) -> Any:
        """Return the pixels (3, H, W) float32 of an image, as a transform returns them."""


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Options that decide which samples of data sets are measured, and where they are read."""

    # The folder that data sets are read from.
    data_root: str | None = None
    # Whether missing data sets are downloaded.
    download: bool = False
    # Whether archives are measured while they are downloaded, without being kept.
    stream: bool = False
    # How many samples are measured, from the first one on; None: all.
    limit: int | None = None
    # Whether an incomplete data set is measured on the samples that are on the disk.
    allow_partial: bool = False

    def streams(self, protocol: Protocol) -> bool:
        """Return whether a data set is measured while its archives are downloaded.

        Only data sets on the Hugging Face hub that consist of tar archives can be streamed.
        """
        is_on_hub = protocol.repository is not None
        has_annotation_file = bool(getattr(protocol, "annotations", ""))
        return self.stream and is_on_hub and not has_annotation_file


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Options that decide how a model is run."""

    # The form of attention of the last block; None: the protocol's own.
    attention: Attention | None = None
    # The specification of the encoder that guides attention `proxy`.
    auxiliary: str | None = None
    # `auto` is the first CUDA device, or else the CPU.
    device: str = "auto"
    precision: Precision = "fp32"


@dataclass(frozen=True, kw_only=True)
class RunOptions(DataOptions, ModelOptions):
    """All options of a run: of data, of models, and how results are computed and stored.

    Raises UsageError for options that contradict each other.
    """

    # How many images or texts are encoded at once.
    batch_size: int = 32
    # How many threads read images.
    workers: int = 2
    # The folder for predicted label maps; None: they are not written.
    save_predictions: str | None = None
    # Whether predicted label maps are also drawn over the images.
    overlays: bool = False
    # The folder for the finished parts of a measurement, from which a killed run resumes.
    unfinished: str | None = None
    # The folder for embeddings; None: they are not cached.
    cache: str | None = None
    seed: int = 0
    # Keeps images in memory for the next measurement; None: they are read each time.
    memory: InputMemory | None = None
    # The processes that share the work; by default, there is only one.
    distributed: Distributed = SINGLE_PROCESS

    def __post_init__(self) -> None:
        """Raise UsageError for options that contradict each other."""
        if self.allow_partial and self.limit is not None:
            raise UsageError("--partial measures all samples found and --limit the first: give one")
        if (self.attention == "proxy") != (self.auxiliary is not None):
            raise UsageError("--attention proxy and --auxiliary SPEC, which guides it, go together")
        if self.stream and (self.limit is not None or self.distributed.world_size > 1):
            raise UsageError("--stream reads whole sets in one process: no --limit, no torchrun")
        if self.overlays and self.save_predictions is None:
            raise UsageError("--overlays needs --save-predictions DIR: where the pictures go")


class Progress(NamedTuple):
    """How far a long loop has come, such as 3 of 10 label maps."""

    # The work or the product of the loop, such as `label maps`.
    phase: str
    # How many steps are done, and how many there are.
    done: int
    total: int
    # A line for the user.
    note: str = ""
    # What is known so far, such as `A - B: +2.1 [-0.4, 4.6] after 512 of 5,000 images`.
    state: str = ""


OnProgress = Callable[[Progress], None]
"""A function that is called after each step of a long loop."""


def no_progress(step: Progress) -> None:
    """Ignore the progress of a loop. It is the default of functions that report progress."""
