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

N_MODELS, EXAMPLES_PER_MODEL = 4, 3


def noise(seed: int) -> Image.Image:
    """Return an image that no image format makes small."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (240, 320, 3), np.uint8))


def draw(name: str, image: Image.Image, canvas: Canvas) -> SampleExample:
    return SampleExample(
        model=name,
        dataset="noise",
        protocol="user",
        image=canvas.large(image),
        text="a",
        outcomes={},
    )


def candidates() -> list[Candidate]:
    """Return three candidates for each of four models, one model after another."""
    return [
        Candidate(number, partial(draw, f"model {model}, {number}", noise(10 * model + number)))
        for model in range(N_MODELS)
        for number in range(EXAMPLES_PER_MODEL)
    ]


def names(per_model: int) -> list[str]:
    """Return the names of so many first candidates of each model."""
    return [f"model {model}, {number}" for model in range(N_MODELS) for number in range(per_model)]


@pytest.fixture(scope="module")
def picture_size() -> int:
    """Return the size of one picture in bytes. The others are about as large."""
    return len(Canvas().large(noise(0)).content)


def test_all_examples_are_selected_if_the_budget_holds_them(picture_size: int) -> None:
    examples, notes = select(candidates(), 20 * picture_size, 0, no_progress)
    assert [example.model for example in examples] == names(EXAMPLES_PER_MODEL)
    assert notes == []


def test_every_model_has_the_same_number_of_examples(picture_size: int) -> None:
    """The budget holds ten of twelve pictures: two for each of the four models."""
    examples, notes = select(candidates(), 10 * picture_size, 0, no_progress)
    assert [example.model for example in examples] == names(2)
    (note,) = notes
    assert note.startswith("more than 2 of up to 3 examples of a kind: no more fit into ")


def test_pictures_are_smaller_if_one_for_each_model_does_not_fit(picture_size: int) -> None:
    examples, notes = select(candidates(), 3 * picture_size, 0, no_progress)
    assert len(examples) == 2 * N_MODELS  # smaller noise has far fewer bytes
    assert {example.image.width for example in examples} == {240}
    note = "pictures at their usual size: at 75% of it more of them fit"
    assert notes[0].startswith(note)


@pytest.mark.parametrize("pictures_in_budget", [0.0, 0.3, 1.0, 2.5, 7.0])
def test_the_budget_is_kept(pictures_in_budget: float, picture_size: int) -> None:
    budget = int(pictures_in_budget * picture_size)
    examples, notes = select(candidates(), budget, 0, no_progress)
    assert bytes_of(examples) <= budget
    assert notes
    if not examples:
        assert notes[-1].startswith("4 of 4 examples: ")


def test_a_picture_that_all_examples_share_counts_once(picture_size: int) -> None:
    shared = noise(7)
    same_pictures = [Candidate(n, partial(draw, f"{n}", shared)) for n in range(50)]
    examples, _ = select(same_pictures, int(1.5 * picture_size), 0, no_progress)
    assert len(examples) == 50
    assert len({id(example.image) for example in examples}) == 1


def test_threads_select_the_same_examples(picture_size: int) -> None:
    alone = select(candidates(), 10 * picture_size, 0, no_progress)
    assert select(candidates(), 10 * picture_size, 3, no_progress) == alone


def test_an_image_that_cannot_be_used_is_noted(picture_size: int) -> None:
    def fail(canvas: Canvas) -> SampleExample:
        raise UsageError("cannot decode image a.jpg")

    broken = candidates()
    broken[0] = broken[0]._replace(draw=fail)
    examples, notes = select(broken, 20 * picture_size, 0, no_progress)
    assert len(examples) == len(broken) - 1
    assert notes == ["cannot decode image a.jpg"]


def test_progress_ends_at_the_number_of_candidates(picture_size: int) -> None:
    steps: list[Progress] = []
    select(candidates(), 20 * picture_size, 0, steps.append)
    assert [step.done for step in steps] == list(range(1, 13))
    assert {step.total for step in steps} == {12}


def test_pictures_of_every_kind_of_field() -> None:
    picture = Canvas().large(noise(1))
    example = draw("m", noise(1), Canvas())
    assert list(pictures_of(example)) == [picture]
    example = replace(example, text=[picture, "text"], outcomes={"a": picture})
    assert list(pictures_of(example)) == [picture, picture, picture]


def test_no_candidates_give_no_examples_and_no_notes() -> None:
    assert select([], 0, 0, no_progress) == ([], [])
