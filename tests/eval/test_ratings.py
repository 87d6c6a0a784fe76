"""CLIPScore and people: Kendall's tau against SciPy, scores by hand, the lists of four sets."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.stats
from scipy.stats import kendalltau
from support.rows import make_row

from cosmos_eval.data import ratings as data
from cosmos_eval.data import selection
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.protocols.ratings import RATINGS
from cosmos_eval.protocols.selection import SELECTION
from cosmos_eval.runner.plan import Job
from cosmos_eval.runner.run import store
from cosmos_eval.stats.intervals import intervals
from cosmos_eval.stats.jackknife import sums_without_each
from cosmos_eval.stats.kendall import tau_b, tau_c
from cosmos_eval.tasks import ratings
from cosmos_eval.types import RatingsProtocol, RunOptions, UsageError

TAUS = {"b": tau_b, "c": tau_c}


def made_up(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores with ties, ratings of four kinds, and images of one to many ratings."""
    rng = np.random.default_rng(seed)
    ratings = rng.integers(1, 5, n).astype(float)
    scores = np.round(ratings / 4 + rng.normal(0, 0.6, n), 1)
    return scores, ratings, rng.integers(0, 20, n)


@pytest.mark.parametrize("variant", TAUS)
@pytest.mark.parametrize("seed", range(5))
def test_tau_is_scipys(variant: str, seed: int):
    scores, ratings, images = made_up(seed)
    expected = kendalltau(scores, ratings, variant=variant).statistic
    assert TAUS[variant](scores, ratings, images).value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("variant", TAUS)
def test_values_without_each_image_are_scipys(variant: str):
    scores, ratings, images = made_up(7)
    estimate = TAUS[variant](scores, ratings, images)
    expected = []
    for image in np.unique(images):
        is_kept = images != image
        expected.append(kendalltau(scores[is_kept], ratings[is_kept], variant=variant).statistic)
    np.testing.assert_allclose(sums_without_each(estimate), expected, atol=1e-12)


@pytest.mark.parametrize("variant", TAUS)
def test_interval_is_students_of_the_jackknife(variant: str):
    scores, ratings, images = made_up(8)
    estimate = TAUS[variant](scores, ratings, images)
    values = sums_without_each(estimate)
    n = len(values)
    error = np.sqrt((n - 1) / n * ((values - values.mean()) ** 2).sum())
    half_width = scipy.stats.t.ppf(0.975, n - 1) * error
    interval = intervals({"tau": estimate}, bounds={"tau": (-1, 1)})["tau"]
    assert interval.method == "jackknife t"
    assert interval.low == pytest.approx(estimate.value - half_width)
    assert interval.high == pytest.approx(estimate.value + half_width)


def test_an_interval_may_lie_below_0():
    scores, ratings, images = made_up(9)
    interval = intervals({"tau": tau_b(-scores, ratings, images)}, bounds={"tau": (-1, 1)})["tau"]
    assert -1 < interval.low < interval.high < 0


def test_tau_by_hand():
    scores, ratings = np.array([1.0, 2, 3, 4]), np.array([1.0, 3, 2, 2])
    # Same order: 12, 13, 14. Opposite: 23, 24. Tied: 34. So P - Q = 1, of 6 pairs.
    images = np.arange(4)
    assert tau_b(scores, ratings, images).value == pytest.approx(1 / np.sqrt(6 * 5))
    assert tau_c(scores, ratings, images).value == pytest.approx(2 * 1 / (16 * 2 / 3))


@pytest.mark.parametrize("variant", TAUS)
def test_no_value_if_all_are_equal(variant: str):
    equal = TAUS[variant](np.ones(3), np.array([1.0, 2, 3]), np.arange(3))
    assert np.isnan(equal.value)


def test_interval_resamples_images():
    scores, ratings, images = made_up(3, n=40)
    copied = [np.tile(array, 6) for array in (scores, ratings, images)]
    single = intervals({"tau": tau_c(scores, ratings, images)})["tau"]
    repeated = intervals({"tau": tau_c(*copied)})["tau"]  # the same images, each with more ratings
    independent = intervals({"tau": tau_c(*copied[:2], np.arange(240))})["tau"]
    width = single.high - single.low
    assert repeated.high - repeated.low == pytest.approx(width, rel=0.1)
    assert independent.high - independent.low < 0.6 * width


COLOURS = ("red", "green", "blue")


@pytest.fixture
def root(tmp_path: Path, save_colour: Callable[..., Path]) -> Path:
    for colour in COLOURS:
        save_colour(tmp_path / "images" / f"{colour}.png", colour)
    rows = [
        ("red", "red", 4),
        ("red", "red or green", 3),
        ("green", "blue", 1),
        ("blue", "blue", 2),
    ]
    lines = "".join(f"{image}.png,{text},{rating}\n" for image, text, rating in rows)
    (tmp_path / "list.csv").write_text(f"image,caption,rating\n{lines}")
    return tmp_path


