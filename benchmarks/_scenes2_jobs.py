"""The trainings of the study of scenes of version 2, and what is known of each.

`scenes2_study.py` says what the study is. `_scenes2_worker.py` makes the trainings.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from _family import read_family

from cosmos_core.data.scenes import VERSION_2
from cosmos_core.recipes import RECIPES
from cosmos_core.recipes.scenes import TRAIN_SCENES
from cosmos_eval import read_results

ROOT = Path(__file__).parents[1]
FAMILY = ROOT / "benchmarks" / "scenes2" / "family.yaml"
RESULTS = ROOT / "benchmarks" / "scenes2" / "trainings"
TUNING_RESULTS = ROOT / "benchmarks" / "scenes2" / "tuning"
# The file among the results of a diverged tuning training. It says which loss is not finite.
DIVERGED = "diverged.txt"
RECIPE = "scenes_tiny"

# The settings of `cosmos-train scenes_tiny` that make each method.
METHODS: dict[str, tuple[str, ...]] = {
    "CLIP": ("method=clip",),
    "SLIP": ("method=slip", "method.hidden=512", "method.out=128"),
    "SILC": ("method=silc", "method.hidden=512", "method.bottleneck=128", "method.prototypes=1024"),
    "SigLIP": ("method=siglip", f"method.bias={RECIPES['scenes_siglip']().method.bias}"),
    "FLAIR": (
        "method=flair",
        f"method.bias={RECIPES['scenes_flair']().method.bias}",
        "text.max_sentences=3",
    ),
    "multi-view CLIP": ("method.distillation=false",),
    "COSMOS without cross-attention": ("method.cross_attention=false",),
    "COSMOS": (),
}
# The steps with which a method has the FLOPs of COSMOS; a test counts them.
EQUAL_COMPUTE_STEPS = {"CLIP": 9_780, "multi-view CLIP": 3_631}
LEARNING_RATES = ("0.0005", "0.001", "0.002")
# Tried by methods whose best learning rate is the largest one so far, so that the best one lies
# between two worse ones.
LARGER_LEARNING_RATES = ("0.004", "0.008")
SEEDS = range(8)
TUNING_SEED = 100  # differs from the seeds of the study, so that no seed of it was tuned
TEST_SETS = (
    "scenes2-select",
    "scenes2-select-control",
    "scenes2-select-seen",
    "scenes2-beside",
    "scenes2-siblings",
    "scenes2-retrieval",
    "scenes2-cls",
)
# The sets for trainings of the ladder, of scaling and of the control, which are exploratory.
EXPLORATORY_TEST_SETS = (
    "scenes2-select",
    "scenes2-beside",
    "scenes2-siblings",
    "scenes2-retrieval",
    "scenes2-cls",
)
VALIDATION_SETS = ("retrieval", "cls", "select")
DIRECTIONS = ("image_to_text", "text_to_image")


class Job(NamedTuple):
    """One training of the study."""

    # The row of the tables, such as "CLIP" or "CLIP, equal compute".
    row: str
    method: str
    learning_rate: str
    seed: int
    steps: int

    @property
    def is_tuning(self) -> bool:
        """Whether the training only serves to choose the learning rate."""
        return self.seed == TUNING_SEED

    @property
    def _file_name(self) -> str:
        """The row in small letters, such as "clip-equal-compute"."""
        return self.row.lower().replace(",", "").replace(" ", "-")

    @property
    def name(self) -> str:
        """The name of the training's folder."""
        if self.is_tuning:
            return f"{self._file_name}-lr-{self.learning_rate}"
        return f"{self._file_name}-seed-{self.seed}"

    @property
    def group(self) -> str:
        """The name of the trainings of the row in results, without the hash of the recipe."""
        return f"scenes2-{self._file_name}"

    @property
    def method_settings(self) -> tuple[str, ...]:
        """The settings that make the method."""
        return METHODS[self.method]

    @property
    def datasets(self) -> tuple[str, ...]:
        """The sets that the training is measured on, without segmentation."""
        return VALIDATION_SETS if self.is_tuning else TEST_SETS

    @property
    def has_segmentation(self) -> bool:
        """Whether scenes2-seg is measured besides."""
        return not self.is_tuning

    @property
    def settings(self) -> list[str]:
        """The settings of `cosmos-train scenes_tiny`."""
        return [
            *self.method_settings,
            f"recipe={self.group}",
            f"optim.lr={self.learning_rate}",
            f"optim.steps={self.steps}",
            f"seed={self.seed}",
            # The same on every CPU, although it is slow without AVX-512.
            "compute.precision=bf16",
            "save.every=250",
            "data.workers=0",
            "data.cache_gb=1.5",
            "compute.compile=true",
            "watch.pictures=false",
        ]

    def scenes_folder(self, output: Path) -> Path:
        """Return the folder of the scenes that the training sees.

        Args:
            output: The folder of the trainings and scenes.
        """
        return training_scenes(output)

    @property
    def n_computed_steps(self) -> int:
        """The steps that the training computes, without those of a training it branches from."""
        return self.steps

    @property
    def results_root(self) -> Path:
        """The folder of the results of all trainings of this kind."""
        return TUNING_RESULTS if self.is_tuning else RESULTS

    @property
    def results_folder(self) -> Path:
        """The folder of the results of this training."""
        return self.results_root / self.name


