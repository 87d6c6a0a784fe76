"""What a run is built of: the seed, frozen parameters, recomputed and compiled blocks."""

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
    pairs = zip(first.model.parameters(), second.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    pairs = zip(first.model.parameters(), first.teacher.parameters(), strict=True)
    assert all(torch.equal(a, b) and not b.requires_grad for a, b in pairs)


@pytest.mark.parametrize("method", ABLATIONS.values(), ids=ABLATIONS)
def test_the_optimizer_has_every_parameter_that_is_trained(method):
    training = build.make_training(tiny_config(method), SINGLE_PROCESS)
    groups = training.optimizer.param_groups
    held = [id(p) for group in groups for p in group["params"]]
    trained = [id(p) for p in training.model.parameters() if p.requires_grad]
    assert sorted(held) == sorted(trained)
    step(training, tiny_views(method))
    assert [id(p) for p in training.model.parameters() if p.grad is not None] == trained


def test_what_an_ablation_leaves_idle_is_frozen():
    cross = ("token_mapping", "attn_cross_pool")
    for method, parts in (
        (CosmosMethod(), ()),
        (CosmosMethod(local_texts=False), ()),
        (CosmosMethod(cross_attention=False), cross),
        (CosmosMethod(distillation=False), (*cross, "distill_logit_scale")),
        (
            CosmosMethod(distill_images_only=True),
            ("image_token_mapping", "visual.attn_cross_pool"),
        ),
        (CosmosMethod(cross_attention=False, distill_images_only=True), cross),
    ):
        for name, parameter in method.create_student(ARCHITECTURE).named_parameters():
            assert parameter.requires_grad == (not any(part in name for part in parts)), name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recomputed_blocks_give_the_same_step_bit_for_bit(precision):
    """Also in the attention's form and the precision of what is computed anew."""
    views, weights = tiny_views(METHOD), []
    for checkpointing in (False, True):
        config = tiny_config(METHOD, precision=precision, checkpointing=checkpointing)
        training = build.make_training(config, SINGLE_PROCESS)
        step(training, views, precision=precision)
        weights.append((gradients(training.model), training.model.state_dict()))
    for plain, recomputed in zip(*weights, strict=True):
        assert plain.keys() == recomputed.keys()
        assert all(torch.equal(plain[key], recomputed[key]) for key in plain)


def test_recomputed_blocks_keep_less_for_backward():
    views, kept = tiny_views(METHOD), []
    for checkpointing in (False, True):
        config = tiny_config(METHOD, checkpointing=checkpointing)
        training = build.make_training(config, SINGLE_PROCESS)
        kept.append(kept_for_backward(training.model, partial(training.student_encoder, views)))
    assert kept[1] < 0.4 * kept[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # PyTorch's own
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # PyTorch's own
@pytest.mark.filterwarnings("ignore:.*not be instantiated:DeprecationWarning")  # PyTorch's own
@pytest.mark.parametrize(
    ("name", "options"),
    [("clip", {}), ("silc", {"checkpointing": True}), ("cosmos", {}), ("cosmos, in chunks", {})],
)
def test_a_compiled_step_is_the_plain_one(name, options, monkeypatch):
    """Traced and differentiated as for any backend; generating code would take minutes. Captions
    have other lengths in every step, and nothing is compiled after the first."""
    monkeypatch.setattr(build, "compile_step", partial(build.compile_step, backend="aot_eager"))
    if name.endswith("chunks"):
        monkeypatch.setattr(losses, "WHOLE", 0)
        monkeypatch.setattr(losses, "CHUNK", 2**9)
    torch._dynamo.reset()  # what other tests compiled
    counters = torch._dynamo.utils.counters
    counters.clear()
    method, graphs = METHODS[name.removesuffix(", in chunks")], []
    with double_precision():  # else AdamW enlarges the rounding of gradients that are zero
        plain, compiled = (
            build.make_training(tiny_config(method, compile=on, **options), SINGLE_PROCESS)
            for on in (False, True)
        )
        for seed in range(3):
            views = tiny_views(method, seed=seed)
            expected, report = step(plain, views), step(compiled, views)
            assert report.read() == pytest.approx(expected.read(), abs=1e-5)
            graphs.append(counters["stats"]["unique_graphs"])
    assert sum(counters["graph_break"].values()) == 0
    assert graphs == [2 if name == "clip" else 3] * 3  # student, loss, and teacher if there is one
    for model in ("model", "teacher"):
        ours, theirs = (getattr(one, model).state_dict() for one in (compiled, plain))
        assert list(ours) == list(theirs)
        assert all((ours[key] - theirs[key]).abs().max() < 1e-5 for key in theirs)


class DropoutMethod(ClipMethod):
    """CLIP with a projection head that drops units."""

    def create_student(self, architecture):
        student = super().create_student(architecture)
        student.add_module("head", torch.nn.Dropout(0.1))
        return student


def test_parts_with_dropped_units_are_refused():
    config = tiny_config(DropoutMethod(), accumulate=2)
    with pytest.raises(ValueError, match=r"a model without dropout, and head has it"):
        build.make_training(config, SINGLE_PROCESS)


def test_float32_on_a_gpu_is_rounded_as_in_the_published_training(monkeypatch):
    """OpenCLIP's main.py sets allow_tf32 and cudnn.benchmark."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    precision = torch.get_float32_matmul_precision()
    monkeypatch.setattr(cudnn, "allow_tf32", cudnn.allow_tf32)
    monkeypatch.setattr(cudnn, "benchmark", cudnn.benchmark)
    try:
        for options, wanted in (({}, True), ({"tf32": False, "cudnn_benchmark": False}, False)):
            build._set_gpu_arithmetic(ComputeConfig(**options))
            assert (matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark) == (wanted,) * 3
    finally:
        torch.set_float32_matmul_precision(precision)
