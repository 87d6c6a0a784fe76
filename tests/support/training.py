"""A tiny training: its configuration, batches, and what is measured of its steps."""

import json
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from cosmos_core.config import ComputeConfig, DataConfig, OptimConfig, TrainConfig
from cosmos_core.data.scenes.vocabulary import CONTEXT_LENGTH
from cosmos_core.engine.distributed import World
from cosmos_core.engine.step import StepReport, Training, train_step
from cosmos_core.losses import gather_locally
from cosmos_core.methods.clip import ClipMethod
from cosmos_core.methods.cosmos import CosmosMethod
from cosmos_core.methods.flair import FlairMethod
from cosmos_core.methods.lit import LitMethod
from cosmos_core.methods.siglip import SiglipMethod
from cosmos_core.methods.silc import SilcMethod
from cosmos_core.methods.slip import SlipMethod
from cosmos_core.types import Method, Views

SINGLE_PROCESS = World()
IMAGE, CROP, TOKENS, VOCABULARY = 32, 16, 8, 20
SIZES = {"width": 16, "layers": 2}
VISION = {"image_size": IMAGE, "patch_size": 8, "head_width": 8, **SIZES}
TEXT = {"context_length": TOKENS, "vocab_size": VOCABULARY, "heads": 2, **SIZES}
ARCHITECTURE = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}
# The option by which a recipe of the embedded scenes has a model that is trained in milliseconds.
SMALL_MODEL = "architecture=" + json.dumps(
    {
        "embed_dim": 16,
        "vision_cfg": {**VISION, "image_size": 64, "patch_size": 16},
        "text_cfg": {**TEXT, "context_length": CONTEXT_LENGTH, "vocab_size": 882},
    }
)
METHODS: dict[str, Method] = {
    "clip": ClipMethod(),
    "slip": SlipMethod(hidden=16, out=6),
    "silc": SilcMethod(hidden=16, bottleneck=6, prototypes=12),
    "cosmos": CosmosMethod(),
    "siglip": SiglipMethod(),
    "flair": FlairMethod(captions=3),
    "lit": LitMethod(),
}
ABLATIONS: dict[str, Method] = {
    "without local texts": CosmosMethod(local_texts=False),
    "without cross-attention": CosmosMethod(cross_attention=False),
    "without distillation": CosmosMethod(distillation=False),
    "distilling images only": CosmosMethod(distill_images_only=True),
}


def tiny_config(
    method: Method,
    *,
    architecture: dict[str, Any] | None = None,
    gradient: str = "true",
    lr: float = 1e-3,
    **compute: Any,
) -> TrainConfig:
    """A configuration that a test trains in milliseconds."""
    compute = {"device": "cpu", "precision": "fp32", **compute}
    return TrainConfig(
        recipe="tiny",
        method=method,
        architecture=architecture or ARCHITECTURE,
        data=DataConfig(shards="none"),
        optim=OptimConfig(steps=10, batch_size=8, lr=lr, weight_decay=0.1, gradient=gradient),
        compute=ComputeConfig(**compute),
    )


def tiny_views(method: Method, samples: int = 8, *, seed: int = 0, locals_: int = 3) -> Views:
    """Normalised images and captions of several lengths, of the default floating type."""
    generator, counts = torch.Generator().manual_seed(seed), method.counts

    def images(count: int, size: int) -> Tensor:
        return torch.randn(count, samples, 3, size, size, generator=generator)

    texts = counts.global_texts + locals_ * counts.local_texts
    tokens = torch.randint(1, VOCABULARY - 2, (texts, samples, TOKENS), generator=generator)
    ends = torch.randint(3, TOKENS, (texts, samples, 1), generator=generator)
    places = torch.arange(TOKENS)
    tokens = tokens.masked_fill(places > ends, 0).masked_fill(places == ends, VOCABULARY - 1)
    local = locals_ if counts.local_images else 0
    return Views(images(counts.global_images, IMAGE), images(local, CROP), tokens)


def share(views: Views, world: World) -> Views:
    """The samples of this process."""
    return Views(*(tensor.chunk(world.world_size, dim=1)[world.rank] for tensor in views))


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Gradients by name of the parameters that are trained."""
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@contextmanager
def double_precision():
    """Make float64 the type of tensors and weights that are created in this context."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


class Recorder(TorchDispatchMode):
    """Counts the collectives by name, and the elements of all tensors that are created."""

    def __init__(self) -> None:
        super().__init__()
        self.collectives: Counter[str] = Counter()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        if func.namespace == "c10d":
            self.collectives[func._schema.name.removeprefix("c10d::").strip("_")] += 1
        if isinstance(output, Tensor):
            self.elements += output.numel()
        return output


def step(training: Training, views: Views, **options: Any) -> StepReport:
    """A step of one process."""
    return train_step(training, views, gather_locally, **{"momentum": 0.9, **options})


def kept_for_backward(model: nn.Module, forward: Callable[[], object]) -> int:
    """Bytes that `forward()` keeps for backward beside the parameters, each storage once. These are
    the saved tensors, and what enters the blocks, which checkpointing keeps elsewhere."""
    sizes = {p.untyped_storage().data_ptr(): 0 for p in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes.setdefault(storage.data_ptr(), storage.nbytes())
        return tensor

    def enter(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        keep(inputs[0])

    blocks = [m for m in model.modules() if isinstance(m, ResidualAttentionBlock)]
    hooks = [block.register_forward_pre_hook(enter) for block in blocks]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outcome = forward()  # held, so that no storage is freed and its address used again
    for hook in hooks:
        hook.remove()
    del outcome
    return sum(sizes.values())