class ExploratoryJob(Job):
    """One training of the ladder, of scaling or of the control, which is measured on fewer sets."""

    __slots__ = ()

    @property
    def datasets(self) -> tuple[str, ...]:
        """The sets that the training is measured on."""
        return EXPLORATORY_TEST_SETS

    @property
    def has_segmentation(self) -> bool:
        """False: scenes2-seg is not measured."""
        return False


class LearningRates(NamedTuple):
    """The learning rates of a method."""

    # The rates to try, in increasing order.
    to_try: list[str]
    # The best one. None before all are tried, and if all trainings diverged.
    chosen: str | None


def training_scenes(output: Path) -> Path:
    """Return the folder of the training scenes."""
    return output / f"{VERSION_2.name}-{TRAIN_SCENES}"


@cache
def recipe_steps() -> int:
    """Return the steps of a training by the recipe."""
    return RECIPES[RECIPE]().optim.steps


def tuning_jobs() -> list[Job]:
    """Return the trainings that choose learning rates, as far as measured ones decide them."""
    steps = recipe_steps()
    rates_by_method = {method: find_learning_rates(method).to_try for method in METHODS}
    jobs = []
    for learning_rate in (*LEARNING_RATES, *LARGER_LEARNING_RATES):
        for method, rates in rates_by_method.items():
            if learning_rate in rates:
                jobs.append(Job(method, method, learning_rate, TUNING_SEED, steps))
    return jobs


def find_learning_rates(method: str) -> LearningRates:
    """Return the learning rates of a method to try, and the one with the best score.

    A larger rate is tried if the largest one so far is the best. Of equal scores, the smallest rate
    is chosen.
    """
    rates = [*LEARNING_RATES]
    larger_rates = [*LARGER_LEARNING_RATES]
    while True:
        jobs = [Job(method, method, rate, TUNING_SEED, recipe_steps()) for rate in rates]
        if not all(is_done(job) for job in jobs):
            return LearningRates(rates, None)
        scores = {}
        for job in jobs:
            if not has_diverged(job):
                scores[job.learning_rate] = validation_score(job.results_folder)
        if not scores:
            return LearningRates(rates, None)
        best_rate = max(scores, key=scores.__getitem__)
        if best_rate != rates[-1] or not larger_rates:
            return LearningRates(rates, best_rate)
        rates.append(larger_rates.pop(0))


def study_jobs(learning_rates: Mapping[str, str]) -> list[Job]:
    """Return the trainings of the study, one seed of all rows after the other.

    Args:
        learning_rates: The learning rates by method. Methods without one are left out.
    """
    steps = recipe_steps()
    jobs = []
    for seed in SEEDS:
        for method, learning_rate in learning_rates.items():
            jobs.append(Job(method, method, learning_rate, seed, steps))
        for method, more_steps in EQUAL_COMPUTE_STEPS.items():
            if method in learning_rates:
                row = f"{method}, equal compute"
                jobs.append(Job(row, method, learning_rates[method], seed, more_steps))
    return jobs


def choose_learning_rates() -> dict[str, str]:
    """Return the chosen learning rate of each method for which all trainings are tried."""
    chosen_rates = {}
    for method in METHODS:
        learning_rate = find_learning_rates(method).chosen
        if learning_rate is not None:
            chosen_rates[method] = learning_rate
    return chosen_rates


def validation_score(folder: Path) -> float:
    """Return the mean of R@1 (both directions), acc1 and the accuracy of choices, from 0 to 1."""
    metrics = {row.dataset: row.metrics for row in read_results(folder)}
    recall = statistics.mean([metrics["retrieval"][f"{direction}_R@1"] for direction in DIRECTIONS])
    return statistics.mean([recall, metrics["cls"]["acc1"], metrics["select"]["accuracy"]])


def is_measured(job: Job) -> bool:
    """Return whether all results of a training are there."""
    n_results = len(job.datasets) + int(job.has_segmentation)
    return len([*job.results_folder.glob("*.json")]) == n_results


def has_diverged(job: Job) -> bool:
    """Return whether a tuning training is marked as diverged."""
    return (job.results_folder / DIVERGED).exists()


def is_done(job: Job) -> bool:
    """Return whether there is nothing left to do for a training."""
    return is_measured(job) or has_diverged(job)


def possible_jobs() -> list[Job]:
    """Return the trainings that can be made now: tuning, and methods whose tuning is done."""
    return [*tuning_jobs(), *without_failed(study_jobs(choose_learning_rates()))]


def planned_jobs() -> list[Job]:
    """Return all trainings. A learning rate that is not chosen yet is taken for the smallest."""
    planned_rates = dict.fromkeys(METHODS, LEARNING_RATES[0]) | choose_learning_rates()
    return [*tuning_jobs(), *without_failed(study_jobs(planned_rates))]


def without_failed(jobs: Sequence[Job]) -> list[Job]:
    """Return trainings of the study without those that the family lists as failed."""
    family = read_family(FAMILY)
    return [job for job in jobs if job.seed in family.seeds_of(job.row)]
