"""What a training step costs."""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cosmos_core.config import TrainConfig
from cosmos_core.types import Views

SAMPLES = 8  # of a batch, by which all are counted


def sample_flops(config: TrainConfig, views: Views) -> float:
    """Return the operations of a training step per sample, of the first of a batch: 3 times the
    student's forward, since backward takes twice as many, and once the teacher's, over all views,
    as PyTorch counts them, 2 per multiply-accumulate of matrix products, convolutions and
    attention. The loss, the optimizer and what is computed again are left out."""
    few = Views(*(tensor[:, :SAMPLES] for tensor in views))
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = config.method.create_student(config.architecture)
    model.to_empty(device=few.texts.device)  # weights do not matter
    # Fused attention is not counted.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        config.method.student_features(model, few)
        student = counter.get_total_flops()
        config.method.teacher_features(model, few)
    return float(2 * student + counter.get_total_flops()) / few.texts.shape[1]
