"""Ranks of all positives of a query: in the originals' layouts, by hand and by plain formulas."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cosmos_eval.data.pickles import read_plain_pickle
from cosmos_eval.data.readers import FileError
from cosmos_eval.embedding.composed import sum_of_features
from cosmos_eval.protocols import find_known
from cosmos_eval.stats import ranking as stats
from cosmos_eval.tasks import find_protocol, ranking
from cosmos_eval.types import RankingProtocol, RunOptions, UsageError

MODEL = f"python:{Path(__file__).parents[2] / 'examples/own_model.py'}"


def plain_order(scores: Any, positives: set[int], junk: set[int]) -> list[int]:
    """All items but junk from the best to the worst, among equal scores negatives first."""
    items = [item for item in range(len(scores)) if item not in junk]
    return sorted(items, key=lambda item: (-scores[item], item in positives, item))


def plain_map(order: list[int], positives: set[int]) -> float:
    """`compute_ap` of revisitop's python/evaluate.py, over a list without junk."""
    precision, n_found = 0.0, 0
    for rank, item in enumerate(order):
        if item in positives:
            before = 1.0 if rank == 0 else n_found / rank
            n_found += 1
            precision += (before + n_found / (rank + 1)) / 2 / len(positives)
    return precision


def plain_average_precision(order: list[int], positives: set[int], k: int) -> float:
    """The rule of CIRCO's src/evaluation.py, and with k = R that of eccv_caption/_metrics.py."""
    labels = np.isin(order, list(positives))
    precisions = np.cumsum(labels) * labels / np.arange(1, len(order) + 1)
    return float(precisions[:k].sum() / min(len(positives), k))


@pytest.mark.parametrize("seed", range(20))
def test_ranks_and_figures_are_those_of_plain_formulas(seed: int) -> None:
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(seed)
    queries = rng.integers(-2, 3, (6, 3)).astype(np.float32)
    gallery = rng.integers(-2, 3, (30, 3)).astype(np.float32)
    lists_of_queries = [np.split(rng.permutation(30)[:14], [4, 9]) for _ in queries]
    easy, hard, junk = zip(*lists_of_queries, strict=True)
    positives = [np.concatenate(pair) for pair in zip(easy, hard, strict=True)]
    rankings = stats.rank_positives(queries, gallery, positives, junk)
    for query, ranking_of_query in enumerate(rankings):
        scores, removed = queries[query] @ gallery.T, set(junk[query].tolist())
        right = set(positives[query].tolist())
        order = plain_order(scores, right, removed)
        assert ranking_of_query.ranks.tolist() == [
            n for n, item in enumerate(order, 1) if item in right
        ]
        assert (
            stats.r_precision(ranking_of_query.ranks)
            == np.isin(order[: len(right)], [*right]).mean()
        )
        for k in (1, 5, len(right), 25):
            expected = plain_average_precision(order, right, k)
            assert stats.average_precision_at(ranking_of_query.ranks, k) == pytest.approx(expected)
            assert stats.recall_at(ranking_of_query.ranks, k) == bool(right & set(order[:k]))
            first = order[: min(k, len(right))]
            assert (
                stats.modified_precision_at(ranking_of_query.ranks, k)
                == np.isin(first, [*right]).mean()
            )
        places = -np.arange(len(order))
        expected = average_precision_score(np.isin(order, [*right]), places)
        assert stats.average_precision_at(ranking_of_query.ranks, 30) == pytest.approx(expected)
        is_hard = np.isin(ranking_of_query.items, hard[query])
        setups = {"easy": easy, "hard": hard, "medium": positives}
        for setup, items in setups.items():
            positives_of_setup = set(items[query].tolist())
            left_out = removed | (right - positives_of_setup)
            order = plain_order(scores, positives_of_setup, left_out)
            ranks = ranking.ranks_of_setup(ranking_of_query.ranks, is_hard, setup)
            expected = plain_map(order, positives_of_setup)
            assert stats.interpolated_average_precision(ranks) == pytest.approx(expected)
            last = max(order.index(item) + 1 for item in positives_of_setup)
            n_best = min(10, last)
            assert (
                stats.precision_at(ranks, 10)
                == np.isin(order[:n_best], [*positives_of_setup]).mean()
            )