PROTOCOL = RatingsProtocol(
    dataset="colours", protocol_name="user", images="images", annotations="list.csv"
)


def test_scores_solved_by_hand(root: Path, colour_encoder):
    options = RunOptions(data_root=str(root), cache=None)
    result = ratings.TASK.measure_one(colour_encoder, PROTOCOL, options)
    # 2.5 times the cosines 1, 1 / sqrt(2), 0 and 1 of the colours; ratings 4, 3, 1, 2.
    expected = [2.5, 2.5 / np.sqrt(2), 0, 2.5]
    np.testing.assert_allclose(result.samples["clip_score"], expected, atol=2e-2)
    assert result.samples["image"].tolist() == [0, 0, 1, 2]
    assert set(result.metrics) == {"kendall_tau_c"}
    by_b = ratings.TASK.measure_one(colour_encoder, replace(PROTOCOL, tau="b"), options)
    assert set(by_b.metrics) == {"kendall_tau_b"}
    scores = result.samples["clip_score"]
    assert by_b.metrics["kendall_tau_b"] == pytest.approx(
        kendalltau(scores, [4, 3, 1, 2], variant="b").statistic
    )


def test_negative_cosines_score_0(root: Path, colour_encoder, monkeypatch):
    monkeypatch.setattr(
        type(colour_encoder),
        "encode_text",
        lambda encoder, tokens: -tokens.float() / tokens.float().norm(dim=1, keepdim=True),
    )
    options = RunOptions(data_root=str(root), cache=None)
    result = ratings.TASK.measure_one(colour_encoder, PROTOCOL, options)
    assert not result.samples["clip_score"].any()
    assert not result.metrics  # there is no order


def test_by_the_commands(root: Path, command):
    (root / "own.yaml").write_text("kind: ratings\nimages: images\nannotations: list.csv\n")
    ended = command("run", "--dataset", "own.yaml", "--model", "scenes-clip", "--output", "out")
    assert (ended.status, "tau-c" in ended.out) == (0, True), ended.err
    assert command("verify", "out").status == 0


def test_equal_ratings_are_one_clear_line(root: Path, command):
    lines = (root / "list.csv").read_text() + "green.png,green,4\n"
    (root / "list.csv").write_text(lines.replace(",3\n", ",4\n"))
    (root / "own.yaml").write_text("kind: ratings\nimages: images\nannotations: list.csv\n")
    words = ("run", "--dataset", "own.yaml", "--model", "scenes-clip", "--output", "out")
    ended = command(*words, "--limit", "2")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.splitlines() == [
        "cosmos-eval: own: all 2 ratings are equal, so that Kendall's tau is undefined: measure "
        "more of them with a larger --limit, or without it"
    ]


def test_a_result_without_a_metric_is_one_clear_line(tmp_path: Path):
    """Kendall's tau is undefined if all scores are equal."""
    spec = parse_model_spec("scenes-clip")
    job = Job(spec, (), RunOptions(), output=tmp_path, command="", folder="")
    with pytest.raises(UsageError, match="scenes-clip on colours: no metric is") as error:
        store(PROTOCOL, make_row(dataset="colours", metrics={}), {}, job)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def flickr8k(root: Path, save_colour, name: str, lines: str) -> RatingsProtocol:
    """A list of Flickr8k with three images, of which one has a caption of its own."""
    for image in ("1.jpg", "2.jpg", "3.jpg"):
        save_colour(root / "flickr8k/Flicker8k_Dataset" / image, "red")
    tokens = "1.jpg#0\tA dog .\n2.jpg#0\tA  cat .\n2.jpg#1\tA dog .\n3.jpg#0\tA cow .\n"
    (root / "flickr8k/Flickr8k.token.txt").write_text(tokens)
    file = {"flickr8k-expert": "ExpertAnnotations", "flickr8k-cf": "CrowdFlowerAnnotations"}[name]
    (root / f"flickr8k/{file}.txt").write_text(lines)
    return replace(RATINGS[name], n_items=None)


def opened(protocol: RatingsProtocol, root: Path) -> data.RatedData:
    return data.open_data(protocol, RunOptions(data_root=str(root)))


