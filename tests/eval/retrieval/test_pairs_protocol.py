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
def knowing(colour_encoder):
    """Knows by mistake, and that the colour named first counts, as embeddings do not."""

    class Knowing(type(colour_encoder)):
        pair_score = "the colour that is meant"

        def tokenize(self, texts):
            named = super().tokenize(texts)
            meant = named.argmax(dim=1)
            meant[["or" in text for text in texts]] = 1
            meant[["mistake" in text for text in texts]] = 0
            return torch.cat([named, meant[:, None]], dim=1)

        def encode_text(self, tokens):
            return super().encode_text(tokens[:, :3])

        def image_parts(self, images):
            return (images.mean(dim=(2, 3)).argmax(dim=1),)

        def text_parts(self, tokens):
            return (tokens[:, 3],)

        def pair_scores(self, images, texts):
            return (images[0][:, None] == texts[0]).float()

    return Knowing()


@pytest.fixture
def captions(save_colour, tmp_path: Path) -> RetrievalProtocol:
    listed = []
    for colour, texts in CAPTIONS.items():
        save_colour(tmp_path / f"{colour}.png", colour)
        listed.append({"image": f"{colour}.png", "caption": texts})
    (tmp_path / "captions.json").write_text(json.dumps(listed))
    return RetrievalProtocol(
        dataset="colours", protocol_name="test", root=str(tmp_path), annotations="captions.json"
    )


@pytest.mark.parametrize(
    ("pairs", "of_texts", "of_images"),
    [
        (None, [2, 1, 1, 1, 3], [2, 1, 1]),
        ("all", [1, 1, 1, 1, 1], [1, 1, 1]),
        # Of one candidate the first stage decides: green for "green, by mistake", not red.
        (1, [1, 1, 1, 1, 3], [1, 1, 1]),
        (2, [1, 1, 1, 1, 3], [1, 1, 1]),
        (3, [1, 1, 1, 1, 1], [1, 1, 1]),
    ],
)
def test_retrieval_solved_by_hand(knowing, captions, pairs, of_texts, of_images):
    found = retrieval.TASK.measure_one(knowing, replace(captions, pairs=pairs), RunOptions())
    assert found.samples["text_to_image_rank"].tolist() == of_texts
    assert found.samples["image_to_text_rank"].tolist() == of_images
    scored = {} if pairs is None else {"pairs": pairs, "pair_score": "the colour that is meant"}
    assert found.settings == scored


def test_selection_solved_by_hand(knowing, save_colour, tmp_path):
    for colour in ("red", "green", "blue"):
        save_colour(tmp_path / f"{colour}.png", colour)
    items = [
        {"image": "green.png", "caption": "green or blue", "negatives": ["green, by mistake"]},
        {"image": "red.png", "caption": "red", "negatives": ["green, by mistake"]},
        {"image": "red.png", "caption": "green, by mistake", "negatives": ["green", "blue"]},
    ]
    (tmp_path / "items.json").write_text(json.dumps(items))
    given = {"dataset": "mine", "protocol_name": "test", "root": str(tmp_path), "images": "."}
    by_pairs = [
        selection.TASK.measure_one(
            knowing,
            SelectionProtocol(**given, annotations="items.json", layout="items", pairs=pairs),
            RunOptions(),
        )
        .samples["correct"]
        .tolist()
        for pairs in (None, "all")
    ]
    # The second item is a tie of pairs: both captions mean red.
    assert by_pairs == [[False, True, False], [True, False, True]]


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
    ended = command("run", "--dataset", path, "--model", "scenes-cosmos")
    assert ended.status == 2
    (text,) = ended.err.splitlines()
    assert "`pairs`" in text or "`pairs" in text


def test_by_the_commands(tmp_path, command):
    """Both protocols side by side, never in one ranking; compared sample by sample on request."""
    of = ["--model", "scenes-cosmos", "--dataset", "scenes-retrieval", "--dataset", "scenes-select"]
    protocols = ["--protocol", "scenes", "--protocol", "scenes-pairs"]
    ended = command("run", *of, *protocols, "--limit", "24", "--output", "results", "--no-cache")
    assert ended.status == 0, ended.err
    stem = "scenes-cosmos__scenes-retrieval__scenes"
    plain, paired = sorted(Path("results").glob(f"{stem}*.json"), key=lambda p: len(p.name))
    assert json.loads(paired.read_text())["provenance"]["pairs"] == "all"
    assert command("verify", "results").status == 0
    boards = json.loads(command("leaderboard", "results", "--format", "json").out)
    assert sorted({row["protocol"] for row in boards}) == ["scenes", "scenes-pairs"]
    printed = command("leaderboard", "results").out
    assert printed.index("(scenes)") < printed.index("(scenes-pairs)")
    compared = command("compare", plain, paired, "--json")
    assert compared.status == 0, compared.err
    tests = json.loads(compared.out)["tests"]
    assert {test["protocol"] for test in tests} == {"scenes and scenes-pairs"}
    assert {test["samples"] for test in tests} == {24}
    other = next(Path("results").glob("*select__scenes*pairs*.json"))
    assert command("compare", plain, other).status == 2


def test_the_scores_of_a_bundled_model_are_those_of_its_matrix(tmp_path):
    """All pairs at once against the embedding's route: ranks by a plain sort."""
    protocol = find_known("scenes-retrieval-five", "scenes-pairs")
    options = RunOptions(limit=15, batch_size=4, cache=str(tmp_path))
    encoder = load_encoder(parse_model_spec("scenes-cosmos"))
    found = retrieval.TASK.measure_one(encoder, protocol, options)
    data = retrieval.TASK.open_data(protocol, options)
    pixels = torch.stack([encoder.transform(one.decode(one.read())) for one in data.images])
    parts = encoder.image_parts(pixels), encoder.text_parts(encoder.tokenize(data.captions))
    scores = encoder.pair_scores(*parts).numpy()
    own = data.image_of_text == np.arange(15)[:, None]
    best = np.where(own, scores, -1).max(axis=1)
    by_image = 1 + np.array([(s[~o] >= b).sum() for s, o, b in zip(scores, own, best, strict=True)])
    assert found.samples["image_to_text_rank"].tolist() == by_image.tolist()
    by_text = 1 + ((scores >= scores.T[own.T]) & ~own).sum(axis=0)
    assert found.samples["text_to_image_rank"].tolist() == by_text.tolist()
