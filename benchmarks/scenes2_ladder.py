"""`python benchmarks/scenes2_ladder.py [OUTPUT] [--list]`: what each part of COSMOS brings.

The rungs of a ladder lead from CLIP to COSMOS, each with one part more. They are those of Table 5
of the paper (arXiv 2412.01814), as others quote it. Three seeds of each rung are trained by the
recipe `scenes_tiny` with the learning rate that the tuning of benchmarks/scenes2_study.py chooses
for COSMOS. Rungs that the study has with this learning rate are not trained again.

With OUTPUT, the folder of the study's trainings and scenes or another one, rungs are trained and
measured into benchmarks/scenes2/ladder. The command can be stopped at any moment, and the same
command goes on. Without OUTPUT it only prints the ladder of the trainings that are measured.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import _scenes2_worker as worker
from _ladder_table import Rung, RungTrainings, report
from _scenes2_jobs import (
    ROOT,
    ExploratoryJob,
    Job,
    choose_learning_rates,
    is_measured,
    recipe_steps,
)

from cosmos_eval.types import UsageError

RESULTS = ROOT / "benchmarks" / "scenes2" / "ladder"
SEEDS = (0, 1, 2)
FINISHED_METHOD = "COSMOS"


class RungRecipe(NamedTuple):
    """How a rung is trained."""

    rung: Rung
    # The settings of `cosmos-train scenes_tiny` that make the rung.
    settings: tuple[str, ...]
    # The method of the study that has the same settings; empty: none.
    study_method: str = ""

    @property
    def row(self) -> str:
        """The name of the rung's trainings, such as "ladder, image augmentation"."""
        return f"ladder, {self.rung.name}"


_RAW = "text.captions=raw_caption"
_NO_LOCAL_TEXTS = "method.local_texts=false"
_IMAGES_ONLY = ("method.cross_attention=false", "method.distill_images_only=true")

# What is read in the released code (github.com/ExplainableML/cosmos, commit c80348f) is marked so.
# The text of the paper's section on Table 5 could not be read: the rest is a reading of its titles.
RUNGS = (
    RungRecipe(
        Rung(
            "CLIP",
            "CLIP ViT-B/16 (CC3M-recap)",
            "one crop of 90 to 100% of the image, colours unchanged, against the raw caption "
            "(released code: OpenCLIP's crop without `--use-imagecrop-aug`, one raw caption)",
        ),
        ("method=clip", _RAW, "image.global_scale=0.9,1", "image.jitter_p=0"),
    ),
    RungRecipe(
        Rung(
            "image augmentation",
            "CLIP ViT-B/16 + image augmentation (CC3M-recap)",
            "CLIP's loss of two augmented global crops with the raw caption; there are no local "
            "crops (released code: they are left out of CLIP's loss, because they overfit)",
        ),
        ("method.distillation=false", _NO_LOCAL_TEXTS, _RAW),
    ),
    RungRecipe(
        Rung(
            "image self-distillation",
            "CLIP ViT-B/16 + image self-distillation (CC3M-recap)",
            "also distils the teacher's two global crops into the student's global and local crops",
        ),
        (*_IMAGES_ONLY, _NO_LOCAL_TEXTS, _RAW),
    ),
    RungRecipe(
        Rung(
            "text augmentation",
            "CLIP ViT-B/16 + text augmentation (CC3M-recap)",
            "raw and synthetic captions: two global views of 1 to 5 sentences and local views of "
            "one sentence, all of them in CLIP's loss",
        ),
        _IMAGES_ONLY,
    ),
    RungRecipe(
        Rung(
            "text self-distillation",
            "CLIP ViT-B/16 + text self-distillation (CC3M-recap)",
            "also distils into the student's captions, and from the teacher's captions: the four "
            "groups of COSMOS, with plain features (a reading: the paper may have meant captions "
            "into captions alone)",
        ),
        ("method.cross_attention=false",),
        study_method="COSMOS without cross-attention",
    ),
    RungRecipe(
        Rung(
            "cross-attention = COSMOS",
            "CLIP ViT-B/16 + cross-attention = COSMOS (CC3M-recap)",
            "distils into cross-modal features",
        ),
        (),
        study_method=FINISHED_METHOD,
    ),
)
_RUNG_BY_ROW = {rung_recipe.row: rung_recipe for rung_recipe in RUNGS}