def save(path: Path, *colours: str) -> None:
    """Write an image of vertical stripes of 4 x 6 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (4 * len(colours), 6))
    for column, colour in enumerate(colours):
        image.paste(Image.new("RGB", (4, 6), colour), (4 * column, 0))
    image.save(path)


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def known_set(name: str, root: Path, text_weight: float = 0.5) -> RankingProtocol:
    """A published set below a folder, with any number of queries."""
    protocol = find_known(name)
    assert isinstance(protocol, RankingProtocol)
    return replace(
        protocol,
        root=str(root),
        text_weight=text_weight,
        n_queries=None,
        n_images=None,
        n_positives=None,
    )


def measured(encoder: Any, name: str, root: Path, text_weight: float = 0.5) -> Any:
    protocol = known_set(name, root, text_weight)
    return ranking.TASK.measure_one(encoder, protocol, RunOptions())


def test_revisited_oxford_solved_by_hand(tmp_path: Path, colour_encoder: Any) -> None:
    folder = tmp_path / "roxford5k"
    for name, colour in {"a": "red", "b": "orange", "c": "lime", "d": "yellow"}.items():
        save(folder / f"jpg/{name}.jpg", colour)
    save(folder / "jpg/q.jpg", "blue", "red")
    truths = [
        {"bbx": [4.0, 0.0, 8.0, 6.0], "easy": np.array([1]), "hard": [3], "junk": [0]},
        {"bbx": np.array([4.2, 0, 8, 6]), "easy": [], "hard": [3], "junk": []},
    ]
    content = {"imlist": list("abcd"), "qimlist": ["q", "q"], "gnd": truths}
    path = folder / "gnd_roxford5k.pkl"
    path.write_bytes(pickle.dumps(content, protocol=2))
    measurement = measured(colour_encoder, "roxford5k", tmp_path)
    # Cut to its red half, the query ranks a, b, d, c: without junk [b, d, c], then [a, b, d, c].
    assert measurement.samples["rank"].tolist() == [1, 2, 3]
    assert measurement.samples["is_hard"].tolist() == [False, True, True]
    second = (0 + 1 / 3) / 2
    expected = {"mAP_easy": 1, "mAP_medium": (1 + second) / 2, "mAP_hard": (1 + second) / 2}
    precisions = {"mP@10_easy": 1, "mP@10_medium": (1 + 1 / 3) / 2, "mP@10_hard": (1 + 1 / 3) / 2}
    assert measurement.metrics == pytest.approx({**expected, **precisions})
    assert set(measurement.intervals) == set(measurement.metrics)
    whole_protocol = replace(known_set("roxford5k", tmp_path), n_queries=70)
    with pytest.raises(UsageError, match="has 2 of 70 queries of roxford5k"):
        ranking.TASK.open_data(whole_protocol, RunOptions())


def test_queries_of_the_same_landmark_depend_on_each_other(
    tmp_path: Path, colour_encoder: Any
) -> None:
    folder = tmp_path / "roxford5k"
    for name in "abcdpqrs":
        save(folder / f"jpg/{name}.jpg", "red")
    # Queries p and r share no positive, but q shares one with each; s shares only junk with them.
    lists = {"p": ([0], [1], []), "q": ([1], [2], []), "r": ([2], [], []), "s": ([3], [], [0])}
    truths = []
    for easy, hard, junk in lists.values():
        truths.append({"bbx": [0, 0, 4, 6], "easy": easy, "hard": hard, "junk": junk})
    content = {"imlist": list("abcd"), "qimlist": list(lists), "gnd": truths}
    (folder / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(content))
    measurement = measured(colour_encoder, "roxford5k", tmp_path)
    assert measurement.samples["cluster"].tolist() == [0, 0, 0, 1]


UNED_CLASSES = {"red": 1, "orange": 1, "yellow": 1, "gold": 2, "lime": 2}


def write_uned(root: Path, domain: str, **lists: dict[str, int | list[int]]) -> None:
    """Write lists of classes by the names of colours, and an image for each colour."""
    for split, classes in lists.items():
        records = []
        for colour, class_id in classes.items():
            save(root / f"uned/images/{domain}/{split}/{colour}.png", colour)
            path = f"{domain}/{split}/{colour}.png"
            records.append({"path": path, "class_id": class_id, "other": "not read"})
        list_path = root / f"uned/info_files/{domain}/{split}.json"
        list_path.parent.mkdir(parents=True, exist_ok=True)
        list_path.write_text(json.dumps(records))


def test_uned_ranks_each_query_among_the_others(tmp_path: Path, colour_encoder: Any) -> None:
    """Solved by hand from the cosines of the colours.

    Red: orange .84, gold .76, yellow .71, lime 0. Orange: gold .99, yellow .98, red .84, lime .54.
    Yellow: gold .997, orange .98, red and lime .71. Gold: yellow .997, orange .99, red .76, lime
    .64. Lime: yellow .71, gold .64, orange .54, red 0.
    """
    write_uned(tmp_path, "cars", test=UNED_CLASSES)
    measurement = measured(colour_encoder, "uned/cars", tmp_path)
    # Yellow has the same score with red, its positive, and with lime, which counts as above it.
    assert measurement.samples["rank"].tolist() == [1, 3, 2, 3, 2, 4, 4, 2]
    # Of the first two items of red, orange and yellow, one is a positive; of the first of gold and
    # of lime, none is.
    assert measurement.metrics == pytest.approx(
        {"R@1": 1 / 5, "mMP@5": (1 / 2 + 1 / 2 + 1 / 2) / 5}
    )
    assert measurement.samples["cluster"].tolist() == [0, 0, 0, 1, 1]


def test_uned_ranks_queries_in_an_index(tmp_path: Path, colour_encoder: Any) -> None:
    index = {"orange": 2, "gold": 3, "yellow": 1}
    write_uned(tmp_path, "gldv2", test={"red": [1, 3]}, index=index)
    measurement = measured(colour_encoder, "uned/gldv2", tmp_path)
    assert measurement.samples["rank"].tolist() == [2, 3]
    assert measurement.metrics == pytest.approx({"R@1": 0, "mMP@5": 1 / 2})


def test_a_broken_list_of_uned_is_one_line(tmp_path: Path, colour_encoder: Any) -> None:
    write_uned(tmp_path, "met", test={"red": 1}, index={"red": 2})
    with pytest.raises(UsageError, match=r"test\.json: query 0 has no positives$"):
        measured(colour_encoder, "uned/met", tmp_path)
    path = tmp_path / "uned/info_files/met/index.json"
    for class_id in ("art", []):
        path.write_text(json.dumps([{"path": "met/index/red.png", "class_id": class_id}]))
        with pytest.raises(UsageError, match=r"index\.json: .*class_id") as raised:
            measured(colour_encoder, "uned/met", tmp_path)
        assert "\n" not in str(raised.value)


class _Command:
    """A value whose pickle runs a command when it is loaded."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, ...]]:
        import os

        return os.system, ("touch executed",)


