"""Examples are drawn round by round, as many rounds as fit."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from PIL import Image
from support.galleries import bytes_of

from cosmos_eval.reporting.gallery.pictures import Candidate, Canvas, select
from cosmos_eval.reporting.gallery.records import SampleExample, pictures_of
from cosmos_eval.types import Progress, UsageError, no_progress

ROUNDS, A_ROUND = 3, 4


def noise(seed: int) -> Image.Image:
    """An image that no encoder makes small."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (240, 320, 3), np.uint8))


def draw(name: str, image: Image.Image, canvas: Canvas) -> SampleExample:
    where = {"dataset": "noise", "protocol": "user"}
    picture = canvas.large(image)
    return SampleExample(model=name, **where, image=picture, text="a", outcomes={})


def candidates() -> list[Candidate]:
    """Grouped by what they are examples of, as they come."""
    return [
        Candidate(number, partial(draw, f"model {model}, {number}", noise(10 * model + number)))
        for model in range(A_ROUND)
        for number in range(ROUNDS)
    ]


def names(rounds: int) -> list[str]:
    return [f"model {model}, {number}" for model in range(A_ROUND) for number in range(rounds)]


@pytest.fixture(scope="module")
def a_picture() -> int:
    """About the bytes of one."""
    return len(Canvas().large(noise(0)).content)


def test_everything_within_the_budget(a_picture: int) -> None:
    examples, notes = select(candidates(), 20 * a_picture, 0, no_progress)
    assert [example.model for example in examples] == names(ROUNDS)
    assert notes == []


def test_whole_rounds(a_picture: int) -> None:
    """The budget holds ten of twelve: two rounds of four, the same number for every model."""
    examples, notes = select(candidates(), 10 * a_picture, 0, no_progress)
    assert [example.model for example in examples] == names(2)
    (note,) = notes
    assert note.startswith("more than 2 of up to 3 examples of a kind: no more fit into ")


def test_smaller_pictures_where_a_round_does_not_fit(a_picture: int) -> None:
    examples, notes = select(candidates(), 3 * a_picture, 0, no_progress)
    assert len(examples) == 2 * A_ROUND  # smaller noise has far fewer bytes
    assert {example.image.width for example in examples} == {240}
    note = "pictures at their usual size: at 75% of it more of them fit"
    assert notes[0].startswith(note)


@pytest.mark.parametrize("part", [0.0, 0.3, 1.0, 2.5, 7.0])
def test_the_budget_is_kept(part: float, a_picture: int) -> None:
    budget = int(part * a_picture)
    examples, notes = select(candidates(), budget, 0, no_progress)
    assert bytes_of(examples) <= budget
    assert notes
    if not examples:
        assert notes[-1].startswith("4 of 4 examples: ")


def test_a_picture_that_all_have_counts_once(a_picture: int) -> None:
    shared = noise(7)
    many = [Candidate(n, partial(draw, f"{n}", shared)) for n in range(50)]
    examples, _ = select(many, int(1.5 * a_picture), 0, no_progress)
    assert len(examples) == 50
    assert len({id(example.image) for example in examples}) == 1


def test_the_same_with_threads(a_picture: int) -> None:
    alone = select(candidates(), 10 * a_picture, 0, no_progress)
    assert select(candidates(), 10 * a_picture, 3, no_progress) == alone


def test_an_image_that_cannot_be_used_is_noted(a_picture: int) -> None:
    def fail(canvas: Canvas) -> SampleExample:
        raise UsageError("cannot decode image a.jpg")

    broken = candidates()
    broken[0] = broken[0]._replace(draw=fail)
    examples, notes = select(broken, 20 * a_picture, 0, no_progress)
    assert len(examples) == len(broken) - 1
    assert notes == ["cannot decode image a.jpg"]


def test_progress_ends_at_the_number_of_candidates(a_picture: int) -> None:
    steps: list[Progress] = []
    select(candidates(), 20 * a_picture, 0, steps.append)
    assert [step.done for step in steps] == list(range(1, 13))
    assert {step.total for step in steps} == {12}


def test_pictures_of_every_kind_of_field() -> None:
    picture = Canvas().large(noise(1))
    example = draw("m", noise(1), Canvas())
    assert list(pictures_of(example)) == [picture]
    many = replace(example, text=[picture, "text"], outcomes={"a": picture})
    assert list(pictures_of(many)) == [picture, picture, picture]


def test_nothing_to_draw() -> None:
    assert select([], 0, 0, no_progress) == ([], [])
