"""`python benchmarks/report.py [--json] [--quick]`: ten models on twelve data sets as one page.

The results are made up, with samples of the real sizes (50,000 images of ImageNet, COCO-Stuff's 171
classes), and so is the gallery of pictures. The script measures
- the whole command on these results, without data for pictures, in a new process, whose start-up is
  measured too;
- the whole command on `results/`, whose models compute pictures, while as many other processes as
  cores are busy, compared with the same if threads wait actively, as PyTorch's do by default;
  `--quick` takes the results of one data set;
- the page with pictures: how long it takes from results and gallery, how large it is, and when its
  document is ready in headless Chromium, if that is installed;
- the comparisons of every two models on two of the sets, against the plain form: pair by pair, with
  the samples of both read and a bootstrap drawn for each pair. Both must give the same differences.
Times are wall time, except those of pictures and comparisons, which are CPU time, on which other
processes on the machine have little influence.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import combinations
from pathlib import Path

from _report import Measurement, Spread, interleave, measurement, parser, report
from threadpoolctl import threadpool_limits

from cosmos_eval.reporting.content import compare_set, content_of, result_sets
from cosmos_eval.reporting.gallery.records import KINDS, pictures_of
from cosmos_eval.reporting.page import to_page
from cosmos_eval.results.compare import all_differences
from cosmos_eval.results.identity import model_label
from cosmos_eval.results.labels import StoredResult
from cosmos_eval.results.leaderboard.entries import read_published_entries
from cosmos_eval.results.store import read_result, read_samples, result_paths
from cosmos_eval.stats.paired import PairedDifference

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.report_pages import find_browser, open_browser
from support.ten_by_twelve import make_gallery, write_results

SECONDS, READY, MEGABYTES = 20.0, 1.0, 5.0  # targets of the page; READY in seconds
COMPARED = ("flickr30k-val", "cityscapes")  # the plain form takes minutes for all sets
FASTER = 3.0
STORED = Path(__file__).parents[1] / "results"
SPINS = "300000"  # of a waiting thread, libgomp's default


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__ or "").parse_args()
    rounds = 1 if arguments.quick else 5
    with tempfile.TemporaryDirectory() as folder:
        write_results(Path(folder))
        results = [StoredResult(path, read_result(path)) for path in result_paths(Path(folder))]
        lines = [
            *_command_lines(folder, rounds),
            *_picture_lines(Path(folder), arguments.quick),
            *_page_lines(results, Path(folder) / "page.html", rounds),
            *_comparison_lines(results, rounds),
        ]
    report("Report of 10 models on 12 data sets", lines, arguments.json)


def _command_lines(folder: str, rounds: int) -> Iterator[Measurement]:
    """Yield the seconds of the command on made-up results."""
    command = partial(_run_command, folder, folder)
    spread = interleave({"command": command}, rounds, warmup=0)["command"]
    yield measurement("the command, no data for pictures", spread, "s", at_most=SECONDS)


def _run_command(work: str | Path, results: str | Path, **variables: str) -> None:
    """Write a report of results into the folder `work`, with these environment variables."""
    page = Path(work) / "command.html"
    command = (sys.executable, "-m", "cosmos_eval", "report", results, "--output", page)
    environment = {**os.environ, **variables}
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, env=environment)


def _picture_lines(work: Path, quick: bool) -> Iterator[Measurement]:
    """Yield the CPU time of the command with pictures, by how its threads wait."""
    results = STORED
    if quick:
        results = work / "stored"
        results.mkdir()
        for path in STORED.glob("*__scenes-seg-small__scenes.*"):
            shutil.copy(path, results)
    passive = partial(_run_command, work, results)
    active = partial(_run_command, work, results, GOMP_SPINCOUNT=SPINS)
    passive()  # caches the embeddings
    functions = {"passive": passive, "active": active}
    with _busy_cores():
        seconds = interleave(functions, 1 if quick else 3, warmup=0, clock=_cpu_time_of_children)
    yield measurement("the command with pictures, processor", seconds["passive"], "s")
    yield measurement("the same, threads wait actively", seconds["active"], "s")
    ratio = seconds["active"].over(seconds["passive"])
    yield measurement("waiting actively / passively", ratio, "x", at_least=FASTER)


def _cpu_time_of_children() -> float:
    """Return the CPU seconds of all child processes that have ended."""
    times = os.times()
    return times.children_user + times.children_system


@contextmanager
def _busy_cores() -> Iterator[None]:
    """Keep every core busy with another process."""
    with ExitStack() as stack:
        for _ in range(os.cpu_count() or 1):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: 0"]))
            stack.callback(process.kill)
        yield


def _page_lines(results: Sequence[StoredResult], path: Path, rounds: int) -> Iterator[Measurement]:
    """Write the page with pictures, and yield its time, its size, and when it is ready."""
    gallery = make_gallery()
    examples = [example for kind in KINDS for example in getattr(gallery, kind)]
    pictures = {picture for example in examples for picture in pictures_of(example)}
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        content = content_of(results, read_samples, read_published_entries())
        page = to_page(content, gallery)
        seconds.append(time.perf_counter() - start)
    path.write_bytes(page.content)
    name = f"the page, {len(pictures)} pictures"
    yield measurement(name, Spread(tuple(seconds)), "s", at_most=SECONDS)
    yield measurement("size", len(page.content) / 1e6, "MB", at_most=MEGABYTES)
    if find_browser() is not None:
        ready = _seconds_until_ready(path, rounds + 2)
        yield measurement("document ready", ready, "s", at_most=READY)


def _seconds_until_ready(path: Path, rounds: int) -> Spread:
    """Return the seconds until the document is ready, each time in a new window.

    The first window is not counted.
    """
    expression = "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
    seconds = []
    with open_browser() as browser:
        for _ in range(1 + rounds):
            page = browser.new_context().new_page()
            page.goto(path.as_uri())
            seconds.append(page.evaluate(expression) / 1000)
            page.context.close()
    return Spread(tuple(seconds[1:]))


def _comparison_lines(results: Sequence[StoredResult], rounds: int) -> Iterator[Measurement]:
    """Yield the CPU time of all comparisons together and pair by pair."""
    compared_results = [result for result in results if result.row.dataset in COMPARED]
    if _compare_together(compared_results) != _compare_by_pairs(compared_results):
        raise AssertionError("comparing together does not find what comparing pair by pair does")
    functions = {
        "together": partial(_compare_together, compared_results),
        "pair by pair": partial(_compare_by_pairs, compared_results),
    }
    seconds = interleave(functions, rounds, warmup=0, clock=time.process_time)
    together, by_pairs = seconds["together"], seconds["pair by pair"]
    yield measurement("90 comparisons together", together, "s")
    yield measurement("90 comparisons pair by pair", by_pairs, "s")
    yield measurement("pair by pair / together", by_pairs.over(together), "x", at_least=FASTER)


Differences = dict[tuple[str, str, str], Mapping[str, PairedDifference]]
"""The differences of metrics by data set, first model and second model."""


def _compare_together(results: Sequence[StoredResult]) -> Differences:
    """Compare every two models on each data set, as a report does."""
    differences: Differences = {}
    with threadpool_limits(1):
        for result_set in result_sets(results, read_samples):
            for comparison in compare_set(result_set):
                model, other_model = comparison.models
                differences[comparison.dataset, model, other_model] = comparison.differences
    return differences


def _compare_by_pairs(results: Sequence[StoredResult]) -> Differences:
    """Compare every two models on each data set, and read the samples for each comparison."""
    differences: Differences = {}
    results_by_label = sorted(results, key=_label)
    with threadpool_limits(1):
        for a, b in combinations(results_by_label, 2):
            if a.row.dataset != b.row.dataset:
                continue
            samples = [read_samples(a.path), read_samples(b.path)]
            differences_of_pair = all_differences(a.row.task, samples, without_slow=True)[0, 1]
            differences[a.row.dataset, _label(a), _label(b)] = differences_of_pair
    return differences


def _label(result: StoredResult) -> str:
    """Return what the model of a result is called."""
    return model_label(result.row)


if __name__ == "__main__":
    main()
