"""Retrieval and caption selection by scores of pairs: solved by hand, and by the commands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.scene_files import write_scenes

from cosmos_eval.models import load_encoder
from cosmos_eval.models.encoder import PairScorer
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.protocols import find_known, protocols_of_dataset
from cosmos_eval.tasks import find_protocol, retrieval, selection
from cosmos_eval.types import RetrievalProtocol, RunOptions, SelectionProtocol, UsageError

CAPTIONS = {  # in the order of COCO's image ids
    "green": ["green or blue", "green"],
    "blue": ["the blue one"],
    "red": ["red", "green, by mistake"],
}


@pytest.fixture
def pair_scorer(colour_encoder):
    """Return a model whose scores of pairs understand captions better than its embeddings.

    It knows that "green or blue" means green and that "green, by mistake" means red.
    """

    class ColourPairScorer(type(colour_encoder)):
        pair_score = "the colour that is meant"

        def tokenize(self, texts):
            named_colours = super().tokenize(texts)
            meant_colour = named_colours.argmax(dim=1)
            meant_colour[["or" in text for text in texts]] = 1
            meant_colour[["mistake" in text for text in texts]] = 0
            return torch.cat([named_colours, meant_colour[:, None]], dim=1)

        def encode_text(self, tokens):
            return super().encode_text(tokens[:, :3])

        def image_parts(self, images):
            return (images.mean(dim=(2, 3)).argmax(dim=1),)

        def text_parts(self, tokens):
            return (tokens[:, 3],)

        def pair_scores(self, images, texts):
            return (images[0][:, None] == texts[0]).float()

    return ColourPairScorer()


@pytest.fixture
def captions(save_colour, tmp_path: Path) -> RetrievalProtocol:
    records = []
    for colour, texts in CAPTIONS.items():
        save_colour(tmp_path / f"{colour}.png", colour)
        records.append({"image": f"{colour}.png", "caption": texts})
    (tmp_path / "captions.json").write_text(json.dumps(records))
    return RetrievalProtocol(
        dataset="colours", protocol_name="test", root=str(tmp_path), annotations="captions.json"
    )


@pytest.mark.parametrize(
    ("pairs", "text_to_image_ranks", "image_to_text_ranks"),
    [
        (None, [2, 1, 1, 1, 3], [2, 1, 1]),
        ("all", [1, 1, 1, 1, 1], [1, 1, 1]),
        # The embeddings choose one candidate: for "green, by mistake" the green image, not red.
        (1, [1, 1, 1, 1, 3], [1, 1, 1]),
        (2, [1, 1, 1, 1, 3], [1, 1, 1]),
        (3, [1, 1, 1, 1, 1], [1, 1, 1]),
    ],
)
def test_retrieval_solved_by_hand(
    pair_scorer, captions, pairs, text_to_image_ranks, image_to_text_ranks
):
    protocol = replace(captions, pairs=pairs)
    result = retrieval.TASK.measure_one(pair_scorer, protocol, RunOptions())
    assert result.samples["text_to_image_rank"].tolist() == text_to_image_ranks
    assert result.samples["image_to_text_rank"].tolist() == image_to_text_ranks
    settings = {} if pairs is None else {"pairs": pairs, "pair_score": "the colour that is meant"}
    assert result.settings == settings


def test_selection_solved_by_hand(pair_scorer, save_colour, tmp_path):
    for colour in ("red", "green", "blue"):
        save_colour(tmp_path / f"{colour}.png", colour)
    items = [
        {"image": "green.png", "caption": "green or blue", "negatives": ["green, by mistake"]},
        {"image": "red.png", "caption": "red", "negatives": ["green, by mistake"]},
        {"image": "red.png", "caption": "green, by mistake", "negatives": ["green", "blue"]},
    ]
    (tmp_path / "items.json").write_text(json.dumps(items))
    protocol = SelectionProtocol(
        dataset="mine",
        protocol_name="test",
        root=str(tmp_path),
        images=".",
        annotations="items.json",
        layout="items",
    )
    by_embeddings = selection.TASK.measure_one(pair_scorer, protocol, RunOptions())
    assert by_embeddings.samples["correct"].tolist() == [False, True, False]
    # The second item is a tie of pairs: both captions mean red.
    by_pairs = selection.TASK.measure_one(pair_scorer, replace(protocol, pairs="all"), RunOptions())
    assert by_pairs.samples["correct"].tolist() == [True, False, True]


def test_models_with_cross_attention_score_pairs(captions):
    with_it, without = (load_encoder(parse_model_spec(f"scenes-{n}")) for n in ("cosmos", "clip"))
    assert isinstance(with_it, PairScorer)
    assert not isinstance(without, PairScorer)
    protocol = replace(captions, pairs="all")
    with pytest.raises(UsageError, match="scenes-clip has no scores of pairs: choose a COSMOS"):
        retrieval.TASK.measure_one(without, protocol, RunOptions())


def test_protocols_of_known_sets():
    assert [*protocols_of_dataset("coco-karpathy")] == [
        "karpathy",
        "karpathy-pairs100",
        "karpathy-pairs",
    ]
    assert [*protocols_of_dataset("winoground")] == ["winoground", "winoground-pairs"]
    assert [*protocols_of_dataset("imagenet1k")] == ["cosmos", "clip-benchmark"]
    assert find_known("coco-karpathy", "karpathy-pairs100").pairs == 100
    assert find_known("coco-karpathy").pairs is None


@pytest.mark.parametrize(
    ("line", "protocol_name"),
    [("pairs: 3", "user-pairs3"), ("pairs: all", "user-pairs"), ("pairs: null", "user")],
)
def test_protocols_of_own_sets(line, protocol_name, tmp_path):
    (path,) = write_scenes(tmp_path / "scenes", 3, "found")
    Path(path).write_text(f"{Path(path).read_text()}{line}\n")
    assert find_protocol(path).protocol_name == protocol_name


@pytest.mark.parametrize("line", ["pairs: 0", "pairs: -2", "pairs: some", "pairs: 2.5"])
def test_wrong_numbers_of_pairs(line, tmp_path, command):
    (path,) = write_scenes(tmp_path / "scenes", 3, "found")
    Path(path).write_text(f"{Path(path).read_text()}{line}\n")
    completed = command("run", "--dataset", path, "--model", "scenes-cosmos")
    assert completed.status == 2
    (text,) = completed.err.splitlines()
    assert "`pairs`" in text or "`pairs" in text


def test_both_protocols_by_the_commands(tmp_path, command):
    """They are never in one ranking, but are compared sample by sample on request."""
    run = ["run", "--model", "scenes-cosmos", "--protocol", "scenes", "--protocol", "scenes-pairs"]
    datasets = ["--dataset", "scenes-retrieval", "--dataset", "scenes-select"]
    completed = command(*run, *datasets, "--limit", "24", "--output", "results", "--no-cache")
    assert completed.status == 0, completed.err
    by_embeddings, by_pairs = sorted(
        Path("results").glob("scenes-cosmos__scenes-retrieval__scenes*.json"),
        key=lambda path: len(path.name),
    )
    assert json.loads(by_pairs.read_text())["provenance"]["pairs"] == "all"
    assert command("verify", "results").status == 0
    rows = json.loads(command("leaderboard", "results", "--format", "json").out)
    assert sorted({row["protocol"] for row in rows}) == ["scenes", "scenes-pairs"]
    leaderboard = command("leaderboard", "results").out
    assert leaderboard.index("(scenes)") < leaderboard.index("(scenes-pairs)")
    comparison = command("compare", by_embeddings, by_pairs, "--json")
    assert comparison.status == 0, comparison.err
    tests = json.loads(comparison.out)["tests"]
    assert {test["protocol"] for test in tests} == {"scenes and scenes-pairs"}
    assert {test["samples"] for test in tests} == {24}
    selection_result = next(Path("results").glob("*select__scenes*pairs*.json"))
    assert command("compare", by_embeddings, selection_result).status == 2


def plain_rank(scores: np.ndarray, is_right: np.ndarray) -> int:
    """Return 1 + the number of wrong candidates that score at least as high as the best right."""
    return 1 + int((scores[~is_right] >= scores[is_right].max()).sum())


def test_ranks_of_a_bundled_model_are_those_of_all_scores_at_once(tmp_path):
    """The scores of all pairs are computed as one matrix, whose ranks are counted plainly."""
    protocol = find_known("scenes-retrieval-five", "scenes-pairs")
    options = RunOptions(limit=15, batch_size=4, cache=str(tmp_path))
    encoder = load_encoder(parse_model_spec("scenes-cosmos"))
    result = retrieval.TASK.measure_one(encoder, protocol, options)
    data = retrieval.TASK.open_data(protocol, options)
    pixels = torch.stack([encoder.transform(image.decode(image.read())) for image in data.images])
    image_parts = encoder.image_parts(pixels)
    text_parts = encoder.text_parts(encoder.tokenize(data.captions))
    scores = encoder.pair_scores(image_parts, text_parts).numpy()  # images x captions
    is_right = data.image_of_text == np.arange(15)[:, None]
    image_to_text_ranks = [plain_rank(*rows) for rows in zip(scores, is_right, strict=True)]
    assert result.samples["image_to_text_rank"].tolist() == image_to_text_ranks
    text_to_image_ranks = [plain_rank(*rows) for rows in zip(scores.T, is_right.T, strict=True)]
    assert result.samples["text_to_image_rank"].tolist() == text_to_image_ranks
