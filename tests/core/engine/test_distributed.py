"""Processes that train together on the CPU: the gradient of one process, with few collectives."""

from typing import NamedTuple

import pytest
import torch
from support import workers
from support.processes import run_processes
from support.training import ABLATIONS, METHODS, SINGLE_PROCESS

from cosmos_core.engine.check import GATHERING_METHODS
from cosmos_core.engine.distributed import join_world, make_gather
from cosmos_core.losses import gather_locally

pytestmark = pytest.mark.slow  # starts processes of its own

# Parameters that scale the logits: their published gradients are not divided by the processes.
SCALES = {"logit_scale", "distill_logit_scale"}
CASES = [
    *(workers.Case(name) for name in METHODS),
    *(workers.Case(name, "published") for name in GATHERING_METHODS),
    workers.Case("cosmos", checkpointing=True),
]


class Processes(NamedTuple):
    """How many processes train together, and in how many chunks each takes its batch."""

    count: int
    chunks: int


@pytest.fixture(
    scope="module",
    params=[Processes(2, 1), Processes(2, 2), Processes(4, 2)],
    ids=["2", "2 in chunks", "4"],
)
def processes(request):
    return request.param


@pytest.fixture(scope="module")
def steps_by_case(processes):
    """The first step of every case: a list with the step of each process."""
    cases = [case._replace(parts=processes.chunks) for case in CASES]
    steps_by_rank = run_processes(workers.many_first_steps, processes.count, cases)
    return {case: [steps[case] for steps in steps_by_rank] for case in cases}


@pytest.fixture(scope="module")
def transcribed_gradients(processes):
    """The gradients of the transcription of the published training, by method."""
    return run_processes(workers.published_gradients, processes.count, ["clip", "cosmos"])[0]


@pytest.fixture(scope="module")
def single_process_steps():
    """The first step of every method on the whole batch in one process."""
    return {name: workers.one_step(SINGLE_PROCESS, workers.Case(name)) for name in METHODS}


def largest_difference(gradients, expected, factor=1.0):
    """Return the largest difference of any gradient from the expected one times the factor.

    It is a fraction of that gradient's largest value.
    """
    assert gradients.keys() == expected.keys()
    return max(
        (gradients[name] - factor * value).abs().max() / max(value.abs().max(), 1e-3)
        for name, value in expected.items()
    )


@pytest.mark.parametrize("name", METHODS)
def test_the_gradient_is_that_of_one_process_on_the_whole_batch(
    steps_by_case, single_process_steps, name, processes
):
    expected = single_process_steps[name]
    frozen_prefixes = ("visual.",) if name == "lit" else ()
    trained_names = {
        key
        for key in expected.student
        if not key.endswith("center") and not key.startswith(frozen_prefixes)
    }
    for step in steps_by_case[workers.Case(name, parts=processes.chunks)]:
        assert step.gradients.keys() == trained_names
        assert largest_difference(step.gradients, expected.gradients) < 1e-10
        for term, value in expected.report.terms.items():
            assert step.report.terms[term] == pytest.approx(value, abs=1e-12)
        assert step.report.gradient_norm == pytest.approx(expected.report.gradient_norm)


@pytest.mark.parametrize("name", METHODS)
def test_weights_and_teacher_are_the_same_in_every_process(
    steps_by_case, single_process_steps, name, processes
):
    first_step, *other_steps = steps_by_case[workers.Case(name, parts=processes.chunks)]
    for step in other_steps:
        assert_equal_values(step.student, first_step.student)
        assert_equal_values(step.teacher, first_step.teacher)
    for model in ("student", "teacher"):
        for key, value in getattr(single_process_steps[name], model).items():
            assert (getattr(first_step, model)[key] - value).abs().max() < 1e-9, key


def assert_equal_values(tensors, others):
    """Check that two dictionaries have the same tensors in the same order."""
    for tensor, other in zip(tensors.values(), others.values(), strict=True):
        assert torch.equal(tensor, other)


@pytest.mark.parametrize("name", ["clip", "cosmos"])
def test_published_gradients_are_the_transcriptions(
    steps_by_case, transcribed_gradients, name, processes
):
    for step in steps_by_case[workers.Case(name, "published", processes.chunks)]:
        assert largest_difference(step.gradients, transcribed_gradients[name]) < 1e-10


