"""Building a training: weights from the seed, frozen parameters, recomputed and compiled blocks."""

from functools import partial

import pytest
import torch
from support.training import (
    ABLATIONS,
    ARCHITECTURE,
    METHODS,
    SINGLE_PROCESS,
    double_precision,
    gradients,
    kept_for_backward,
    step,
    tiny_config,
    tiny_views,
)

from cosmos_core import losses
from cosmos_core.config import ComputeConfig
from cosmos_core.engine import build
from cosmos_core.methods.clip import ClipMethod
from cosmos_core.methods.cosmos import CosmosMethod

METHOD = METHODS["cosmos"]


def test_weights_follow_from_the_seed():
    first, second = (build.make_training(tiny_config(METHOD), SINGLE_PROCESS) for _ in range(2))
    for weight, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(weight, other)
    for weight, teacher_weight in zip(
        first.model.parameters(), first.teacher.parameters(), strict=True
    ):
        assert torch.equal(weight, teacher_weight)
        assert not teacher_weight.requires_grad


@pytest.mark.parametrize("method", ABLATIONS.values(), ids=ABLATIONS)
def test_the_optimizer_has_every_parameter_that_is_trained(method):
    training = build.make_training(tiny_config(method), SINGLE_PROCESS)
    parameters = list(training.model.parameters())
    groups = training.optimizer.param_groups
    optimized = [id(parameter) for group in groups for parameter in group["params"]]
    trained = [id(parameter) for parameter in parameters if parameter.requires_grad]
    assert sorted(optimized) == sorted(trained)
    step(training, tiny_views(method))
    assert [id(parameter) for parameter in parameters if parameter.grad is not None] == trained


def test_parameters_that_an_ablation_does_not_use_are_frozen():
    cross_attention = ("token_mapping", "attn_cross_pool")
    for method, frozen_names in (
        (CosmosMethod(), ()),
        (CosmosMethod(local_texts=False), ()),
        (CosmosMethod(cross_attention=False), cross_attention),
        (CosmosMethod(distillation=False), (*cross_attention, "distill_logit_scale")),
        (
            CosmosMethod(distill_images_only=True),
            ("image_token_mapping", "visual.attn_cross_pool"),
        ),
        (CosmosMethod(cross_attention=False, distill_images_only=True), cross_attention),
    ):
        for name, parameter in method.create_student(ARCHITECTURE).named_parameters():
            is_frozen = any(frozen_name in name for frozen_name in frozen_names)
            assert parameter.requires_grad == (not is_frozen), name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recomputed_blocks_give_the_same_step_bit_for_bit(precision):
    # Attention must have the same form, and all activations the same precision, when they are
    # computed for the second time.
    def gradients_and_weights(checkpointing):
        config = tiny_config(METHOD, precision=precision, checkpointing=checkpointing)
        training = build.make_training(config, SINGLE_PROCESS)
        step(training, tiny_views(METHOD), precision=precision)
        return gradients(training.model), training.model.state_dict()

    plain_gradients, plain_weights = gradients_and_weights(checkpointing=False)
    new_gradients, new_weights = gradients_and_weights(checkpointing=True)
    assert_same_tensors(plain_gradients, new_gradients)
    assert_same_tensors(plain_weights, new_weights)


def assert_same_tensors(tensors, others):
    assert tensors.keys() == others.keys()
    assert all(torch.equal(tensors[key], others[key]) for key in tensors)


