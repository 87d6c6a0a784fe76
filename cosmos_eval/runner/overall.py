"""The progress of a command of several stages, such as a run of several models and data sets."""

from collections.abc import Sequence
from typing import NamedTuple

from cosmos_eval.runner.plan import ShowProgress
from cosmos_eval.types import Progress

OVERALL = "overall"
"""The title under which the progress of a whole command is shown."""

_STEPS = 10_000  # of a whole command


class Stage(NamedTuple):
    """A stage of a command."""

    # The phase whose steps say how far the stage is, such as `images`.
    phase: str
    # How long the stage is expected to take, relative to the other stages.
    size: float


class OverallProgress:
    """Shows how far a whole command is, beside the progress of its stages.

    For a command with a single stage, only the progress of this stage is shown.
    """

    def __init__(self, show_progress: ShowProgress, name: str, stages: Sequence[Stage]) -> None:
        """Start before the first stage.

        Args:
            show_progress: Shows the progress of the stages, and of the whole under OVERALL.
            name: The name of the whole, such as `all results`.
            stages: The stages in their order.
        """
        self._show_progress = show_progress
        self._name = name
        self._stages = stages
        self._n_ended = 0  # stages that have ended
        self._fraction = 0.0  # of the current stage that is done
        self._show()

    def show(self, title: str, step: Progress) -> None:
        """Show a step, and how far the whole is if the step belongs to the current stage.

        A step of the phase of a later stage ends the stages before.
        """
        self._show_progress(title, step)
        for index in range(self._n_ended, len(self._stages)):
            if self._stages[index].phase != step.phase:
                continue
            if index > self._n_ended:
                self._n_ended = index
                self._fraction = 0.0
            # A phase that begins again, such as for the next caption, sets nothing back.
            self._fraction = max(self._fraction, step.done / max(step.total, 1))
            self._show()
            return

    def end_stage(self) -> None:
        """Show that the current stage has ended."""
        self._n_ended += 1
        self._fraction = 0.0
        self._show()

    def _show(self) -> None:
        """Show how far the whole is."""
        if len(self._stages) < 2:
            return
        sizes = [stage.size for stage in self._stages]
        n_done = sum(sizes[: self._n_ended])
        if self._n_ended < len(sizes):
            n_done += self._fraction * sizes[self._n_ended]
        done = round(_STEPS * n_done / sum(sizes))
        self._show_progress(OVERALL, Progress(self._name, done, _STEPS))