def test_flickr8k_expert(tmp_path: Path, save_colour):
    # "A dog ." of image 1 is also a caption of image 2, and is left out there, as its own is.
    lines = "1.jpg\t2.jpg#0\t1\t1\t2\n2.jpg\t1.jpg#0\t4\t4\t4\n3.jpg\t1.jpg#0\t2\t3\t4\n"
    opened_data = opened(flickr8k(tmp_path, save_colour, "flickr8k-expert", lines), tmp_path)
    assert opened_data.names == ("1.jpg", "3.jpg")
    assert opened_data.captions == ("A photo depicts A cat .", "A photo depicts A dog .")
    assert opened_data.ratings.tolist() == [1, 1, 2, 2, 3, 4]
    assert opened_data.image_of_rating.tolist() == [0, 0, 0, 1, 1, 1]
    assert opened_data.caption_of_rating.tolist() == [0, 0, 0, 1, 1, 1]


def test_own_captions_are_found_by_the_image_up_to_its_first_point(tmp_path: Path, save_colour):
    lines = "1.jpg\t1.jpg.1#0\t4\t4\t4\n1.jpg\t2.jpg#0\t1\t2\t1\n"
    protocol = flickr8k(tmp_path, save_colour, "flickr8k-expert", lines)
    (tmp_path / "flickr8k/Flickr8k.token.txt").write_text("1.jpg.1#0\tA dog .\n2.jpg#0\tA cat .\n")
    assert opened(protocol, tmp_path).captions == ("A photo depicts A cat .",)


def test_flickr8k_cf(tmp_path: Path, save_colour):
    lines = "1.jpg\t1.jpg#0\t1\t3\t0\n1.jpg\t3.jpg#0\t0.3333333\t1\t2\n"
    opened_data = opened(flickr8k(tmp_path, save_colour, "flickr8k-cf", lines), tmp_path)
    assert opened_data.ratings.tolist() == [1, 0.3333333]  # the image's own caption stays
    assert opened_data.image_of_rating.tolist() == [0, 0]


def test_composite(tmp_path: Path, save_colour):
    folders = ["flickr8k/Flicker8k_Dataset", "flickr30k/flickr30k-images", "coco/val2014"]
    names = ["8_a.jpg", "30.jpg", "COCO_val2014_000000000042.jpg"]
    for file, folder, name, n in zip(("8k", "30k", "coco"), folders, names, (3, 4, 4), strict=True):
        save_colour(tmp_path / folder / name, "red")
        captions = [f"{file} caption; {place}" for place in range(n)]
        cells = ["x"] * 27 + [f"http://site/{name}", *captions, *map(str, range(1, n + 1))]
        row = ";".join(f'"{cell}"' for cell in cells)
        path = tmp_path / "composite" / f"{file}_correctness.csv"
        path.parent.mkdir(exist_ok=True)
        means = f"{';' * (28 + n)}2.5;3.5;1.5"  # below the ratings, without an address
        path.write_text(f"{';'.join('h' * 36)}\n{row}\n{';' * 35}\n{means}\n;\n")
    opened_data = opened(replace(RATINGS["composite"], n_items=9), tmp_path)
    assert opened_data.names == tuple(names)
    assert opened_data.ratings.tolist() == [1, 2, 3] * 3
    assert opened_data.captions[3] == "A photo depicts 30k caption; 0"


def write_pascal50s(root: Path, winners: list[list[int]]) -> None:
    """Write pairs whose votes are given, 1 for the first caption and -1 for the second one."""
    pairs = np.zeros((1, len(winners)), [("image", object), ("a", object), ("b", object)])
    votes = np.zeros((1, 48 * len(winners)), [(name, object) for name in "abcd"])
    for number, votes_of_pair in enumerate(winners):
        pairs[0, number] = (f"{number}.jpg", f"good {number}", f"bad {number} ")
        for place, winner in enumerate(votes_of_pair):
            texts = [
                np.array([[text]], object) for text in ("x", f"good {number}", f"bad {number}")
            ]
            votes[0, number * 48 + place] = (*texts, winner)
    root.mkdir()
    category = np.array([[1 + number % 4 for number in range(len(winners))]])
    scipy.io.savemat(root / "pair_pascal.mat", {"new_input": pairs, "category": category})
    scipy.io.savemat(root / "consensus_pascal.mat", {"triplets": votes})


def test_pascal50s(tmp_path: Path, save_colour):
    winners = [[1] * 25 + [-1] * 23, [1] * 23 + [-1] * 25, *[[1, -1] * 24] * 6]
    write_pascal50s(tmp_path / "pyCIDErConsensus", winners)
    for number in range(8):
        save_colour(tmp_path / f"VOCdevkit/VOC2010/JPEGImages/{number}.jpg", "red")
    protocol = replace(SELECTION["pascal-50s"], n_items=8, subset_items={})
    items = selection.open_data(protocol, RunOptions(data_root=str(tmp_path)))
    assert items.subsets == ("HC", "HI", "HM", "MM")
    assert items.subset_of_item.tolist() == [0, 1, 2, 3] * 2
    first = [items.captions[captions[0]].split()[3] for captions in items.captions_of_item]
    random.seed(42)  # as in issue 4 of clipscore: votes_a > votes_b + random.random() - 0.5
    draws = [random.random() for _ in winners]
    expected = ["good", "bad", *("good" if draw < 0.5 else "bad" for draw in draws[2:])]
    assert first == expected
    assert len(set(expected[2:])) == 2


