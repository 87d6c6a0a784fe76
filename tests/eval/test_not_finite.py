"""Features that are not finite are refused by every task, with a line that names the input."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from cosmos_eval.models.clip import ClipEncoder
from cosmos_eval.models.encoder import require_encoder, require_finite
from cosmos_eval.models.maps import heatmaps, whole_image
from cosmos_eval.runner.plan import jobs_of, make_plan, open_datasets
from cosmos_eval.runner.run import LoadedModel, measure
from cosmos_eval.types import EncoderInfo, RunOptions, UsageError

DENSE = ("scenes-seg", "scenes-loc")
EVERY = ("scenes-retrieval", "scenes-cls", "scenes-select", *DENSE)


@pytest.fixture
def breaks(tiny_encoder: ClipEncoder, monkeypatch) -> Callable[[str, float], ClipEncoder]:
    """Make one value of the last input of every batch something else."""

    def broken(method: str, value: float) -> ClipEncoder:
        encode = getattr(tiny_encoder, method)

        def encode_badly(*arguments: object) -> torch.Tensor:
            features = encode(*arguments).clone()
            if len(features) > 1:  # a model is first tried on one input
                features[-1].view(-1)[0] = value
            return features

        monkeypatch.setattr(tiny_encoder, method, encode_badly)
        return tiny_encoder

    return broken


def error_of(encoder: ClipEncoder, dataset: str) -> str:
    # Many items of scenes-select share an image.
    options = RunOptions(limit=200 if dataset == "scenes-select" else 4, workers=0)
    plan = make_plan(datasets=[dataset], models=["scenes-clip"], options=options)
    (job,) = jobs_of(plan, open_datasets(plan))
    with pytest.raises(UsageError) as raised:
        list(measure(LoadedModel(encoder, job.spec, job.options), job))
    return str(raised.value)


@pytest.mark.parametrize(
    ("dataset", "value"), [*zip(EVERY, (np.nan, -np.inf, np.nan, -np.inf, np.nan), strict=True)]
)
def test_the_image_is_named(dataset, value, breaks):
    method = "encode_patches" if dataset in DENSE else "encode_image"
    message = error_of(breaks(method, value), dataset)
    assert message.startswith(
        "openclip:cosmos-eval-tiny/random returns features that are not finite"
    )
    assert "\n" not in message
    assert message.endswith("check its weights")


@pytest.mark.parametrize("dataset", EVERY)
def test_the_text_is_named(dataset, breaks):
    message = error_of(breaks("encode_text", np.inf), dataset)
    assert "(NaN or infinity) for " in message
    assert "prompts of '" in message or message.count("'") == 2


@pytest.mark.parametrize("method", ["encode_patches", "encode_text"])
def test_maps_of_attention_are_refused(method, breaks):
    encoder = breaks(method, np.nan)
    pixels = whole_image(encoder, Image.new("RGB", (40, 30)))
    with pytest.raises(UsageError, match=r"not finite .* for image"):
        heatmaps(
            encoder,
            torch.stack([pixels, pixels]),
            ["a red ball", "a cat"],
            kind="text-to-patch similarity",
        )


def test_a_model_of_the_user_is_refused_before_it_is_measured(breaks):
    with pytest.raises(UsageError, match=r"`encode_image` returns features that are not finite"):
        require_encoder(breaks("encode_image", np.nan), "mine.py")


def test_half_precision_is_named_as_a_cause():
    info = EncoderInfo("some", "tiny", None, "0" * 64, False, "fp16", "cpu")
    features = torch.zeros(3, 2, dtype=torch.float16)
    require_finite(features, info, str)
    features[1, 1] = 70_000  # above the largest float16
    with pytest.raises(UsageError, match=r"for 1: .*--precision fp32.*range of fp16"):
        require_finite(features, info, str)
