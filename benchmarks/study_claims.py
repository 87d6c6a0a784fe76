"""`python benchmarks/study_claims.py [FAMILY] [TRAININGS]`: the tests of a study.

FAMILY is the file of a family of tests, by default benchmarks/study/family.yaml. Everything is
computed from the stored results in TRAININGS, by default the folder beside FAMILY.
`cosmos-eval compare --group` corrects within one comparison; a text that draws on several
comparisons must correct over the tests of all of them.

Without all trainings nothing is tested. `--interim` prints the means of those that are there.
`--without-seed N` repeats the tests without the trainings of a seed, such as one whose results were
seen before something was changed.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev

from _family import Family, Side, least_p_value, read_family, seeds_text
from _family_tests import (
    Outcome,
    SideResults,
    StudyTests,
    extra_seeds,
    first_result_time,
    metric_values,
    results_by_side,
)

from cosmos_core.utils.files import file_sha256
from cosmos_eval.results.identity import training_of
from cosmos_eval.results.labels import StoredResult
from cosmos_eval.results.store import read_stored, result_paths
from cosmos_eval.results.text import markdown_table, p_value_text
from cosmos_eval.types import UsageError

FAMILY = Path(__file__).parent / "study" / "family.yaml"
_TIME = "%Y-%m-%d %H:%M UTC"


def main() -> None:
    """Print the outcomes of a family of tests."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("family", nargs="?", type=Path, default=FAMILY)
    parser.add_argument("trainings", nargs="?", type=Path, help="by default beside the family")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--interim", action="store_true", help="print means and counts, no tests")
    choice.add_argument("--without-seed", type=int, help="only the tests without this seed")
    arguments = parser.parse_args()
    try:
        family = read_family(arguments.family)
        trainings = arguments.trainings or arguments.family.parent / "trainings"
        stored = read_stored(result_paths(trainings))
        results = results_by_side(family, stored)
        if arguments.interim:
            lines = [*interim_report(family, results)]
        elif arguments.without_seed is not None:
            lines = [*report_without_seed(StudyTests(family, results), arguments.without_seed)]
        else:
            study = StudyTests(family, results)
            lines = [*report(study), "\n## Trainings\n", trainings_table(study), "## Notes\n"]
            lines += [wrap(note) for note in notes(study, arguments.family, stored)]
    except UsageError as error:
        parser.exit(2, f"study_claims: {error}\n")
    print("\n".join(lines))


def report(study: StudyTests) -> Iterator[str]:
    """Yield the lines of the verdict and the tables, in Markdown."""
    family = study.family
    outcomes = study.outcomes()
    yield f"# {family.title}: the tests\n"
    yield wrap(verdict(family, outcomes))
    seeds = [seed for seed in family.settings_chosen_with_seeds if is_tested(seed, study.results)]
    if not seeds:
        yield from tables(family, outcomes, "")
        return
    other_outcomes = study.outcomes(without_seeds=seeds)
    condition = f" without {seeds_text(seeds)}"
    yield wrap(
        f"Without {seeds_text(seeds)}, with which settings were chosen: "
        f"{verdict(family, other_outcomes)}"
    )
    yield from tables(family, outcomes, "")
    yield from tables(family, other_outcomes, condition)


def report_without_seed(study: StudyTests, seed: int) -> Iterator[str]:
    """Yield the lines of the verdict and the tables without the trainings of a seed, in Markdown.

    Raises:
        UsageError: If no training has the seed.
    """
    if not is_tested(seed, study.results):
        raise UsageError(f"no training has seed {seed}")
    outcomes = study.outcomes(without_seeds=[seed])
    condition = f" without {seeds_text([seed])}"
    yield f"# {study.family.title}: the tests{condition}\n"
    yield wrap(verdict(study.family, outcomes))
    yield from tables(study.family, outcomes, condition)


def wrap(note: str) -> str:
    """Return a text as an item of a list in Markdown, in lines of at most 100 characters."""
    return textwrap.fill(
        note, 100, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False
    )


def is_tested(seed: int, results: SideResults) -> bool:
    """Return whether a training with a seed is among the results."""
    return any(seed in results_by_seed for results_by_seed in results.values())