def test_pascal50s_of_other_files_is_refused(tmp_path: Path):
    folder = tmp_path / "pascal50s"
    options = RunOptions(data_root=str(tmp_path))
    write_pascal50s(folder, [[1] * 48, [-1] * 48])
    votes = scipy.io.loadmat(folder / "consensus_pascal.mat")["triplets"]
    swapped = np.concatenate([votes[:, 48:], votes[:, :48]], axis=1)
    scipy.io.savemat(folder / "consensus_pascal.mat", {"triplets": swapped})
    with pytest.raises(UsageError, match="no vote of pair 0 is for one of its captions"):
        selection.open_data(SELECTION["pascal-50s"], options)
    for category in ([[1.0, np.nan]], [[1, 5]], [[1]]):
        pairs = scipy.io.loadmat(folder / "pair_pascal.mat")["new_input"]
        content = {"new_input": pairs, "category": category}
        scipy.io.savemat(folder / "pair_pascal.mat", content)
        with pytest.raises(UsageError, match="a category 1 to 4 for each pair"):
            selection.open_data(SELECTION["pascal-50s"], options)
    content = {"new_input": np.zeros((1, 2)), "category": [[1, 1]]}
    scipy.io.savemat(folder / "pair_pascal.mat", content)
    with pytest.raises(UsageError, match="must hold an image, two captions"):
        selection.open_data(SELECTION["pascal-50s"], options)


def test_published_counts():
    assert {name: (p.tau, p.n_items) for name, p in RATINGS.items()} == {
        "flickr8k-expert": ("c", 3 * 5664),
        "flickr8k-cf": ("b", None),
        "composite": ("c", 11985),
    }
    assert SELECTION["pascal-50s"].n_items == sum(SELECTION["pascal-50s"].subset_items.values())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,caption,rating\nred.png,red,4\n", "ratings that differ"),
        ("image,caption,rating\nred.png,red,good\n", "line 2: the rating must be a number"),
        ("image,caption,rating\nred.png,red,inf\n", "line 2: the rating must be a number"),
        ("image,caption,rating\nred.png, ,3\n", "line 2: the caption must be text"),
        ("image,text,rating\nred.png,a,3\n", "line 2: the caption must be text, not None"),
        ("image,caption,rating\nno.png,a,3\nred.png,a,1\n", "1 of the 2 images .*no.png"),
    ],
)
def test_bad_ratings(content: str, message: str, root: Path):
    (root / "list.csv").write_text(content)
    with pytest.raises(UsageError, match=message) as error:
        opened(PROTOCOL, root)
    assert "\n" not in str(error.value)


def test_bad_lists(tmp_path: Path, save_colour):
    protocol = flickr8k(tmp_path, save_colour, "flickr8k-cf", "1.jpg\t9.jpg#0\t1\t3\t0\n")
    with pytest.raises(UsageError, match=r"line 1: Flickr8k.token.txt .* no caption 9.jpg#0"):
        opened(protocol, tmp_path)
    protocol = flickr8k(tmp_path, save_colour, "flickr8k-cf", "1.jpg\t1.jpg#0\n")
    with pytest.raises(UsageError, match="line 1: has 2 columns, not 5"):
        opened(protocol, tmp_path)
    (tmp_path / "flickr8k/Flickr8k.token.txt").write_text("1.jpg#0\tA\n1.jpg#0\tB\n")
    with pytest.raises(UsageError, match=r"Flickr8k.token.txt: has caption 1.jpg#0 twice"):
        opened(protocol, tmp_path)
    write_pascal50s(tmp_path / "pascal50s", [[1] * 47])
    votes = tmp_path / "pascal50s/consensus_pascal.mat"
    scipy.io.savemat(votes, {"triplets": np.zeros((1, 47))})
    with pytest.raises(UsageError, match="has 47 votes, not 48 for each of 1 pairs"):
        selection.open_data(SELECTION["pascal-50s"], RunOptions(data_root=str(tmp_path)))
    scipy.io.savemat(votes, {"triplets": np.zeros((1, 48))})
    with pytest.raises(UsageError, match="vote 0 must be a reference, two captions and the winner"):
        selection.open_data(SELECTION["pascal-50s"], RunOptions(data_root=str(tmp_path)))
    votes.write_bytes(b"no matrix")
    with pytest.raises(UsageError, match="is not a MATLAB file"):
        selection.open_data(SELECTION["pascal-50s"], RunOptions(data_root=str(tmp_path)))
