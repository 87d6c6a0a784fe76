"""The floating-point operations of a training step, and the peak performance of GPUs."""

import re

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cosmos_core.config import ComputeConfig, TrainConfig
from cosmos_core.engine.build import create_student
from cosmos_core.model.cosmos import show_all_patches
from cosmos_core.model.pretrained import freeze
from cosmos_core.types import Views

# The operations of so many samples of a batch are counted, a few at once to save memory.
SAMPLES = 64
SAMPLES_AT_ONCE = 8
# The peak TFLOP/s of GPUs for dense products in bf16 or fp16, in tf32, and in fp32. The data sheets
# state twice as much for sparse products. The numbers were compared with specs.md of
# github.com/winston-zhang-orz/gpu-specs (A100, H100 PCIe, L40S, L4, A10), not with NVIDIA's own
# data sheets. A name comes after longer names that contain it.
PEAKS = {
    "A100": (312, 156, 19.5),
    "H100 PCIe": (756, 378, 51.2),
    "H100 NVL": (835, 417, 60),
    "H100": (989, 494, 67),
    "H200 NVL": (835, 417, 60),
    "H200": (989, 494, 67),
    "L40S": (362, 183, 91.6),
    "L4": (121, 60, 30.3),
    "A10": (125, 62.5, 31.2),
}
# The first parameters of both towers. A tower is frozen if its first parameter is.
INPUT_LAYERS = ("visual.conv1.weight", "token_embedding.weight")


# Patch dropout draws random numbers, which must not change later draws.
@torch.random.fork_rng(devices=[])
def sample_flops(config: TrainConfig, views: Views, step: int = 0) -> float:
    """Return the number of floating-point operations of a training step per sample.

    This is 3 times the student's forward pass over all views, because the backward pass takes twice
    as many operations, plus the teacher's forward pass. If a tower is frozen, the backward pass
    takes fewer operations, and is measured. Captions have different lengths, so the number is a
    mean over up to SAMPLES samples.

    PyTorch counts 2 operations for each multiply-accumulate of matrix products, convolutions and
    attention. The loss, the optimizer and recomputed activations are not counted.

    Args:
        config: The configuration of the training.
        views: The views of a batch, whose shapes and captions decide the number of operations.
        step: The training step, counted from 0. A tower may be frozen only at first.
    """
    # Create a model without initialising its weights, whose values do not matter.
    with torch.device("meta"):
        model = create_student(config)
    if not 0 < config.model.freeze_steps <= step:
        freeze(model, config.model.freeze, config.model.unlocked_groups)
    model.to_empty(device=views.global_images.device)
    trainable = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    has_frozen_tower = not all(trainable.get(name, True) for name in INPUT_LAYERS)

    n_samples = min(SAMPLES, views.texts.shape[1])
    parts = []
    for start in range(0, n_samples, SAMPLES_AT_ONCE):
        parts.append(Views(*[tensor[:, start : start + SAMPLES_AT_ONCE] for tensor in views]))

    # Count the operations. PyTorch does not count those of fused attention, so plain products are
    # used.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        for part in parts:
            with torch.set_grad_enabled(has_frozen_tower):
                features = config.method.student_features(model, part)
            if has_frozen_tower:
                outputs = [x for x in features if x is not None and x.requires_grad]
                torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])
        # Without a frozen tower, only the forward pass has been counted so far.
        uncounted_backward_flops = 0 if has_frozen_tower else 2 * counter.get_total_flops()
        show_all_patches(model)
        for part in parts:
            with torch.no_grad():
                config.method.teacher_features(model, part)
    return float(uncounted_backward_flops + counter.get_total_flops()) / n_samples


def peak_flops(name: str, compute: ComputeConfig) -> float | None:
    """Return the peak floating-point operations per second of a GPU in the configured precision.

    Args:
        name: The name of the GPU that PyTorch reports, such as "NVIDIA H100 PCIe".
        compute: The options of the precision.

    Returns:
        The number, such as 756e12, or None if PEAKS does not have the GPU, and for a partition of a
        GPU (MIG).
    """
    if "MIG" in name:
        return None
    for gpu_name, (half_tflops, tf32_tflops, fp32_tflops) in PEAKS.items():
        if not re.search(rf"\b{gpu_name}\b", name):
            continue
        if compute.precision != "fp32":
            return half_tflops * 1e12
        return (tf32_tflops if compute.tf32 else fp32_tflops) * 1e12
    return None