def verdict(family: Family, outcomes: Sequence[Outcome]) -> str:
    """Return how many tests show a difference or an equivalence.

    Example:
        "10 of 32 differences (10 as expected) and 0 of 9 equivalences are shown at 5%, with Holm's
        correction over all 41 tests."
    """
    differences = [outcome for outcome in outcomes if not outcome.test.is_equivalence]
    shown = [outcome for outcome in differences if outcome.p_holm <= family.tests.level]
    n_expected = sum(is_as_expected(family, outcome) for outcome in shown)
    text = f"{len(shown)} of {len(differences)} differences ({n_expected} as expected)"
    equivalences = [outcome for outcome in outcomes if outcome.test.is_equivalence]
    if equivalences:
        n_shown = sum(outcome.p_holm <= family.tests.level for outcome in equivalences)
        text += f" and {n_shown} of {len(equivalences)} equivalences"
    level = f"{100 * family.tests.level:g}%"
    tests = f"all {len(outcomes)} tests"
    return f"{text} are shown at {level}, with Holm's correction over {tests}."


def is_as_expected(family: Family, outcome: Outcome) -> bool:
    """Return whether a difference has the sign that the paper expects."""
    expected_sign = 1 if family.metrics[outcome.test.a.metric].expected == "higher" else -1
    return expected_sign * outcome.difference > 0


def tables(family: Family, outcomes: Sequence[Outcome], condition: str) -> Iterator[str]:
    """Yield the lines of a section on differences, and of one on equivalences if there are any.

    Args:
        family: The family of the tests.
        outcomes: The outcomes of the tests.
        condition: The end of the titles of the sections, such as " without seed 0".
    """
    differences = [outcome for outcome in outcomes if not outcome.test.is_equivalence]
    equivalences = [outcome for outcome in outcomes if outcome.test.is_equivalence]
    level = 100 * family.tests.level
    yield f"\n## Differences{condition}\n"
    yield _table(family, differences, f"A - B [{100 - level:g}%]", "shown").rstrip()
    if equivalences:
        margin = family.require_margin()
        title = f"within {margin.points:g} {margin.unit}"
        yield f"\n## Equivalences{condition}\n"
        yield _table(family, equivalences, f"A - B [{100 - 2 * level:g}%]", title).rstrip()


def _table(
    family: Family, outcomes: Sequence[Outcome], interval_title: str, shown_title: str
) -> str:
    """Return a table of tests in Markdown.

    Args:
        family: The family of the tests.
        outcomes: The outcomes of the tests.
        interval_title: The title of the column with the difference and its interval.
        shown_title: The title of the column that says what the tests show.
    """
    header = [
        "comparison",
        "metric",
        shown_title,
        "k",
        "A",
        "B",
        interval_title,
        "p, seeds and images",
        "p, permutation",
        "least possible",
        "p (Holm)",
    ]
    rows = [_table_row(family, outcome) for outcome in outcomes]
    return markdown_table(header, rows, n_text_columns=3)


def _table_row(family: Family, outcome: Outcome) -> list[str]:
    """Return the cells of a test in the table of `_table`."""
    return [
        outcome.test.comparison,
        outcome.test.a.metric,
        _shown(family, outcome),
        f"{outcome.n_a} / {outcome.n_b}",
        f"{outcome.a:.1f}",
        f"{outcome.b:.1f}",
        f"{outcome.difference:+.1f} [{outcome.low:+.1f}, {outcome.high:+.1f}]",
        p_value_text(outcome.p_model),
        p_value_text(outcome.p_exact),
        p_value_text(outcome.least_p_exact),
        p_value_text(outcome.p_holm),
    ]


def _shown(family: Family, outcome: Outcome) -> str:
    """Return what a test shows: "A higher", "A lower", "yes" for an equivalence, or "no"."""
    if outcome.p_holm > family.tests.level:
        return "no"
    if outcome.test.is_equivalence:
        return "yes"
    return "A higher" if outcome.difference > 0 else "A lower"


def trainings_table(study: StudyTests) -> str:
    """Return a table of each method's seeds, and of how much a training saw and computed."""
    rows = []
    for method in study.family.methods:
        results_by_seed: dict[int, StoredResult] = {}
        for side, results_of_side in study.results.items():
            if side.method == method:
                results_by_seed |= results_of_side
        trainings = [training_of(result.row) for result in results_by_seed.values()]
        # Some trainings do not state these. FLOPs vary by the texts that a seed draws.
        samples = {training["samples"] for training in trainings} - {None}
        flops = [training["flops"] for training in trainings if training["flops"] is not None]
        rows.append(
            [
                method,
                ", ".join(str(seed) for seed in sorted(results_by_seed)),
                " or ".join(f"{number:,}" for number in sorted(samples)),
                f"{mean(flops) / 1e12:.0f}" if flops else "",
            ]
        )
    header = ["method", "seeds", "samples", "mean TFLOPs"]
    return markdown_table(header, rows, n_text_columns=2)


