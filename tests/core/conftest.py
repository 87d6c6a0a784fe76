"""The batch of views, and the features, that the published implementation recorded; a server of S3
on this machine."""

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


@pytest.fixture
def bucket(monkeypatch):
    """A server of S3 on this machine with an empty bucket of this name."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    port = server.get_host_and_port()[1]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    boto3.client("s3").create_bucket(Bucket="bucket")
    yield
    server.stop()
