"""Predictions of the batched pipeline against one window at a time, from files to label maps."""

from dataclasses import replace

import numpy as np
import pytest
from support.plain_segmentation import plain_classes, plain_query_logits
from torch.nn import functional as F

from cosmos_eval.data.label_maps import open_data
from cosmos_eval.tasks.segmentation.inference import Segmenter, load_together, predict
from cosmos_eval.types import RunOptions, UsageError

SIZES = {
    "a": (48, 48),
    "b": (90, 900),
    "c": (20, 1),
    "d": (37, 41),
    "e": (61, 200),
    "f": (120, 97),
    "g": (16, 48),
}


@pytest.fixture(scope="module")
def queries():
    rows = np.random.default_rng(1).normal(size=(7, 16)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def images_of(protocol, root):
    data = open_data(protocol, RunOptions(data_root=str(root)))
    return [load_together([sample], [protocol])[0] for sample in data.samples]


@pytest.mark.parametrize(
    ("attention", "rule"),
    [("csa", {}), ("vanilla", {"prob_thd": 0.5}), ("naclip", {"prob_thd": 0.3, "area_thd": 0.2})],
)
def test_label_maps_equal_the_plain_pipeline(
    attention, rule, encoder, protocol, queries, write_set, tmp_path
):
    write_set(tmp_path, SIZES)
    segmenter = Segmenter(encoder, queries, replace(protocol, **rule), attention, batch_size=16)
    require_plain(segmenter, tmp_path)


def test_values_of_cross_attention_equal_the_plain_pipeline(cosmos, protocol, write_set, tmp_path):
    write_set(tmp_path, SIZES)
    rows = np.random.default_rng(1).normal(size=(7, 32)).astype(np.float32)
    segmenter = Segmenter(cosmos, rows, protocol, "crossmodal", 1)
    require_plain(segmenter, tmp_path, batch_sizes=(1, 5))


def require_plain(segmenter, root, batch_sizes=(16,)):
    """All but 1 pixel in 10,000 are those of the plain pipeline, one window at a time."""
    protocol = segmenter.protocol
    expected = [
        plain_classes(plain_query_logits(root / "images" / f"{name}.png", segmenter), protocol)
        for name in SIZES
    ]
    assert [classes.shape for classes in expected] == [*SIZES.values()]
    for batch_size in batch_sizes:
        batched = segmenter._replace(batch_size=batch_size)
        predictions = list(predict(batched, iter(images_of(protocol, root))))
        assert [prediction.shape for prediction in predictions] == [*SIZES.values()]
        pairs = zip(predictions, expected, strict=True)
        different = sum((prediction != classes).sum() for prediction, classes in pairs)
        assert different <= sum(classes.size for classes in expected) / 10_000


def test_backbone_batches_hold_windows_of_several_images(
    encoder, encoded, protocol, queries, write_set, tmp_path
):
    # 48 px images have 2 x 2 windows; 16 of 20 fit one batch.
    write_set(tmp_path, dict.fromkeys("abcde", (48, 48)))
    segmenter = Segmenter(encoder, queries, protocol, "csa", batch_size=16)
    assert len(list(predict(segmenter, images_of(protocol, tmp_path)))) == 5
    assert encoded == [16, 4]


def test_an_image_under_one_patch_is_named(encoder, protocol, queries, write_set, tmp_path):
    write_set(tmp_path, {"thin": (1, 900)})
    segmenter = Segmenter(encoder, queries, protocol, "csa", batch_size=16)
    with pytest.raises(UsageError, match=r"thin\.png is 2048x2 px after the resize"):
        list(predict(segmenter, images_of(protocol, tmp_path)))


def test_queries_are_compared_by_cosine(encoder, protocol, write_set, tmp_path):
    """A query that is a patch's own embedding wins at that patch."""
    write_set(tmp_path, {"a": (32, 32)})
    protocol = replace(protocol, short_side=32)
    (image,) = images_of(protocol, tmp_path)
    patches = encoder.encode_patches(image.pixels[None], "csa")[0].flatten(0, 1)
    similarity = F.normalize(patches, dim=-1) @ patches.T
    chosen = [0, 3, 5, 6, 9, 12, 15]
    segmenter = Segmenter(encoder, patches[chosen].numpy(), protocol, "csa", 8)
    (prediction,) = predict(segmenter, [image])
    query_class = np.repeat(range(4), [len(names) for names in protocol.queries])
    for index in chosen:
        # The pixel at a patch's upper left corner mixes in neighbours; corners of the grid do not.
        if index in (0, 3, 12, 15):
            row, column = divmod(index, 4)
            pixel = prediction[31 * (row > 0), 31 * (column > 0)]
            assert pixel == query_class[int(similarity[index, chosen].argmax())]
