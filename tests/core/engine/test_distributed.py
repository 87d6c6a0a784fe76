"""Processes that train together, on the CPU: the gradient of one process, and few collectives."""

import pytest
import torch
from support import workers
from support.processes import run_processes
from support.training import ABLATIONS, METHODS, SINGLE_PROCESS

from cosmos_core.engine.distributed import join_world, make_gather
from cosmos_core.losses import gather_locally

pytestmark = pytest.mark.slow  # starts processes of its own

SCALES = {"logit_scale", "distill_logit_scale"}
CASES = [
    *(workers.Case(name) for name in METHODS),
    *(workers.Case(name, "published") for name in ("clip", "cosmos")),
    workers.Case("cosmos", checkpointing=True),
]


@pytest.fixture(scope="module", params=[(2, 1), (2, 2), (4, 2)], ids=["2", "2 in parts", "4"])
def size_and_parts(request):
    """Number of processes, and of parts of their batches."""
    return request.param


@pytest.fixture(scope="module")
def size(size_and_parts):
    return size_and_parts[0]


@pytest.fixture(scope="module")
def parts(size_and_parts):
    return size_and_parts[1]


@pytest.fixture(scope="module")
def stepped(size, parts):
    """The first step of every case in every process."""
    cases = [case._replace(parts=parts) for case in CASES]
    by_rank = run_processes(workers.many_first_steps, size, cases)
    return {case: [rank[case] for rank in by_rank] for case in cases}


@pytest.fixture(scope="module")
def transcribed(size):
    """The gradients of the transcription of the published training."""
    return run_processes(workers.published_gradients, size, ["clip", "cosmos"])[0]


@pytest.fixture(scope="module")
def alone():
    """The first step of every method on the whole batch in one process."""
    return {name: workers.one_step(SINGLE_PROCESS, workers.Case(name)) for name in METHODS}


def worst(ours, expected, factor=1.0):
    """The largest difference of any gradient, as a share of that gradient's largest value."""
    assert ours.keys() == expected.keys()
    return max(
        (ours[name] - factor * value).abs().max() / max(value.abs().max(), 1e-3)
        for name, value in expected.items()
    )


@pytest.mark.parametrize("name", METHODS)
def test_the_gradient_is_that_of_one_process_on_the_whole_batch(stepped, alone, name, parts):
    for own in stepped[workers.Case(name, parts=parts)]:
        frozen = ("visual.",) if name == "lit" else ()
        keys = alone[name].student
        names = {key for key in keys if not key.endswith("center") and not key.startswith(frozen)}
        assert own.gradients.keys() == names
        assert worst(own.gradients, alone[name].gradients) < 1e-10
        for term, value in alone[name].report.terms.items():
            assert own.report.terms[term] == pytest.approx(value, abs=1e-12)
        assert own.report.gradient_norm == pytest.approx(alone[name].report.gradient_norm)


@pytest.mark.parametrize("name", METHODS)
def test_weights_and_teacher_are_the_same_in_every_process(stepped, alone, name, parts):
    first, *others = stepped[workers.Case(name, parts=parts)]
    for other in others:
        for model in ("student", "teacher"):
            pairs = zip(getattr(first, model).values(), getattr(other, model).values(), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)
    for model in ("student", "teacher"):
        for key, value in getattr(alone[name], model).items():
            assert (getattr(first, model)[key] - value).abs().max() < 1e-9, key


@pytest.mark.parametrize("name", ["clip", "cosmos"])
def test_published_gradients_are_the_transcriptions(stepped, transcribed, name, parts):
    for own in stepped[workers.Case(name, "published", parts)]:
        assert worst(own.gradients, transcribed[name]) < 1e-10


@pytest.mark.parametrize("name", ["clip", "cosmos"])
def test_published_gradients_are_divided_but_for_the_scales(size, parts, stepped, alone, name):
    true, own = alone[name].gradients, stepped[workers.Case(name, "published", parts)][0].gradients
    encoders = true.keys() - SCALES
    assert worst({k: own[k] for k in encoders}, {k: true[k] for k in encoders}, 1 / size) < 1e-10
    scales = true.keys() & SCALES
    assert len(scales) == (2 if name == "cosmos" else 1)
    assert worst({k: own[k] for k in scales}, {k: true[k] for k in scales}) < 1e-10


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_a_step_has_at_most_two_forward_collectives_and_one_backward(stepped, parts, case):
    """Of the loss. Apart from it a step has two all-reduces: the gradient's, in one bucket for so
    small a model, also of a batch in parts; and that of the loss figures."""
    gathers = 2 if case.method == "cosmos" else 1
    reduces = 1 if case.method == "silc" else 0  # the mean of the teacher's logits
    for own in stepped[case._replace(parts=parts)]:
        forward = {"allgather_base": gathers, "allreduce": reduces + 2}
        assert own.collectives == {**forward, "reduce_scatter_base": 1}


def test_recomputed_activations_give_the_same_gradient(stepped, parts):
    cases = (workers.Case("cosmos", parts=parts, checkpointing=on) for on in (False, True))
    for plain, recomputed in zip(*(stepped[case] for case in cases), strict=True):
        pairs = zip(plain.gradients.values(), recomputed.gradients.values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_loss_memory_grows_with_the_samples_of_all_processes_not_their_square():
    """With 16 samples per process, four processes hold twice as many samples as two."""
    (two, plain_two), *_ = run_processes(workers.loss_elements, 2, 16)
    (four, plain_four), *_ = run_processes(workers.loss_elements, 4, 16)
    assert four < 2 * two
    assert plain_four > 2.5 * plain_two  # the whole loss in every process: what must not happen


@pytest.mark.parametrize("gradient", ["true", "published"])
def test_a_loss_in_chunks_has_the_same_gradient_and_exchanges_none_of_features(
    size, parts, stepped, gradient
):
    case = workers.Case("cosmos", gradient, parts)
    for chunked in run_processes(workers.chunked_steps, size, [case]):
        (whole, *_), own = stepped[case], chunked[case]
        assert worst(own.gradients, whole.gradients) < 1e-10
        assert own.report.terms == pytest.approx(whole.report.terms, abs=1e-12)
        assert "reduce_scatter_base" not in own.collectives


@pytest.mark.parametrize("size", [2, 4])
def test_features_can_be_exchanged_in_bfloat16(size):
    drawn = [torch.linspace(0, 1, 24).reshape(2, 3, 4) + rank for rank in range(size)]
    for everywhere, gradient in run_processes(workers.narrow_gather, size):
        assert torch.equal(everywhere, torch.cat(drawn, dim=1).bfloat16())
        assert torch.equal(gradient, torch.full((2, 3, 4), 2.0 * size))


def test_methods_leave_no_parameter_idle():
    """A parameter without gradient would stop DDP in the second step."""
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