def test_recomputed_blocks_keep_less_for_backward():
    views = tiny_views(METHOD)

    def size_kept(checkpointing):
        config = tiny_config(METHOD, checkpointing=checkpointing)
        training = build.make_training(config, SINGLE_PROCESS)
        return kept_for_backward(training.model, partial(training.student_encoder, views))

    assert size_kept(checkpointing=True) < 0.4 * size_kept(checkpointing=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # PyTorch's own
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # PyTorch's own
@pytest.mark.filterwarnings("ignore:.*not be instantiated:DeprecationWarning")  # PyTorch's own
@pytest.mark.parametrize(
    ("name", "options"),
    [("clip", {}), ("silc", {"checkpointing": True}), ("cosmos", {}), ("cosmos, in chunks", {})],
)
def test_a_compiled_step_equals_the_plain_one_and_is_compiled_once(name, options, monkeypatch):
    """The step is traced and differentiated as for any backend; generating code takes minutes.

    Captions have other lengths in every step, and nothing is compiled after the first.
    """
    monkeypatch.setattr(build, "compile_step", partial(build.compile_step, backend="aot_eager"))
    if name.endswith("chunks"):
        monkeypatch.setattr(losses, "WHOLE", 0)
        monkeypatch.setattr(losses, "CHUNK", 2**9)
    torch._dynamo.reset()  # forget what other tests compiled
    counters = torch._dynamo.utils.counters
    counters.clear()
    method, n_graphs_by_step = METHODS[name.removesuffix(", in chunks")], []
    with double_precision():  # else AdamW enlarges the rounding of gradients that are zero
        plain_config = tiny_config(method, compile=False, **options)
        plain = build.make_training(plain_config, SINGLE_PROCESS)
        compiled_config = tiny_config(method, compile=True, **options)
        compiled = build.make_training(compiled_config, SINGLE_PROCESS)
        for seed in range(3):
            views = tiny_views(method, seed=seed)
            expected, report = step(plain, views), step(compiled, views)
            assert report.read() == pytest.approx(expected.read(), abs=1e-5)
            n_graphs_by_step.append(counters["stats"]["unique_graphs"])
    assert sum(counters["graph_break"].values()) == 0
    # The graphs are the student, the loss, and the teacher, which CLIP's loss does not use.
    assert n_graphs_by_step == [2 if name == "clip" else 3] * 3
    assert_close_weights(compiled.model, plain.model)
    assert_close_weights(compiled.teacher, plain.teacher)


def assert_close_weights(model, other_model):
    weights, other_weights = model.state_dict(), other_model.state_dict()
    assert list(weights) == list(other_weights)
    assert all((weights[key] - other_weights[key]).abs().max() < 1e-5 for key in other_weights)


class DropoutMethod(ClipMethod):
    """CLIP with an additional module that drops units."""

    def create_student(self, architecture):
        student = super().create_student(architecture)
        student.add_module("head", torch.nn.Dropout(0.1))
        return student


def test_a_batch_in_chunks_with_dropped_units_is_refused():
    config = tiny_config(DropoutMethod(), accumulate=2)
    with pytest.raises(ValueError, match=r"a model without dropout, and head has it"):
        build.make_training(config, SINGLE_PROCESS)


class BatchNormMethod(ClipMethod):
    """CLIP with an additional batch normalisation."""

    def create_student(self, architecture):
        student = super().create_student(architecture)
        student.add_module("head", torch.nn.BatchNorm1d(4))
        return student


def test_running_statistics_are_refused():
    with pytest.raises(ValueError, match="head keeps running statistics, which the teacher does"):
        build.make_training(tiny_config(BatchNormMethod()), SINGLE_PROCESS)


def test_float32_on_a_gpu_is_rounded_as_in_the_published_training(monkeypatch):
    """OpenCLIP's main.py sets allow_tf32 and cudnn.benchmark."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    precision = torch.get_float32_matmul_precision()
    monkeypatch.setattr(cudnn, "allow_tf32", cudnn.allow_tf32)
    monkeypatch.setattr(cudnn, "benchmark", cudnn.benchmark)
    try:
        build._set_gpu_arithmetic(ComputeConfig())
        assert (matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark) == (True, True, True)
        build._set_gpu_arithmetic(ComputeConfig(tf32=False, cudnn_benchmark=False))
        assert (matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark) == (False, False, False)
    finally:
        torch.set_float32_matmul_precision(precision)
