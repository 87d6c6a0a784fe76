"""`python benchmarks/report.py [--json] [--quick]`: ten models on twelve data sets as one page.

Made-up results with samples of the real sizes (50,000 images of ImageNet, COCO-Stuff's 171 classes)
and a made-up gallery. Measured are
- the whole command on the results, for whose pictures there are no data here, in a process of its
  own, start-up included;
- the whole command on `results/`, whose models compute pictures, with as many other processes as
  cores, against the same with threads that wait actively, as PyTorch's do by default; `--quick`
  takes the results of one data set;
- the page with pictures: how long it takes from results and gallery, how large it is, and when its
  document is ready in headless Chromium, where that is installed;
- comparing every two models on two of the sets, against the plain formulation: pair by pair, with
  the samples of both read and a bootstrap drawn for each pair. Both must find the same.
Seconds are wall-clock time, but for pictures and comparisons, which are time of the processor, so
that other processes on the machine count little.
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

from cosmos_eval.reporting.content import Content, compare_set, content_of, result_sets
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

SECONDS, READY, MEGABYTES = 20.0, 1.0, 5.0
COMPARED = ("flickr30k-val", "cityscapes")  # the plain formulation of all takes minutes
FASTER = 3.0
STORED = Path(__file__).parents[1] / "results"
SPINS = "300000"  # of a waiting thread, libgomp's default


def main() -> None:
    """Measure and print."""
    given = parser(__doc__ or "").parse_args()
    rounds = 1 if given.quick else 5
    with tempfile.TemporaryDirectory() as folder:
        write_results(Path(folder))
        results = [StoredResult(path, read_result(path)) for path in result_paths(Path(folder))]
        lines = [
            *_command(folder, rounds),
            *_pictures(Path(folder), given.quick),
            *_page(results, Path(folder) / "page.html", rounds),
            *_comparing(results, rounds),
        ]
    report("Report of 10 models on 12 data sets", lines, given.json)


def _command(folder: str, rounds: int) -> Iterator[Measurement]:
    spread = interleave({"command": partial(_run, folder, folder)}, rounds, warmup=0)["command"]
    yield measurement("the command, no data for pictures", spread, "s", at_most=SECONDS)


def _run(work: str | Path, results: str | Path, **changes: str) -> None:
    out = Path(work) / "command.html"
    arguments = (sys.executable, "-m", "cosmos_eval", "report", results, "--output", out)
    environment = {**os.environ, **changes}
    subprocess.run(arguments, check=True, stderr=subprocess.DEVNULL, env=environment)


def _pictures(work: Path, quick: bool) -> Iterator[Measurement]:
    folder = STORED
    if quick:
        folder = work / "stored"
        folder.mkdir()
        for path in STORED.glob("*__scenes-seg-small__scenes.*"):
            shutil.copy(path, folder)
    passive = partial(_run, work, folder)
    active = partial(passive, GOMP_SPINCOUNT=SPINS)
    passive()  # embeddings are cached
    with _busy():
        both = {"passive": passive, "active": active}
        seconds = interleave(both, 1 if quick else 3, warmup=0, clock=_of_children)
    yield measurement("the command with pictures, processor", seconds["passive"], "s")
    yield measurement("the same, threads wait actively", seconds["active"], "s")
    ratio = seconds["active"].over(seconds["passive"])
    yield measurement("waiting actively / passively", ratio, "x", at_least=FASTER)


def _of_children() -> float:
    spent = os.times()
    return spent.children_user + spent.children_system


@contextmanager
def _busy() -> Iterator[None]:
    """Keep every core busy with another process."""
    with ExitStack() as stack:
        for _ in range(os.cpu_count() or 1):
            other = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: 0"]))
            stack.callback(other.kill)
        yield


def _page(results: Sequence[StoredResult], path: Path, rounds: int) -> Iterator[Measurement]:
    gallery = make_gallery()
    examples = [example for kind in KINDS for example in getattr(gallery, kind)]
    shown = {picture for example in examples for picture in pictures_of(example)}
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        page = to_page(_content(results), gallery)
        seconds.append(time.perf_counter() - start)
    path.write_bytes(page.content)
    yield measurement(
        f"the page, {len(shown)} pictures", Spread(tuple(seconds)), "s", at_most=SECONDS
    )
    yield measurement("size", len(page.content) / 1e6, "MB", at_most=MEGABYTES)
    if find_browser() is not None:
        yield measurement("document ready", _ready(path, rounds + 2), "s", at_most=READY)


def _content(results: Sequence[StoredResult]) -> Content:
    return content_of(results, read_samples, read_published_entries())


def _ready(path: Path, rounds: int) -> Spread:
    """Seconds until the document is ready, each in a new window after a first one."""
    ready = "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
    seconds = []
    with open_browser() as browser:
        for _ in range(1 + rounds):
            page = browser.new_context().new_page()
            page.goto(path.as_uri())
            seconds.append(page.evaluate(ready) / 1000)
            page.context.close()
    return Spread(tuple(seconds[1:]))


def _comparing(results: Sequence[StoredResult], rounds: int) -> Iterator[Measurement]:
    chosen = [one for one in results if one.row.dataset in COMPARED]
    if _together(chosen) != _by_pairs(chosen):
        raise AssertionError("comparing together does not find what comparing pair by pair does")
    ways = {"together": partial(_together, chosen), "pair by pair": partial(_by_pairs, chosen)}
    seconds = interleave(ways, rounds, warmup=0, clock=time.process_time)
    together, by_pairs = seconds["together"], seconds["pair by pair"]
    yield measurement("90 comparisons together", together, "s")
    yield measurement("90 comparisons pair by pair", by_pairs, "s")
    yield measurement("pair by pair / together", by_pairs.over(together), "x", at_least=FASTER)


Differences = dict[tuple[str, str, str], Mapping[str, PairedDifference]]
"""By data set and models."""


def _together(results: Sequence[StoredResult]) -> Differences:
    with threadpool_limits(1):
        found = [pair for one in result_sets(results, read_samples) for pair in compare_set(one)]
    return {(one.dataset, *one.models): one.differences for one in found}


def _by_pairs(results: Sequence[StoredResult]) -> Differences:
    found: Differences = {}
    with threadpool_limits(1):
        for a, b in combinations(sorted(results, key=lambda one: model_label(one.row)), 2):
            if a.row.dataset == b.row.dataset:
                samples = [read_samples(a.path), read_samples(b.path)]
                (of_pair,) = all_differences(a.row.task, samples, without_slow=True).values()
                found[a.row.dataset, model_label(a.row), model_label(b.row)] = of_pair
    return found


if __name__ == "__main__":
    main()
