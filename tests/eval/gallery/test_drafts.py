"""Examples are drawn round by round, as many rounds as fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from PIL import Image

from cosmos_eval.report.gallery import ClassificationExample
from cosmos_eval.report.gallery.drafts import Draft, fit, pictures_of
from cosmos_eval.report.gallery.pictures import Canvas
from cosmos_eval.types import Progress, UsageError, no_progress

ROUNDS, A_ROUND = 3, 4


def noise(seed: int) -> Image.Image:
    """An image that no encoder makes small."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (240, 320, 3), np.uint8))


def draw(name: str, image: Image.Image, canvas: Canvas) -> ClassificationExample:
    return ClassificationExample(
        model=name,
        dataset="noise",
        protocol="user",
        image=canvas.large(image),
        label="a",
        predicted=["b"],
    )


def drafts() -> list[Draft]:
    """Grouped by what they are examples of, as they come."""
    return [
        Draft(number, partial(draw, f"model {model}, {number}", noise(10 * model + number)))
        for model in range(A_ROUND)
        for number in range(ROUNDS)
    ]


def bytes_of(examples) -> int:
    return sum({p.content: len(p.content) for e in examples for p in pictures_of(e)}.values())


@pytest.fixture(scope="module")
def a_picture() -> int:
    """About the bytes of one."""
    return len(Canvas().large(noise(0)).content)


def test_everything_where_there_is_room(a_picture: int) -> None:
    fitted = fit(drafts(), 20 * a_picture, 0, no_progress)
    names = [f"model {model}, {number}" for model in range(A_ROUND) for number in range(ROUNDS)]
    assert [example.model for example in fitted.examples] == names
    assert fitted.notes == []


def test_whole_rounds(a_picture: int) -> None:
    """Evaluator for ten of twelve: two rounds of four, so that every model has as many."""
    fitted = fit(drafts(), 10 * a_picture, 0, no_progress)
    names = [f"model {model}, {number}" for model in range(A_ROUND) for number in range(2)]
    assert [example.model for example in fitted.examples] == names
    (note,) = fitted.notes
    assert note.startswith("more than 2 of up to 3 examples of a kind: no more fit into ")


def test_smaller_pictures_where_a_round_does_not_fit(a_picture: int) -> None:
    fitted = fit(drafts(), 3 * a_picture, 0, no_progress)
    assert len(fitted.examples) == 2 * A_ROUND  # smaller noise has far fewer bytes
    assert {example.image.width for example in fitted.examples} == {240}
    assert fitted.notes[0].startswith("pictures at their usual size: at 75% of it more of them fit")


@pytest.mark.parametrize("part", [0.0, 0.3, 1.0, 2.5, 7.0])
def test_the_budget_is_kept(part: float, a_picture: int) -> None:
    budget = int(part * a_picture)
    fitted = fit(drafts(), budget, 0, no_progress)
    assert bytes_of(fitted.examples) <= budget
    assert fitted.notes
    if not fitted.examples:
        assert fitted.notes[-1].startswith("4 of 4 examples: ")


def test_a_picture_that_all_have_counts_once(a_picture: int) -> None:
    shared = noise(7)
    many = [Draft(n, partial(draw, f"{n}", shared)) for n in range(50)]
    fitted = fit(many, int(1.5 * a_picture), 0, no_progress)
    assert len(fitted.examples) == 50
    assert len({id(example.image) for example in fitted.examples}) == 1


def test_the_same_with_threads(a_picture: int) -> None:
    alone = fit(drafts(), 10 * a_picture, 0, no_progress)
    assert fit(drafts(), 10 * a_picture, 3, no_progress) == alone


def test_an_image_that_cannot_be_used_is_noted(a_picture: int) -> None:
    def fail(canvas: Canvas) -> ClassificationExample:
        raise UsageError("cannot decode image a.jpg")

    broken = drafts()
    broken[0] = replace_draw(broken[0], fail)
    fitted = fit(broken, 20 * a_picture, 0, no_progress)
    assert len(fitted.examples) == len(broken) - 1
    assert fitted.notes == ["cannot decode image a.jpg"]


def replace_draw(draft: Draft, draw: Callable[[Canvas], ClassificationExample]) -> Draft:
    return draft._replace(draw=draw)


def test_progress_ends_at_the_number_of_drafts(a_picture: int) -> None:
    steps: list[Progress] = []
    fit(drafts(), 20 * a_picture, 0, steps.append)
    assert [step.done for step in steps] == list(range(1, 13))
    assert {step.total for step in steps} == {12}


def test_pictures_of_every_kind_of_field() -> None:
    picture = Canvas().large(noise(1))
    example = draw("m", noise(1), Canvas())
    assert list(pictures_of(example)) == [picture]
    many = replace(example, predicted=[picture, "text"], label={"a": picture})
    assert list(pictures_of(many)) == [picture, picture, picture]


def test_nothing_to_draw() -> None:
    assert fit([], 0, 0, no_progress) == ([], [])
