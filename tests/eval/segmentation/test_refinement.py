"""PAMR against a loop over pixels, and its properties."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.plain_segmentation import plain_classes
from support.segmenting import measure
from torch.nn import functional as F

from cosmos_eval.tasks.segmentation import merge as _merge
from cosmos_eval.tasks.segmentation.merge import (
    Axis,
    Decision,
    affinities,
    label_map,
    placement,
    refine,
)
from cosmos_eval.types import RunOptions


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def neighbours_of(y: int, x: int, height: int, width: int) -> list[tuple[int, int]]:
    """Eight places at distance 8 and eight at 16; a place outside is moved to the border."""
    places = []
    for d in (8, 16):
        for v in (y - d, y, y + d):
            for u in (x - d, x, x + d):
                if (v, u) != (y, x):
                    places.append((min(max(v, 0), height - 1), min(max(u, 0), width - 1)))
    return places


def plain_weights(image: np.ndarray, y: int, x: int) -> list[float]:
    """Weights of a pixel's sixteen neighbours."""
    channels, height, width = image.shape
    places = neighbours_of(y, x, height, width)
    exponents = np.zeros(16)
    for c in range(channels):
        values = [image[c, v, u] for v, u in places]
        spread = np.std([*values, image[c, y, x], image[c, y, x]], ddof=1)
        for n, value in enumerate(values):
            exponents[n] -= abs(image[c, y, x] - value) / (0.1 * spread + 1e-8) / channels
    weights = [math.exp(exponent) for exponent in exponents]
    return [weight / sum(weights) for weight in weights]


def plain_pamr(image: np.ndarray, scores: np.ndarray) -> np.ndarray:
    _, height, width = image.shape
    pixels = [(y, x) for y in range(height) for x in range(width)]
    weights = {place: plain_weights(image, *place) for place in pixels}
    for _ in range(10):
        former, scores = scores, np.zeros_like(scores)
        for y, x in pixels:
            places = neighbours_of(y, x, height, width)
            for weight, (v, u) in zip(weights[y, x], places, strict=True):
                scores[:, y, x] += weight * former[:, v, u]
    return scores


@pytest.mark.parametrize("size", [(19, 20), (1, 37), (35, 2), (1, 1)])
def test_refined_scores_are_those_of_a_loop_over_pixels(size):
    image, scores = torch.randn(3, *size).double(), torch.randn(2, *size).double()
    expected = plain_pamr(image.numpy(), scores.numpy())
    np.testing.assert_allclose(refine(scores, affinities(image)).numpy(), expected, atol=1e-10)
    single = refine(scores.float(), affinities(image.float()))
    np.testing.assert_allclose(single.numpy(), expected, atol=2e-5)


def test_weights_are_shares():
    for image in (torch.randn(3, 40, 50), torch.randint(0, 2, (3, 40, 50)) * 5.0):
        weights = affinities(image)
        assert weights.shape == (16, 40, 50)
        assert weights.min() >= 0
        torch.testing.assert_close(weights.sum(0), torch.ones(40, 50))


def test_units_of_the_image_do_not_count():
    image = torch.randn(3, 40, 50).double()
    torch.testing.assert_close(affinities(image), affinities(70 * image + 100), rtol=0, atol=1e-6)


def test_an_image_of_one_colour_averages():
    weights = affinities(torch.full((3, 40, 50), 0.7))
    torch.testing.assert_close(weights, torch.full((16, 40, 50), 1 / 16))
    scores = torch.zeros(1, 401, 401)
    scores[:, 200, 200] = 1
    spread = refine(scores, affinities(torch.zeros(3, 401, 401)))
    # Nothing is lost, and the middle of what was a point stays where it was.
    assert spread.sum() == pytest.approx(1, abs=1e-5)
    assert (spread[0] * torch.arange(401)).sum() == pytest.approx(200, abs=1e-3)


def test_a_uniform_mask_stays():
    scores = torch.tensor([0.3, -2.0])[:, None, None].expand(2, 40, 50).contiguous()
    torch.testing.assert_close(refine(scores, affinities(torch.randn(3, 40, 50))), scores)


def test_a_sharp_edge_of_colour_sharpens_the_mask():
    """Scores known on a coarse grid only, as patches know them: borders move to the disc's."""
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    truth = ((y - 44) ** 2 + (x - 50) ** 2).sqrt() < 25
    image = torch.where(truth, 1.0, -1.0) + 0.05 * torch.randn(3, 96, 96)
    coarse = F.avg_pool2d(truth[None].float(), 16)
    (inside,) = F.interpolate(coarse[None], size=(96, 96), mode="bilinear")[0]
    scores = torch.stack([0.5 - inside, inside - 0.5])

    def iou(scores: torch.Tensor) -> float:
        mask = scores.argmax(0).bool()
        return float((mask & truth).sum() / (mask | truth).sum())

    assert iou(scores) < 0.9
    assert iou(refine(scores, affinities(image))) > 0.98


@pytest.mark.parametrize("chunk", [1, 7000, 2**21])
@pytest.mark.parametrize(
    "rule", [{}, {"prob_thd": 0.4}, {"prob_thd": 0.3, "area_thd": 0.2}, {"area_thd": 0.3}]
)
def test_label_maps_follow_from_refined_logits(chunk, rule, protocol, monkeypatch):
    """Queries a few at a time against all logits, refined at once and then decided on plainly."""
    monkeypatch.setattr(_merge, "_CHUNK_VALUES", chunk)
    protocol = replace(protocol, scale=3.0, **rule)
    rows, columns = placement(Axis(48, 32, 16, 4), 50), placement(Axis(64, 32, 16, 4), 61)
    tokens, pixels = torch.randn(7, rows.shape[1], columns.shape[1]), torch.randn(3, 48, 64)
    logits = torch.einsum("ha,qab,wb->qhw", rows, tokens, columns)
    image = F.interpolate(pixels[None], size=(50, 61), mode="bilinear")[0]
    expected = plain_classes(refine(logits, affinities(image)), protocol)
    class_of_query = torch.tensor([0, 0, 0, 1, 2, 2, 3], dtype=torch.uint8)
    decision = Decision(class_of_query, protocol.scale, protocol.prob_thd, protocol.area_thd)
    assert (label_map(tokens, rows, columns, decision, pixels).numpy() != expected).sum() == 0


def test_a_protocol_may_ask_for_it(encoder, protocol, write_set, tmp_path):
    write_set(tmp_path, {"one": (48, 70), "two": (33, 20)})
    options = RunOptions(data_root=str(tmp_path), batch_size=8)
    usual = measure(encoder, protocol, options)
    other = measure(encoder, replace(protocol, refinement="pamr"), options)
    assert usual.metrics != other.metrics
    changed = {name for name in usual.hashes if usual.hashes[name] != other.hashes[name]}
    assert changed == {"constants"}
