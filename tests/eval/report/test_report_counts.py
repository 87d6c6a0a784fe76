"""Counts of retrieval, classes and mistakes that lead to their samples."""

from __future__ import annotations

import numpy as np
import pytest
from playwright.sync_api import expect
from support.report_pages import OPEN_ALL, describe_violations, made_up_results, plain_picture

from cosmos_eval.reporting.gallery.records import Gallery, Outcome, SampleExample
from cosmos_eval.reporting.page import to_page

MODELS = ["alpha", "beta", "gamma"]
A, B = "gamma", "beta"  # which won most tests
CLASSES = "abcd"
DIRECTIONS = {"image to text": "image_to_text", "text to image": "text_to_image"}


@pytest.fixture(scope="module")
def made_up():
    return made_up_results(MODELS)


@pytest.fixture(scope="module")
def samples_of(made_up):
    """The stored arrays of each task and model."""
    samples = {}
    for result in made_up.results:
        samples[result.row.task, result.row.model["spec"]] = made_up.read(result.path)
    return samples


def query_samples(samples_of, direction):
    """A sample of every query of a direction of retrieval."""
    name = DIRECTIONS[direction]
    ranks = {model: samples_of["retrieval", model][f"{name}_rank"] for model in MODELS}
    return [
        SampleExample(
            dataset="scenes-retrieval",
            protocol="scenes",
            metric=f"{name}_R@1",
            direction=direction,
            image=plain_picture((0, 0, 255))._replace(file=f"{direction} {number}"),
            text=f"caption {number}",
            outcomes={
                model: Outcome(f"rank {ranks[model][number]}", bool(ranks[model][number] == 1))
                for model in MODELS
            },
        )
        for number in range(len(ranks[A]))
    ]


def class_sample(number, label, predicted):
    """A sample of an image, with its true class and the class that each model predicts."""
    outcomes = {}
    for model, model_class in predicted.items():
        is_right = model_class == label
        outcomes[model] = Outcome(model_class, is_right, "" if is_right else model_class)
    return SampleExample(
        dataset="scenes-cls",
        protocol="scenes",
        metric="acc1",
        image=plain_picture((0, 160, 0))._replace(file=f"{number}.png"),
        text=label,
        group=label,
        outcomes=outcomes,
    )


@pytest.fixture(scope="module")
def predictions(samples_of):
    """The true class of each image, and the class that each model predicts for it."""
    labels = [CLASSES[label] for label in samples_of["cls", A]["labels"]]
    predicted = {
        model: [CLASSES[first] for first in samples_of["cls", model]["top5"][:, 0]]
        for model in MODELS
    }
    return labels, predicted


@pytest.fixture(scope="module")
def file(made_up, samples_of, predictions, tmp_path_factory):
    labels, predicted = predictions
    examples = [
        class_sample(number, label, {model: predicted[model][number] for model in MODELS})
        for number, label in enumerate(labels)
    ]
    for direction in DIRECTIONS:
        examples += query_samples(samples_of, direction)
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_bytes(to_page(made_up.content(), Gallery(samples=examples)).content)
    return path


@pytest.fixture
def page(open_page, file):
    page = open_page(file)
    page.evaluate(OPEN_ALL)
    return page


def shown_files(page):
    """The files of the visible samples."""
    images = page.locator("figure.sample:visible img")
    return set(images.evaluate_all("images => images.map(image => image.dataset.file)"))


def compared_models(page):
    return page.locator("#model-a option:checked, #model-b option:checked").all_inner_texts()


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("side", "right", "wrong"), [("A", A, B), ("B", B, A)])
def test_a_count_of_queries_leads_to_them(page, samples_of, direction, side, right, wrong):
    ranks = {m: samples_of["retrieval", m][f"{DIRECTIONS[direction]}_rank"] for m in (A, B)}
    queries = np.flatnonzero((ranks[right] == 1) & (ranks[wrong] != 1))
    assert len(queries)
    row = page.locator("#pair-table tbody tr", has_text=f"{direction} R@1").first
    button = row.locator("td:nth-last-child(2)" if side == "A" else "td:last-child")
    assert button.inner_text() == f"{len(queries)}"
    set_name = f"scenes-retrieval scenes: {direction}"
    label = f"{len(queries)}: show samples of {set_name} that only {side} has right"
    page.get_by_role("button", name=label).click()
    assert shown_files(page) == {f"{direction} {number}" for number in queries}
    expect(page.locator("#sample-filters [name=outcome]")).to_be_focused()


def test_the_number_of_images_of_a_class_leads_to_them(page, predictions):
    labels, _ = predictions
    numbers = [number for number, label in enumerate(labels) if label == "c"]
    label = f"{len(numbers)}: show samples of scenes-cls scenes of class c"
    page.get_by_role("button", name=label, exact=True).click()
    assert shown_files(page) == {f"{number}.png" for number in numbers}
    expect(page.locator("#sample-filters [name=group]")).to_be_focused()


@pytest.mark.parametrize(
    ("model", "models"),
    [("gamma", ["gamma", "beta"]), ("alpha", ["alpha", "beta"]), ("beta", ["beta", "gamma"])],
)
def test_a_mistake_leads_to_its_images(page, predictions, model, models):
    """The model becomes A. If it was B, A and B change places."""
    assert compared_models(page) == ["gamma", "beta"]
    labels, predicted = predictions
    pairs = enumerate(zip(labels, predicted[model], strict=True))
    numbers = [number for number, pair in pairs if pair == ("b", "c")]
    assert numbers
    label = f"show samples of scenes-cls scenes of class b that {model} takes for c"
    page.get_by_role("button", name=label).click()
    assert shown_files(page) == {f"{number}.png" for number in numbers}
    assert compared_models(page) == models
    expect(page.locator("#sample-filters [name=taken]")).to_be_focused()
    title = page.locator(".samples:visible > summary .count")
    expect(title).to_have_text("1 sample" if len(numbers) == 1 else f"{len(numbers)} samples")


def test_there_is_no_link_to_samples_that_the_page_lacks(open_page, made_up, tmp_path):
    """Of the only sample, beta is right; alpha and gamma take it for other classes."""
    sample = class_sample(0, "b", {"alpha": "c", "beta": "b", "gamma": "a"})
    path = tmp_path / "report.html"
    path.write_bytes(to_page(made_up.content(), Gallery(samples=[sample])).content)
    page = open_page(path)
    page.evaluate(OPEN_ALL)
    buttons = page.locator("#pair-table td, #classes td, #mistakes td").get_by_role("button")
    labels = buttons.evaluate_all("all => all.map(one => one.ariaLabel.split(': ')[1])")
    # No model takes a "b" for an "a", so that the table of mistakes has no row for gamma's answer.
    assert labels == [
        "show samples of scenes-cls scenes that only B has right",
        "show samples of scenes-cls scenes of class b",
        "show samples of scenes-cls scenes of class b that alpha takes for c",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "width"), [("light", 1440), ("dark", 360), ("dark", 768)])
def test_axe_finds_no_violation_in_counts_and_their_samples(open_page, file, scheme, width):
    from axe_playwright_python.sync_playwright import Axe

    page = open_page(file, color_scheme=scheme, viewport={"width": width, "height": 800})
    page.evaluate(OPEN_ALL)
    violations = list(Axe().run(page).response["violations"])
    page.locator("#mistakes td").get_by_role("button").first.click()
    violations += Axe().run(page).response["violations"]
    assert describe_violations(violations) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