def test_pickles_are_read_without_executing_them(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "values.pkl"
    value = {"a": [1, 2.5, np.arange(3), np.float64(2), np.int32(1)], "b": np.array(["x"])}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps(value, protocol=protocol))
        read = read_plain_pickle(path)
        assert read["a"][2].tolist() == [0, 1, 2]
        assert [*read["a"][:2], *read["a"][3:], read["b"][0]] == [1, 2.5, 2, 1, "x"]
    path.write_bytes(pickle.dumps([_Command()]))
    with pytest.raises(FileError, match=r"names (posix|nt).system, which reading it would execute"):
        read_plain_pickle(path)
    assert not (tmp_path / "executed").exists()
    for content in (b"", b"\x80\x04", b"junk", pickle.dumps(value)[:-9]):
        path.write_bytes(content)
        with pytest.raises(FileError, match="is not a pickle of plain values") as raised:
            read_plain_pickle(path)
        assert "\n" not in str(raised.value)


def write_captions(root: Path) -> None:
    """Images 1 to 3 with two captions each, in COCO's and in ECCV Caption's form."""
    images = [{"id": n, "file_name": f"{n}.png"} for n in (1, 2, 3, 4)]
    texts = ["a red one", "red", "a green one", "green", "a blue one", "red and blue", "none"]
    captions = [
        {"id": 10 + n, "image_id": 1 + n // 2, "caption": text} for n, text in enumerate(texts)
    ]
    for number, colour in enumerate(("red", "lime", "blue"), 1):
        save(root / f"val2014/{number}.png", colour)
    write(root / "annotations/captions_val2014.json", {"images": images, "annotations": captions})
    lists = root / "eccv_caption/data"
    original = {"1": [10, 11], "2": [12, 13], "3": [14, 15]}
    write(lists / "original_image_to_caption.json", original)
    # Caption 16 is not among those that are ranked.
    write(lists / "eccv_image_to_caption.json", {"1": [10, 11, 15, 16], "3": [14]})
    write(lists / "eccv_caption_to_image.json", {"10": [1], "11": [1], "15": [1, 2]})


def test_eccv_caption_solved_by_hand(tmp_path: Path, colour_encoder: Any) -> None:
    write_captions(tmp_path)
    measurement = measured(colour_encoder, "eccv-caption", tmp_path)
    samples = measurement.samples
    # Image 1 ranks both red captions and then `red and blue`; no model ranks caption 16. To `red
    # and blue`, the blue image is as similar as the red one, and counts as above it.
    assert samples["rank"].tolist() == [1, 2, 3, 7, 1, 1, 1, 2, 3]
    assert samples["item"].tolist()[:5] == [0, 1, 5, -1, 4]
    assert samples["direction"].tolist() == ["image_to_text"] * 2 + ["text_to_image"] * 3
    clusters = samples["cluster"]  # captions 10 and 11 have one image
    assert clusters[2] == clusters[3]
    assert len(set(clusters.tolist())) == 4
    expected = {
        "image_to_text_mAP@R": (3 / 4 + 1) / 2,
        "image_to_text_R-precision": (3 / 4 + 1) / 2,
        "image_to_text_R@1": 1,
        "text_to_image_mAP@R": (1 + 1 + 1 / 4) / 3,
        "text_to_image_R-precision": (1 + 1 + 1 / 2) / 3,
        "text_to_image_R@1": 2 / 3,
    }
    assert measurement.metrics == pytest.approx(expected)


CIRR = ("red", "orange", "lime", "cyan", "blue", "purple", "yellow")


def write_cirr(root: Path) -> None:
    for name in CIRR:
        save(root / f"cirr/img_raw/dev/{name}.png", name)
    paths = {name: f"./dev/{name}.png" for name in CIRR}
    write(root / "cirr/image_splits/split.rc2.val.json", paths)
    query = {"reference": "red", "target_hard": "blue", "caption": "make it blue", "pairid": 3}
    query["img_set"] = {"id": 1, "members": list(CIRR[:6])}
    write(root / "cirr/captions/cap.rc2.val.json", [query])


def test_cirr_solved_by_hand(tmp_path: Path, colour_encoder: Any) -> None:
    write_cirr(tmp_path)
    measurement = measured(colour_encoder, "cirr", tmp_path)
    # Half red and half blue is most like purple. Blue, red and orange follow; red is removed.
    assert (
        measurement.samples["rank"].tolist() == measurement.samples["subset_rank"].tolist() == [2]
    )
    names = ("R@1", "R@5", "R@10", "R@50", "R_subset@1", "R_subset@2", "R_subset@3")
    assert measurement.metrics == dict(zip(names, (0, 1, 1, 1, 0, 1, 1), strict=True))
    assert measurement.settings == {"composition": "sum of features, text weight 0.5"}
    by_text = measured(colour_encoder, "cirr", tmp_path, text_weight=1.0)
    assert by_text.metrics["R@1"] == 1


def test_fashion_iq_joins_captions(tmp_path: Path, colour_encoder: Any) -> None:
    root = tmp_path / "fashion-iq"
    for name in ("red", "lime", "blue"):
        save(root / f"images/{name}.jpg", name)
    write(root / "image_splits/split.dress.val.json", ["red", "lime", "blue"])
    query = {"candidate": "red", "target": "lime", "captions": ["is green.", " not red? "]}
    # As query 1928 of cap.shirt.val.json and two of cap.toptee.val.json.
    with_empty = {**query, "captions": ["", "is green"]}
    write(root / "captions/cap.dress.val.json", [query, with_empty])
    protocol = known_set("fashioniq-dress", tmp_path)
    data = ranking.TASK.open_data(protocol, RunOptions())
    assert data.captions == ("is green and not red", " and is green")
    write(root / "captions/cap.dress.val.json", [{**query, "captions": ["", ". "]}])
    with pytest.raises(UsageError, match="record 0: all captions are empty"):
        ranking.TASK.open_data(protocol, RunOptions())
    # The reference image stays in the gallery, and is found first.
    write(root / "captions/cap.dress.val.json", [query])
    measurement = measured(colour_encoder, "fashioniq-dress", tmp_path)
    assert measurement.samples["rank"].tolist() == [2]
    assert set(measurement.metrics) == {"R@10", "R@50"}


def test_circo_has_several_positives(tmp_path: Path, colour_encoder: Any) -> None:
    root = tmp_path / "CIRCO"
    colours = ("red", "purple", "blue", "lime", "navy", "cyan")
    images = [{"id": n, "file_name": f"{n:012}.png"} for n in range(6)]
    for image, colour in zip(images, colours, strict=True):
        save(root / f"COCO2017_unlabeled/unlabeled2017/{image['file_name']}", colour)
    listed = root / "COCO2017_unlabeled/annotations/image_info_unlabeled2017.json"
    write(listed, {"images": images})
    query = {"reference_img_id": 0, "relative_caption": "in blue", "gt_img_ids": [4, 2, 3], "id": 0}
    write(root / "annotations/val.json", [query])
    measurement = measured(colour_encoder, "circo", tmp_path)
    # Purple, red, blue and navy (the same colour, darker), cyan, lime.
    ranks = measurement.samples["rank"].tolist()
    assert ranks[2] == 6
    expected = sum(n / rank for n, rank in enumerate(ranks, 1) if rank <= 5) / 3
    assert measurement.metrics["mAP@5"] == pytest.approx(expected)
    assert measurement.metrics["mAP@10"] == pytest.approx(expected + 3 / 6 / 3)


def test_sums_are_normalised_and_weighted() -> None:
    images, texts = np.array([[1, 0]], np.float32), np.array([[0, 1]], np.float32)
    assert sum_of_features(images, texts, 0.5)[0] == pytest.approx([0.5**0.5] * 2)
    assert sum_of_features(images, texts, 0.75)[0] == pytest.approx(np.array([1, 3]) / 10**0.5)


def test_a_model_that_composes_takes_the_place_of_sums(tmp_path: Path, command: Any) -> None:
    write_cirr(tmp_path)
    model = tmp_path / "composer.py"
    model.write_text(
        "import torch\n"
        "from torch import nn\n"
        "from cosmos_eval import TwoTower\n"
        "def pixels(image):\n"
        "    return torch.tensor(image.getpixel((0, 0)))[:, None, None] / 255\n"
        "def blue(images, texts):\n"
        "    assert texts == ['make it blue'] and images.shape == (1, 3, 1, 1)\n"
        "    return torch.tensor([[0.0, 0.0, 2.0]])\n"
        "def tokens(texts):\n"
        "    return torch.tensor([[len(text), 1] for text in texts])\n"
        "scale = nn.Linear(1, 1)\n"
        "model = TwoTower(encode_image=lambda x: x[:, :, 0, 0] + 0.01,\n"
        "                 encode_text=lambda x: torch.eye(3)[x[:, 0] % 3],\n"
        "                 transform=pixels, tokenize=tokens, name='composer', weights=scale,\n"
        "                 compose=blue)\n"
    )
    run = ("run", "--dataset", "cirr", "--data-root", str(tmp_path), "--limit", "1", "--json")
    ended = command(*run, "--model", f"python:{model}")
    assert ended.out, ended.err
    (row,) = json.loads(ended.out)
    assert row["provenance"]["composition"] == "blue"
    assert row["metrics"]["R@1"] == row["metrics"]["R_subset@1"] == 1
    assert "1 verified" in command("verify").out


def own_set(root: Path, records: list[dict[str, Any]]) -> RankingProtocol:
    for name in ("red", "lime", "blue"):
        save(root / f"images/{name}.png", name)
    (root / "queries.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    text = "kind: ranking\nimages: images\nannotations: queries.jsonl\nimage_suffix: .png\n"
    (root / "own.yaml").write_text(text)
    protocol = find_protocol(str(root / "own.yaml"))
    assert isinstance(protocol, RankingProtocol)
    return protocol


def test_a_set_of_ones_own_is_measured_and_listed(tmp_path: Path, command: Any) -> None:
    records = [
        {"image": "red", "positives": ["red"], "negatives": ["lime", "blue"]},
        {"text": "blue", "positives": ["blue", "lime"], "junk": ["red"]},
    ]
    own_set(tmp_path, records)
    (row,) = json.loads(
        command("run", "--dataset", str(tmp_path / "own.yaml"), "--model", MODEL, "--json").out
    )
    assert row["n_samples"] == 2
    assert row["metrics"] == dict.fromkeys(("mAP@R", "R-precision", "R@1", "R@5", "R@10"), 1)
    assert "1 verified" in command("verify").out
    assert "R-precision" in command("leaderboard", "--format", "md").out


GOOD = {"image": "red", "positives": ["red"]}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"positives": ["red"]}, "line 1: give `image`, `text` or both"),
        ({"image": "red"}, "line 1: `positives` is missing"),
        ({"image": "red", "positives": []}, "query 0 has no positives"),
        ({**GOOD, "junk": ["red"]}, "query 0 has item red twice, as positive or junk"),
        (
            {**GOOD, "negatives": ["white"]},
            "1 of the 2 images of .* are not there, first: .*images/white.png",
        ),
        ({"image": 3, "positives": ["red"]}, "line 1: `image` must be text"),
        (["red"], "line 1: expected keys and values, not"),
    ],
)
def test_bad_lists_are_one_line(record: Any, message: str, tmp_path: Path) -> None:
    protocol = own_set(tmp_path, [record])
    with pytest.raises(UsageError, match=message) as raised:
        ranking.TASK.open_data(protocol, RunOptions())
    assert "\n" not in str(raised.value)


