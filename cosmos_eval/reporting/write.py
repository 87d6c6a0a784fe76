"""`cosmos_eval.reporting`: write all results as one web page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from cosmos_core.utils.extras import missing_package
from cosmos_eval.data.readers import path_of
from cosmos_eval.embedding.cache import embeddings_folder
from cosmos_eval.reporting import write_file
from cosmos_eval.reporting.content import content_of
from cosmos_eval.reporting.gallery import STAGES, collect
from cosmos_eval.reporting.gallery.records import Gallery
from cosmos_eval.reporting.gallery.source import require_inputs
from cosmos_eval.reporting.page import Page, require_page_name, room_for_pictures, to_page
from cosmos_eval.results import RESULTS
from cosmos_eval.results.checked import read_checked
from cosmos_eval.results.labels import StoredResult, assign_labs, without_other_wordings
from cosmos_eval.results.leaderboard.entries import read_published_entries
from cosmos_eval.results.store import read_samples, result_paths
from cosmos_eval.runner.bars import bars
from cosmos_eval.runner.overall import OverallProgress, Stage
from cosmos_eval.runner.plan import ShowProgress, require_usable_device
from cosmos_eval.runner.suites import read_score
from cosmos_eval.types import Progress, RunOptions, UsageError


class WrittenReport(NamedTuple):
    """A report that was written, and the results that it shows."""

    page: Page
    results: list[StoredResult]


def report(
    results: str | Path = RESULTS,
    output: str | Path = "report.html",
    *,
    suite: str | None = None,
    published: bool = True,
    pictures: bool = True,
    datasets: Sequence[str] = (),
    predictions: str | Path | None = None,
    data_root: str | None = None,
    device: str = RunOptions.device,
    progress: bool = False,
) -> Path:
    """Write all results as one web page that works offline, and return its file.

    Args:
        results: A folder of results.
        output: The .html file to write.
        suite: The name or file of a suite, by whose score models are ranked.
        published: True if numbers that others published are shown.
        pictures: True if examples are shown, which models may have to compute.
        datasets: YAML files of a user's data sets, for pictures.
        predictions: The folder of label maps that `run --save-predictions` wrote.
        data_root: The folder of downloaded data sets.
        device: `cpu`, `cuda` or `cuda:N`; `auto`: a GPU if there is one.
        progress: True if a bar is shown, in terminals and notebooks.

    Raises:
        UsageError: For a folder without results, and if the page cannot be written.
    """
    page = path_of(output, "output")
    with bars(shown=progress) as show_progress:
        write_report(
            path_of(results, "results"),
            page,
            suite=suite,
            with_published=published,
            pictures=pictures,
            datasets=datasets,
            predictions=None if predictions is None else path_of(predictions, "predictions"),
            options=RunOptions(data_root=data_root, device=device),
            show_progress=show_progress,
        )
    return page


def write_report(
    directory: Path,
    output: Path,
    *,
    suite: str | None,
    labs: bool = False,
    with_published: bool,
    pictures: bool,
    datasets: Sequence[str],
    predictions: Path | None,
    options: RunOptions,
    show_progress: ShowProgress,
) -> WrittenReport:
    """Write all results in a folder as one web page.

    Args:
        directory: The folder of results.
        output: The .html file to write.
        suite: The name or file of a suite, by whose score models are ranked.
        labs: True if each folder in `directory` has the results of a lab, which the page compares.
        with_published: True if numbers that others published are shown.
        pictures: True if examples are shown.
        datasets: YAML files of a user's data sets, for pictures.
        predictions: The folder of label maps that `run --save-predictions` wrote.
        options: The folder of data sets, and the device. The usual cache is used.
        show_progress: Shows how far the report is.

    Raises:
        UsageError: For a folder without results, if the page cannot be written, if the named device
            of pictures cannot be used, and if the package vl-convert is not installed, which has
            the program that draws charts.
    """
    # Faults of the options are reported before anything slow.
    if find_spec("vl_convert") is None:
        raise UsageError(missing_package("cosmos-eval report", "vl-convert", "report"))
    require_page_name(output)
    # With "auto", pictures that no device can compute are left out.
    if pictures and options.device != "auto":
        require_usable_device(options)
    score = None if suite is None else read_score(suite)
    paths = result_paths(directory)
    results, wording_notes = without_other_wordings(read_checked(paths))
    if labs:
        results = assign_labs(results, directory)
    require_inputs((result.row for result in results), options.data_root, datasets, predictions)

    stages = [Stage("data sets compared", 1.0)]
    if pictures:
        stages += STAGES
    overall = OverallProgress(show_progress, "report", stages)

    def show_comparing(step: Progress) -> None:
        overall.show("report", step)

    published_entries = read_published_entries() if with_published else ()
    content = content_of(results, read_samples, published_entries, show_comparing, score)
    gallery = Gallery()
    if pictures:
        gallery = collect(
            results,
            replace(options, cache=str(embeddings_folder())),
            datasets=datasets,
            predictions=predictions,
            budget=room_for_pictures(content),
            show_progress=overall.show,
        )
    page = to_page(content, gallery)
    page = page._replace(notes=(*page.notes, *wording_notes))
    write_file(output, page.content)
    return WrittenReport(page, results)
