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

import argparse
import signal
from pathlib import Path
from typing import NamedTuple

import scenes2_study as study
from _ladder_table import Rung, RungTrainings, report

from cosmos_eval.types import UsageError

RESULTS = study.ROOT / "benchmarks" / "scenes2" / "ladder"
SEEDS = (0, 1, 2)
DATASETS = ("scenes2-select", "scenes2-siblings", "scenes2-retrieval", "scenes2-cls")
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


class RungJob(study.Job):
    """One training of a rung that the study does not have."""

    __slots__ = ()

    @property
    def method_settings(self) -> tuple[str, ...]:
        """The settings that make the rung."""
        return _RUNG_BY_ROW[self.row].settings

    @property
    def datasets(self) -> tuple[str, ...]:
        """The sets that the training is measured on."""
        return DATASETS

    @property
    def has_segmentation(self) -> bool:
        """False: scenes2-seg is not measured."""
        return False

    @property
    def results_folder(self) -> Path:
        """The folder of the results."""
        return RESULTS / self.name


def jobs_of(rung_recipe: RungRecipe) -> list[study.Job]:
    """Return the trainings of a rung: the study's, or the ladder's own.

    The list is empty before the study has chosen the learning rates that decide this.
    """
    learning_rate = study.choose_learning_rate(FINISHED_METHOD)
    if learning_rate is None:
        return []
    steps = study.recipe_steps()
    if rung_recipe.study_method:
        study_rate = study.choose_learning_rate(rung_recipe.study_method)
        if study_rate is None:
            return []
        if study_rate == learning_rate:
            method = rung_recipe.study_method
            return [study.Job(method, method, study_rate, seed, steps) for seed in SEEDS]
    return [RungJob(rung_recipe.row, rung_recipe.row, learning_rate, seed, steps) for seed in SEEDS]


def rung_jobs() -> list[study.Job]:
    """Return the trainings that the study does not have, one seed of all rungs after the other."""
    jobs = []
    for rung_recipe in RUNGS:
        jobs += [job for job in jobs_of(rung_recipe) if isinstance(job, RungJob)]
    return sorted(jobs, key=lambda job: job.seed)


def rung_trainings(rung_recipe: RungRecipe) -> RungTrainings:
    """Return where the results of a rung are."""
    jobs = jobs_of(rung_recipe)
    group = jobs[0].group if jobs else ""
    folders = [job.results_folder for job in jobs if study.is_measured(job)]
    return RungTrainings(rung_recipe.rung, group, folders)


def learning_rate_note() -> str:
    """Return what is known of the learning rate, as a note on the ladder."""
    learning_rate = study.choose_learning_rate(FINISHED_METHOD)
    if learning_rate is None:
        return (
            "The learning rate is not chosen yet: `benchmarks/scenes2_study.py OUTPUT` does it, "
            "among its first trainings."
        )
    return (
        f"All rungs have the learning rate {learning_rate}, which tuning chose for COSMOS; it was "
        "not tuned for the other rungs."
    )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("output", type=Path, nargs="?", help="folder of the trainings and scenes")
    parser.add_argument(
        "--list", action="store_true", help="only list what is done, and hours left"
    )
    arguments = parser.parse_args()
    if arguments.list and arguments.output is None:
        parser.error("--list needs OUTPUT")
    if arguments.list:
        print("\n".join(study.listing(rung_jobs(), arguments.output)))
        print(learning_rate_note())
        return
    if arguments.output is not None:
        if not rung_jobs():
            parser.exit(2, f"scenes2_ladder: {learning_rate_note()}\n")
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        study.work(arguments.output.resolve(), rung_jobs)
    try:
        trainings = [rung_trainings(rung_recipe) for rung_recipe in RUNGS]
        print("\n".join(report(trainings, SEEDS, learning_rate_note())))
    except UsageError as error:
        parser.exit(2, f"scenes2_ladder: {error}\n")


if __name__ == "__main__":
    main()