@pytest.mark.parametrize("name", GATHERING_METHODS)
def test_published_gradients_are_divided_by_the_processes_except_those_of_scales(
    processes, steps_by_case, single_process_steps, name
):
    true_gradients = single_process_steps[name].gradients
    step = steps_by_case[workers.Case(name, "published", processes.chunks)][0]

    def largest_difference_of(names, factor):
        gradients = {name: step.gradients[name] for name in names}
        expected = {name: true_gradients[name] for name in names}
        return largest_difference(gradients, expected, factor)

    assert largest_difference_of(true_gradients.keys() - SCALES, 1 / processes.count) < 1e-10
    scales = true_gradients.keys() & SCALES
    assert len(scales) == (2 if name == "cosmos" else 1)
    assert largest_difference_of(scales, 1.0) < 1e-10


def id_of_case(case):
    return "-".join(map(str, case))


@pytest.mark.parametrize("case", CASES, ids=id_of_case)
def test_a_step_has_at_most_two_forward_collectives_and_one_backward(
    steps_by_case, processes, case
):
    """The loss has these collectives.

    Apart from it, a step has two all-reduces: one of the gradients, which are a single bucket in so
    small a model and also if the batch is in chunks, and one of the values of the loss terms.
    """
    loss_gathers = 2 if case.method == "cosmos" else 1
    loss_reduces = 1 if case.method == "silc" else 0  # the mean of the teacher's logits
    for step in steps_by_case[case._replace(parts=processes.chunks)]:
        assert step.collectives == {
            "allgather_base": loss_gathers,
            "allreduce": loss_reduces + 2,
            "reduce_scatter_base": 1,
        }


def test_recomputed_activations_give_the_same_gradient(steps_by_case, processes):
    plain_case = workers.Case("cosmos", parts=processes.chunks, checkpointing=False)
    plain_steps = steps_by_case[plain_case]
    recomputed_steps = steps_by_case[plain_case._replace(checkpointing=True)]
    for plain_step, recomputed_step in zip(plain_steps, recomputed_steps, strict=True):
        assert_equal_values(recomputed_step.gradients, plain_step.gradients)


def test_loss_memory_grows_with_the_samples_of_all_processes_not_their_square():
    # With 16 samples per process, four processes have twice as many samples as two.
    (with_two, plain_with_two), *_ = run_processes(workers.loss_elements, 2, 16)
    (with_four, plain_with_four), *_ = run_processes(workers.loss_elements, 4, 16)
    assert with_four < 2 * with_two
    # The transcription computes the whole loss in every process, which is to be avoided.
    assert plain_with_four > 2.5 * plain_with_two


@pytest.mark.parametrize("gradient", ["true", "published"])
def test_a_loss_in_chunks_has_the_same_gradient_and_does_not_exchange_gradients_of_features(
    processes, steps_by_case, gradient
):
    case = workers.Case("cosmos", gradient, processes.chunks)
    expected = steps_by_case[case][0]
    for steps in run_processes(workers.chunked_steps, processes.count, [case]):
        chunked_step = steps[case]
        assert largest_difference(chunked_step.gradients, expected.gradients) < 1e-10
        assert chunked_step.report.terms == pytest.approx(expected.report.terms, abs=1e-12)
        assert "reduce_scatter_base" not in chunked_step.collectives


@pytest.mark.parametrize("size", [2, 4])
def test_features_can_be_exchanged_in_bfloat16(size):
    features = [torch.linspace(0, 1, 24).reshape(2, 3, 4) + rank for rank in range(size)]
    for gathered, gradient in run_processes(workers.narrow_gather, size):
        assert torch.equal(gathered, torch.cat(features, dim=1).bfloat16())
        assert torch.equal(gradient, torch.full((2, 3, 4), 2.0 * size))


def test_methods_have_no_parameter_without_a_gradient():
    # Such a parameter would stop DDP in the second step.
    methods = [*METHODS.values(), *ABLATIONS.values()]
    for losses in run_processes(workers.three_steps, 2, methods)[0]:
        assert losses[2] < losses[0]


@pytest.mark.parametrize("size", [2, 4])
def test_a_loss_that_is_not_finite_in_one_process_stops_all(size):
    refusals = run_processes(workers.one_bad_process, size, size - 1)
    assert refusals == ["the distill loss is nan"] * size


def test_a_step_that_is_not_finite_in_one_process_is_skipped_in_all():
    assert run_processes(workers.one_bad_process_is_skipped, 2, 1) == [(1, True, False)] * 2


@pytest.mark.parametrize("size", [2, 4])
def test_objects_of_all_processes_come_in_the_order_of_their_numbers(size):
    expected = [(rank, f"process {rank}") for rank in range(size)]
    assert run_processes(workers.meet, size) == [expected] * size


def test_one_process_exchanges_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join_world("cpu") as world:
        assert world == SINGLE_PROCESS
    assert make_gather(SINGLE_PROCESS, "published") is gather_locally


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_one_line():
    with pytest.raises(ValueError, match=r"needs a GPU, and there is none; --set compute\.device"):
        join_world("cuda").__enter__()