class RungJob(ExploratoryJob):
    """One training of a rung that the study does not have."""

    __slots__ = ()

    @property
    def method_settings(self) -> tuple[str, ...]:
        """The settings that make the rung."""
        return _RUNG_BY_ROW[self.row].settings

    @property
    def results_root(self) -> Path:
        """The folder of the results of all rungs."""
        return RESULTS


def jobs_by_rung(learning_rates: Mapping[str, str]) -> dict[str, list[Job]]:
    """Return the trainings of each rung, by its name, from the lowest rung up.

    Args:
        learning_rates: The learning rates that the study has chosen, by method. Rungs that depend
            on a missing one are left out.
    """
    jobs = {}
    for rung_recipe in RUNGS:
        methods = {FINISHED_METHOD, rung_recipe.study_method or FINISHED_METHOD}
        if methods <= learning_rates.keys():
            jobs[rung_recipe.rung.name] = jobs_of(rung_recipe, learning_rates)
    return jobs


def jobs_of(rung_recipe: RungRecipe, learning_rates: Mapping[str, str]) -> list[Job]:
    """Return the trainings of a rung: the study's if it has them with COSMOS's learning rate.

    Args:
        rung_recipe: The rung.
        learning_rates: The learning rates of COSMOS and of the study's method, by method.
    """
    steps = recipe_steps()
    learning_rate = learning_rates[FINISHED_METHOD]
    method, row = rung_recipe.study_method, rung_recipe.row
    if method and learning_rates[method] == learning_rate:
        return [Job(method, method, learning_rate, seed, steps) for seed in SEEDS]
    return [RungJob(row, row, learning_rate, seed, steps) for seed in SEEDS]


def rung_jobs() -> list[RungJob]:
    """Return the trainings that the study does not have, one seed of all rungs after the other."""
    jobs = []
    for jobs_of_rung in jobs_by_rung(choose_learning_rates()).values():
        jobs += [job for job in jobs_of_rung if isinstance(job, RungJob)]
    return sorted(jobs, key=lambda job: job.seed)


def work(output: Path) -> list[str]:
    """Train and measure all rungs. Return the names of the trainings that failed."""
    return worker.work(output, rung_jobs)


def rung_trainings(learning_rates: Mapping[str, str]) -> list[RungTrainings]:
    """Return where the results of each rung are.

    Args:
        learning_rates: The learning rates that the study has chosen, by method.
    """
    jobs = jobs_by_rung(learning_rates)
    trainings = []
    for rung_recipe in RUNGS:
        jobs_of_rung = jobs.get(rung_recipe.rung.name, [])
        group = jobs_of_rung[0].group if jobs_of_rung else ""
        folders = [job.results_folder for job in jobs_of_rung if is_measured(job)]
        trainings.append(RungTrainings(rung_recipe.rung, group, folders))
    return trainings


def learning_rate_note(learning_rates: Mapping[str, str]) -> str:
    """Return what is known of the learning rate, as a note on the ladder."""
    if FINISHED_METHOD not in learning_rates:
        return worker.NO_LEARNING_RATE
    learning_rate = learning_rates[FINISHED_METHOD]
    tuned_rungs = []
    for rung_recipe in RUNGS:
        if learning_rates.get(rung_recipe.study_method) == learning_rate:
            tuned_rungs.append(rung_recipe.rung.name)
    tuned = ", ".join(tuned_rungs)
    return (
        f"All rungs have the learning rate {learning_rate}, which tuning chose for "
        f"{FINISHED_METHOD} (tuned: {tuned}). It was not tuned for the others, so that steps up to "
        "the first tuned rung may include an effect of the learning rate."
    )


def main() -> None:
    """Run the command line."""
    arguments = worker.run_command_line(__doc__, rung_jobs, work, needs_output=False)
    learning_rates = choose_learning_rates()
    note = learning_rate_note(learning_rates)
    if arguments.list:
        print(note)
        return
    try:
        print("\n".join(report(rung_trainings(learning_rates), SEEDS, note)))
    except UsageError as error:
        print(f"scenes2_ladder: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