def test_bad_originals_are_one_line(tmp_path: Path) -> None:
    write_cirr(tmp_path)
    write_captions(tmp_path)
    write(tmp_path / "eccv_caption/data/eccv_image_to_caption.json", {"9": [10]})
    write(tmp_path / "cirr/image_splits/split.rc2.val.json", {"red": "red.png"})
    folder = tmp_path / "roxford5k"
    save(folder / "jpg/a.jpg", "red")
    truth = {"bbx": [0, 0, 1, 1], "easy": [1], "hard": [], "junk": []}
    content = {"imlist": ["a"], "qimlist": ["a"], "gnd": [truth]}
    (folder / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(content))
    faults = {
        "eccv-caption": "lacks image 9|lacks caption",
        "cirr": "record 0: image blue is not in split.rc2.val.json",
        "roxford5k": "not in the form of .*revisitop: index 1 is not below 1",
    }
    for name, fault in faults.items():
        protocol = known_set(name, tmp_path)
        with pytest.raises(UsageError, match=fault) as raised:
            ranking.TASK.open_data(protocol, RunOptions())
        assert "\n" not in str(raised.value)


def fault_of(name: str, root: Path) -> str:
    with pytest.raises(UsageError) as raised:
        ranking.TASK.open_data(known_set(name, root), RunOptions())
    assert "\n" not in str(raised.value)
    return str(raised.value).removeprefix(f"{root}/")


