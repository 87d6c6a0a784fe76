"""The batch of views, and the features, that the published implementation recorded."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cosmos_core import Views

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])


@pytest.fixture(scope="session")
def recorded():
    with np.load(Path(__file__).parents[1] / "parity" / "forward.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def recorded_views(recorded):
    images = (
        ((torch.from_numpy(recorded[name]).float() / 255 - MEAN) / STD).movedim(-1, -3)
        for name in ("global_crops", "local_crops")
    )
    texts = torch.from_numpy(recorded["text_tokens"]).long()
    return Views(*(crops.contiguous() for crops in images), texts)