def notes(study: StudyTests, path: Path, stored: Sequence[StoredResult]) -> Iterator[str]:
    """Yield the notes on the tests of a family.

    Args:
        study: The tests.
        path: The file of the family.
        stored: All stored results, of which the study's are a selection.
    """
    family = study.family
    first_time = first_result_time(study.results)
    order = "before" if family.time < first_time else "after"
    yield (
        f"The tests were stated in `{path.name}` (SHA-256 {file_sha256(path)[:12]}) on "
        f"{family.time:{_TIME}}, {order} the earliest of the stored results, of "
        f"{first_time:{_TIME}}. Results may have been measured again."
    )
    yield (
        "k: trainings of A and B. `p, seeds and images` takes both as random (docs/comparing.md). "
        "`p, permutation` divides the trainings among A and B in all ways; it takes the images as "
        f"they are. `p (Holm)` corrects `p, {family.tests.decides}`."
    )
    yield from _notes_on_power(study)
    if family.tests.equivalences:
        margin = family.require_margin()
        yield (
            f"Equivalence: two one-sided tests with a margin of {margin.points:g} {margin.unit}. "
            f"{margin.reason}"
        )
    for failure in family.failed:
        yield f"Failed: {failure.method}, seed {failure.seed}: {failure.reason}"
    for method, seeds in extra_seeds(family, stored).items():
        yield f"Not in the family: {method}, {seeds_text(seeds)}."
    yield from family.rules
    yield f"Not in the family, so not tested: {'; '.join(family.exploratory)}."


def _notes_on_power(study: StudyTests) -> Iterator[str]:
    """Yield a note if no permutation test can pass Holm's correction."""
    least_p_values = []
    for test in study.family.planned_tests():
        n_a, n_b = len(study.results[test.a]), len(study.results[test.b])
        least_p_values.append(least_p_value(test, n_a, n_b))
    least_p_holm = len(least_p_values) * min(least_p_values)
    if least_p_holm > study.family.tests.level:
        yield (
            "With so few trainings no permutation test can pass the correction: "
            f"{len(least_p_values)} times its least p-value is "
            f"{p_value_text(min(least_p_holm, 1))}."
        )


def interim_report(family: Family, results: SideResults) -> Iterator[str]:
    """Yield the lines of a table of means of the trainings that are there, without any test.

    Cells have the mean and the standard deviation over trainings, and their number in brackets.
    """
    n_complete, n_planned = count_trainings(family, results)
    yield f"# INTERIM: {family.title}"
    yield ""
    yield f"{n_complete} of {n_planned} trainings are complete. Nothing is tested before all are."
    yield ""
    titles = list(dict.fromkeys(side.metric for side in results))
    rows = []
    for method in family.methods:
        n_complete_of_method = len(complete_seeds(method, results))
        cells = [method, f"{n_complete_of_method} / {len(family.seeds_of(method))}"]
        for title in titles:
            results_of_side = results.get(Side(method, title), {})
            cells.append(mean_cell(metric_values(results_of_side, family.metrics[title])))
        rows.append(cells)
    yield markdown_table(["method", "complete", *titles], rows, n_text_columns=1)


def count_trainings(family: Family, results: SideResults) -> tuple[int, int]:
    """Return the numbers of complete trainings and of planned ones that did not fail."""
    n_complete = sum(len(complete_seeds(method, results)) for method in family.methods)
    n_planned = sum(len(family.seeds_of(method)) for method in family.methods)
    return n_complete, n_planned


def complete_seeds(method: str, results: SideResults) -> set[int]:
    """Return the seeds of a method's trainings that have all metrics of the method's tests."""
    seeds_by_metric = [set(seeds) for side, seeds in results.items() if side.method == method]
    return set.intersection(*seeds_by_metric) if seeds_by_metric else set()


def mean_cell(values: Sequence[float]) -> str:
    """Return the mean of trainings, their standard deviation and number; empty without trainings.

    Example:
        [40.0, 50.0, 60.0] -> "50.0 ± 10.0 (3)"
        [40.0] -> "40.0 (1)"
    """
    if not values:
        return ""
    spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    return f"{mean(values):.1f}{spread} ({len(values)})"


if __name__ == "__main__":
    main()