def test_faults_name_the_list_that_is_damaged(tmp_path: Path) -> None:
    write_cirr(tmp_path)
    write_captions(tmp_path)
    write(tmp_path / "CIRCO/annotations/val.json", [])
    lists = {
        "circo": "CIRCO/COCO2017_unlabeled/annotations/image_info_unlabeled2017.json",
        "cirr": "cirr/image_splits/split.rc2.val.json",
        "fashioniq-dress": "fashion-iq/image_splits/split.dress.val.json",
        "eccv-caption": "eccv_caption/data/eccv_caption_to_image.json",
    }
    write(tmp_path / "fashion-iq/captions/cap.dress.val.json", [])
    save(tmp_path / "fashion-iq/images/red.jpg", "red")
    save(tmp_path / "CIRCO/COCO2017_unlabeled/unlabeled2017/0.png", "red")
    for name, file in lists.items():
        write(tmp_path / file, 3)
        assert fault_of(name, tmp_path).startswith(f"{file}: must ")
    (tmp_path / lists["eccv-caption"]).unlink()
    assert fault_of("eccv-caption", tmp_path) == f"{lists['eccv-caption']}: no such file"


def test_ids_that_occur_twice_are_refused(tmp_path: Path) -> None:
    write_captions(tmp_path)
    path = tmp_path / "annotations/captions_val2014.json"
    original = json.loads(path.read_text())
    for key, noun, number in (("images", "image", 4), ("annotations", "caption", 16)):
        write(path, {**original, key: [*original[key], original[key][-1]]})
        fault = f"annotations/captions_val2014.json: has {noun} {number} twice"
        assert fault_of("eccv-caption", tmp_path) == fault
    images = [{"id": 0, "file_name": "0.png"}, {"id": 0, "file_name": "1.png"}]
    root = tmp_path / "CIRCO/COCO2017_unlabeled"
    save(root / "unlabeled2017/0.png", "red")
    write(root / "annotations/image_info_unlabeled2017.json", {"images": images})
    write(tmp_path / "CIRCO/annotations/val.json", [])
    assert fault_of("circo", tmp_path).endswith("2017.json: has image 0 twice")


