"""What a training step costs, and what a device does at most."""

import re

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cosmos_core.config import ComputeConfig, TrainConfig
from cosmos_core.types import Views

SAMPLES = 8  # of a batch, by which all are counted
# TFLOP/s of dense products in bf16 or fp16, tf32 and fp32, half of what is stated for sparse ones.
# Compared with specs.md of github.com/winston-zhang-orz/gpu-specs (A100, H100 PCIe, L40S, L4, A10),
# not with NVIDIA's own data sheets. A name comes after those that contain it.
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
INPUTS = ("visual.conv1.weight", "token_embedding.weight")  # of the towers


def sample_flops(config: TrainConfig, views: Views) -> float:
    """Return the operations of a training step per sample, of the first of a batch: 3 times the
    student's forward, since backward takes twice as many (with a frozen tower fewer, which are
    counted), and once the teacher's, over all views, as PyTorch counts them, 2 per
    multiply-accumulate of matrix products, convolutions and attention. The loss, the optimizer and
    what is computed again are left out."""
    few = Views(*(tensor[:, :SAMPLES] for tensor in views))
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = config.method.create_student(config.architecture)
    model.to_empty(device=few.global_images.device)  # weights do not matter
    trains = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    frozen = not all(trains.get(name, True) for name in INPUTS)
    # Fused attention is not counted.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        with torch.set_grad_enabled(frozen):
            features = config.method.student_features(model, few)
        backward = 0 if frozen else 2 * counter.get_total_flops()
        if frozen:
            trained = [one for one in features if one is not None and one.requires_grad]
            torch.autograd.backward(trained, [torch.ones_like(one) for one in trained])
        with torch.no_grad():
            config.method.teacher_features(model, few)
    return float(backward + counter.get_total_flops()) / few.texts.shape[1]


def peak_flops(name: str, compute: ComputeConfig) -> float | None:
    """Return what a GPU of this name does at most per second in the precision of the products; None
    for names that PEAKS lacks, and for parts of a GPU (MIG)."""
    found = [peaks for part, peaks in PEAKS.items() if re.search(rf"\b{part}\b", name)]
    if not found or "MIG" in name:
        return None
    column = 0 if compute.precision != "fp32" else 1 if compute.tf32 else 2
    return found[0][column] * 1e12
