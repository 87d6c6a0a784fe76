"""The separable merge against the plain window-by-window formulation."""

from dataclasses import replace

import pytest
import torch
from support.plain_segmentation import plain_classes, plain_logits

from cosmos_eval.tasks.segmentation import merge as _merge
from cosmos_eval.tasks.segmentation.merge import Axis, Decision, label_map, placement, tiles

PATCH = 8


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("length", "window", "stride", "starts"),
    [
        (224, 224, 112, [0]),
        (225, 224, 112, [0, 1]),
        (336, 224, 112, [0, 112]),
        (337, 224, 112, [0, 112, 113]),
        (100, 224, 112, [0]),
        (1, 224, 112, [0]),
        (10, 4, 4, [0, 4, 6]),
    ],
)
def test_window_starts_by_hand(length, window, stride, starts):
    assert Axis(length, window, stride, tokens=1).starts == starts


def test_placement_by_hand():
    # Two windows of 4 px over 6 px, two tokens each, original size 6: no second resize.
    # Upsampling 2 -> 4: (1, 0), (3/4, 1/4), (1/4, 3/4), (0, 1).
    expected = torch.tensor(
        [
            [1, 0, 0, 0],
            [0.75, 0.25, 0, 0],
            [0.125, 0.375, 0.5, 0],
            [0, 0.5, 0.375, 0.125],
            [0, 0, 0.25, 0.75],
            [0, 0, 0, 1],
        ]
    )
    torch.testing.assert_close(placement(Axis(6, 4, 2, 2), 6), expected)


def grid(axis: Axis) -> int:
    return len(axis.starts) * axis.tokens


def axes_of(resized, protocol):
    return [
        Axis(length, protocol.window, protocol.stride, min(length, protocol.window) // PATCH)
        for length in resized
    ]


def plain_from_tokens(tokens, axes, size, protocol):
    """Return the logits of the plain form, which gets the token logits of one window after another.

    The plain form passes the pixels of each window to a model; here, they are ignored.
    """
    heights, widths = (axis.tokens for axis in axes)
    windows = (
        window for row in tokens.split(heights, dim=1) for window in row.split(widths, dim=2)
    )

    def next_window_logits(window_pixels):
        return next(windows)

    pixels = torch.zeros(3, axes[0].length, axes[1].length)
    return plain_logits(pixels, size, protocol, next_window_logits)


SIZES = [
    ((48, 48), (48, 48)),
    ((48, 64), (120, 160)),
    ((41, 205), (90, 450)),
    ((33, 97), (20, 61)),
    ((48, 9), (53, 1)),
    ((8, 100), (3, 44)),
]
RULES = [
    {"scale": 40.0},
    {"scale": 40.0, "prob_thd": 0.4},
    {"scale": 40.0, "area_thd": 0.2},
    {"scale": 40.0, "prob_thd": 0.3, "area_thd": 0.3},
]


@pytest.mark.parametrize(("resized", "size"), SIZES)
def test_logits_equal_the_plain_formulation(resized, size, protocol, monkeypatch):
    monkeypatch.setattr(_merge, "_TILE_VALUES", 3000)
    axes = axes_of(resized, protocol)
    tokens = torch.randn(7, grid(axes[0]), grid(axes[1]))
    expected = plain_from_tokens(tokens, axes, size, protocol)
    rows, columns = (placement(axis, length) for axis, length in zip(axes, size, strict=True))
    logits = torch.full_like(expected, torch.nan)
    for (rows_of, columns_of), tile in tiles(tokens, rows, columns):
        assert tile.numel() <= 3000
        logits[:, rows_of, columns_of] = tile
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("resized", "size"), SIZES)
@pytest.mark.parametrize("rule", RULES)
def test_classes_equal_the_plain_formulation(resized, size, rule, protocol):
    protocol = replace(protocol, **rule)
    axes = axes_of(resized, protocol)
    tokens = 0.1 * torch.randn(7, grid(axes[0]), grid(axes[1]))
    logits = plain_from_tokens(tokens, axes, size, protocol)
    expected = torch.from_numpy(plain_classes(logits, protocol))
    rows, columns = (placement(axis, length) for axis, length in zip(axes, size, strict=True))
    decision = Decision(
        torch.tensor([0, 0, 0, 1, 2, 2, 3], dtype=torch.uint8),
        protocol.scale,
        protocol.prob_thd,
        protocol.area_thd,
    )
    different = (label_map(tokens, rows, columns, decision) != expected).sum()
    assert different <= expected.numel() / 10_000


def decide(logits, classes, **rule):
    """Label map where every token is one pixel."""
    tokens = torch.tensor(logits)
    rows, columns = torch.eye(tokens.shape[1]), torch.eye(tokens.shape[2])
    decision = Decision(
        torch.tensor(classes, dtype=torch.uint8),
        rule.get("scale", 1.0),
        rule.get("prob_thd", 0.0),
        rule.get("area_thd"),
    )
    return label_map(tokens, rows, columns, decision).tolist()


def test_the_first_of_equal_queries_wins():
    assert decide([[[0.5, 0.1]], [[0.5, 0.2]], [[0.1, 0.2]]], [0, 1, 2]) == [[0, 1]]


def test_a_class_is_its_best_query_not_their_sum():
    # Query probabilities about 0.30, 0.33, 0.37: class 0 would win by sum.
    assert decide([[[0.0]], [[0.1]], [[0.2]]], [0, 0, 1]) == [[1]]


def test_uncertain_pixels_fall_to_class_0():
    # Two queries: probability of the better one is 0.73 and 0.52.
    logits = [[[0.0, 0.0]], [[1.0, 0.1]]]
    assert decide(logits, [0, 1], prob_thd=0.6) == [[1, 0]]
    assert decide(logits, [0, 1], prob_thd=0.5) == [[1, 1]]


def test_small_classes_are_ruled_out_and_their_pixels_go_to_the_next_best():
    # Foreground: class 1 has 3 pixels, class 2 has 1, which is 25%.
    logits = [[[0.0, 0.0, 0.0, 0.0, 9.0]], [[9.0, 9.0, 9.0, 5.0, 0.0]], [[0.0, 0.0, 0.0, 9.0, 0.0]]]
    assert decide(logits, [0, 1, 2], area_thd=0.2) == [[1, 1, 1, 2, 0]]
    assert decide(logits, [0, 1, 2], area_thd=0.25) == [[1, 1, 1, 1, 0]]


def test_a_ruled_out_class_still_takes_its_share_of_probability():
    logits = [[[0.0, 0.0, 0.0]], [[9.0, 9.0, 5.0]], [[0.0, 0.0, 9.0]]]
    # The last pixel's next best class has e^5 / (e^9 + e^5 + 1) = 0.018.
    assert decide(logits, [0, 1, 2], area_thd=0.4, prob_thd=0.1) == [[1, 1, 0]]