def test_boxes_of_revisited_oxford_must_be_finite(tmp_path: Path) -> None:
    save(tmp_path / "roxford5k/jpg/a.jpg", "red")
    truth = {"bbx": [0, 0, np.inf, 1], "easy": [0], "hard": [], "junk": []}
    content = {"imlist": ["a"], "qimlist": ["a"], "gnd": [truth]}
    (tmp_path / "roxford5k/gnd_roxford5k.pkl").write_bytes(pickle.dumps(content))
    assert "is not in the form of" in fault_of("roxford5k", tmp_path)


def test_samples_that_contradict_each_other_are_refused() -> None:
    samples = {
        "cluster": np.arange(2),
        "direction": np.array(["", ""]),
        "query": np.array([0, 0, 1]),
        "rank": np.array([1, 3, 2]),
        "item": np.arange(3),
        "metrics": np.array(["R@1"]),
    }
    ranking.TASK.require_valid(samples, {})
    for name, values, message in (
        ("rank", [3, 3, 2], "`rank` does not rise"),
        ("query", [0, 0, 0], "query 1 has no positive in `query`"),
        ("query", [1, 0, 0], "`rank` does not rise"),
    ):
        with pytest.raises(ValueError, match=message):
            ranking.TASK.require_valid({**samples, name: np.array(values)}, {})
