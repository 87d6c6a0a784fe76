"""Videos as folders of frames: which frames, their mean, the lists of eight sets, and bad lists."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cosmos_eval.data import classification, retrieval
from cosmos_eval.data.frames import Video, VideoFolder, choose_frames
from cosmos_eval.data.sources import ImageFile
from cosmos_eval.embedding.embed import embed_images
from cosmos_eval.models import load_encoder
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.protocols.classification import VIDEOS
from cosmos_eval.protocols.retrieval import RETRIEVAL
from cosmos_eval.runner.overlap import images_of
from cosmos_eval.tasks import classification as classes
from cosmos_eval.tasks import retrieval as captions
from cosmos_eval.types import ClassificationProtocol, RetrievalProtocol, RunOptions, UsageError

SEEDS = {"a": (1, 2, 3), "b": (4, 5), "c": (6, 7, 8, 9)}
"""Videos by name, with the seed of each frame's pixels."""


def write_video(folder: Path, seeds: tuple[int, ...]) -> None:
    """Write frames of random pixels, which two videos of equal seeds share."""
    folder.mkdir(parents=True)
    for number, seed in enumerate(seeds, start=1):
        pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:06d}.png")


def small(name: str, videos: int) -> RetrievalProtocol:
    """A known set, as if it had few videos."""
    return replace(RETRIEVAL[name], n_images=videos, n_captions=None)


def opened(protocol: RetrievalProtocol, root: Path) -> retrieval.RetrievalData:
    return retrieval.open_data(protocol, RunOptions(data_root=str(root)))


@pytest.mark.parametrize("n_frames", [1, 2, 11, 12, 13, 100, 301])
@pytest.mark.parametrize("n_chosen", [2, 8, 12, 64])
def test_frames_are_those_of_clip4clip(n_frames: int, n_chosen: int):
    # Its rule: all frames, unless there are more; then linspace(..., dtype=int), in whole numbers.
    expected = list(range(n_frames))
    if n_frames > n_chosen:
        expected = [place * (n_frames - 1) // (n_chosen - 1) for place in range(n_chosen)]
    assert choose_frames(n_frames, n_chosen) == expected


def test_a_single_frame_is_the_one_in_the_middle():
    assert [choose_frames(n, 1) for n in (1, 2, 3, 10)] == [[0], [1], [1], [5]]


def test_frames_are_in_the_order_of_their_numbers(tmp_path: Path, save_colour: Callable[..., Path]):
    for name in ("frame10.png", "frame9.png", "frame1.png", ".hidden.png"):
        save_colour(tmp_path / "v" / name, "red")
    (tmp_path / "v/notes.txt").write_text("no frame")
    video = VideoFolder(tmp_path, 8).find("v.mp4")
    assert video is not None
    names = [Path(frame.name).name for frame in video.frames]
    assert names == ["frame1.png", "frame9.png", "frame10.png"]
    assert Path(video.name) == tmp_path / "v"


@pytest.mark.parametrize("name", ["v_x.mp4", "v_x", "x.", "x", "x.3g2", "sub/x.avi"])
def test_folders_may_lack_extension_and_prefix(name: str, tmp_path: Path, save_colour):
    save_colour(tmp_path / "x" / "1.png", "red")
    save_colour(tmp_path / "sub" / "x" / "1.png", "red")
    assert VideoFolder(tmp_path, 8).find(name) is not None
    assert VideoFolder(tmp_path, 8).find("x.1") is None  # is not the name of a file


def test_feature_is_the_mean_of_normalised_features(tmp_path: Path):
    for name, seeds in SEEDS.items():
        write_video(tmp_path / name, seeds)
    encoder = load_encoder(parse_model_spec("scenes-clip"))
    folder = VideoFolder(tmp_path, 3)
    videos = [folder.find(name) for name in SEEDS]
    options = RunOptions(cache=None, batch_size=4)
    embeddings = embed_images(encoder, videos, options)

    for row, (name, seeds) in enumerate(SEEDS.items()):
        chosen = range(len(seeds)) if len(seeds) <= 3 else (0, 1, 3)
        total = 0.0
        for number in chosen:
            with Image.open(tmp_path / name / f"{number + 1:06d}.png") as image:
                pixels = encoder.transform(image.convert("RGB"))
            feature = encoder.encode_image(pixels[None])[0].double().numpy()
            total = total + feature / np.linalg.norm(feature)
        np.testing.assert_allclose(
            embeddings.features[row], total / np.linalg.norm(total), atol=1e-5
        )
    assert len(set(embeddings.image_sha256s)) == 3


def test_frames_of_two_sets_are_decoded_and_encoded_once(tmp_path: Path, monkeypatch):
    write_msrvtt(tmp_path)
    write_ucf(tmp_path)
    decoded = []
    original = ImageFile.decode
    monkeypatch.setattr(
        ImageFile, "decode", lambda image, content: decoded.append(1) or original(image, content)
    )
    encoder = load_encoder(parse_model_spec("scenes-clip"))
    options = RunOptions(data_root=str(tmp_path), cache=str(tmp_path / "cache"))
    captions.TASK.measure_one(encoder, small("msrvtt", 3), options)
    distinct = {seed for seeds in SEEDS.values() for seed in seeds}
    assert len(decoded) == len(distinct)
    protocol = replace(VIDEOS["ucf101"], n_images=3, n_classes=2)
    classes.TASK.measure_one(encoder, protocol, options)
    assert len(decoded) == len(distinct)  # the same frames, other names: all are cached


def test_retrieval_solved_by_hand(tmp_path: Path, colour_encoder, save_colour):
    # "mostly" has two red frames of three and "green" one: only the means tell them apart.
    for name, colours in {"mostly": "red red green", "green": "green green red"}.items():
        for number, colour in enumerate(colours.split()):
            save_colour(tmp_path / "frames" / name / f"{number}.png", colour)
    (tmp_path / "list.csv").write_text("image,caption\nmostly,red\ngreen,green\n")
    protocol = RetrievalProtocol(
        dataset="v", protocol_name="user", images="frames", annotations="list.csv", frames=3
    )
    options = RunOptions(data_root=str(tmp_path), cache=None)
    result = captions.TASK.measure_one(colour_encoder, protocol, options)
    assert result.metrics["text_to_image_R@1"] == 1.0
    assert result.samples["name"].tolist() == ["mostly", "green"]
    first_only = replace(protocol, frames=1)  # the middle: red, and green
    assert captions.TASK.measure_one(colour_encoder, first_only, options).n_samples == 2


def test_videos_cannot_stop_early(tmp_path: Path, colour_encoder, save_colour):
    write_msrvtt(tmp_path)
    options = RunOptions(data_root=str(tmp_path), cache=None)
    protocol = small("msrvtt", 3)
    measurement = captions.TASK.in_order(
        colour_encoder, protocol, opened(protocol, tmp_path), options, lambda progress: None
    )
    with pytest.raises(UsageError, match="without --until"):
        list(measurement.image_sha256s)
    with pytest.raises(UsageError, match="overlap need images"):
        images_of(opened(protocol, tmp_path))


def write_msrvtt(root: Path) -> None:
    for name, seeds in SEEDS.items():
        write_video(root / "msrvtt" / "frames" / f"video{name}", seeds)
    rows = "".join(f"ret{i},msr{n},video{n},a {n} one\n" for i, n in enumerate(SEEDS))
    (root / "msrvtt/MSRVTT_JSFUSION_test.csv").write_text(f"key,vid_key,video_id,sentence\n{rows}")


def write_ucf(root: Path) -> None:
    names = ("YoYo_g01_c01", "YoYo_g01_c02", "HandStandPushups_g01_c01")
    for name, seeds in zip(names, SEEDS.values(), strict=True):
        folder = name.partition("_")[0].replace("HandStand", "Handstand")
        write_video(root / "ucf101" / "frames" / folder / f"v_{name}", seeds)
    lists = root / "ucf101" / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "testlist01.txt").write_text(
        "YoYo/v_YoYo_g01_c01.avi 1\nYoYo/v_YoYo_g01_c02.avi\n"
        "HandstandPushups/v_HandStandPushups_g01_c01.avi\n"
    )


def test_msrvtt(tmp_path: Path):
    write_msrvtt(tmp_path)
    data = opened(small("msrvtt", 3), tmp_path)
    assert data.names == ("videoa", "videob", "videoc")
    assert data.captions == ("a a one", "a b one", "a c one")
    assert [len(video.frames) for video in data.images] == [3, 2, 4]


def test_msvd(tmp_path: Path):
    for name, seeds in SEEDS.items():
        write_video(tmp_path / "msvd/frames" / name, seeds)
    words = {name: [["a", name], ["the", name]] for name in ("c", "b", "a", "train")}
    (tmp_path / "msvd/raw-captions.pkl").write_bytes(pickle.dumps(words))
    (tmp_path / "msvd/test_list.txt").write_text("a\nb\nc\n")
    data = opened(small("msvd", 3), tmp_path)
    assert data.captions == ("a a", "the a", "a b", "the b", "a c", "the c")
    assert data.image_of_text.tolist() == [0, 0, 1, 1, 2, 2]


def test_didemo(tmp_path: Path):
    for name, seeds in SEEDS.items():
        write_video(tmp_path / "didemo/frames" / name, seeds)
    videos = [("b.avi", "he sits"), ("a.mov", "a dog"), ("b.avi", "he stands"), ("c.", "end")]
    records = [{"video": name, "description": text, "times": [[0, 1]]} for name, text in videos]
    (tmp_path / "didemo/test_data.json").write_text(json.dumps(records))
    (tmp_path / "didemo/test_list.txt").write_text("a.mov\nb.avi\nc.\n")
    data = opened(small("didemo", 3), tmp_path)
    assert data.names == ("a.mov", "b.avi", "c.")
    assert data.captions == ("a dog", "he sits he stands", "end")


def test_activitynet(tmp_path: Path):
    for name, seeds in SEEDS.items():
        write_video(tmp_path / "activitynet/frames" / name, seeds)
    content = {f"v_{n}": {"duration": 8.5, "sentences": ["One. ", f" {n}."]} for n in SEEDS}
    (tmp_path / "activitynet/val_1.json").write_text(json.dumps(content))
    data = opened(small("activitynet", 3), tmp_path)
    assert data.names == ("v_a", "v_b", "v_c")
    assert data.captions[0] == "One.   a."


def test_ucf101(tmp_path: Path):
    write_ucf(tmp_path)
    protocol = replace(VIDEOS["ucf101"], n_images=3, n_classes=2)
    data = classification.open_data(protocol, RunOptions(data_root=str(tmp_path)))
    assert data.classes == ("Hand Stand Pushups", "Yo Yo")
    assert data.labels.tolist() == [1, 1, 0]


def test_hmdb51(tmp_path: Path):
    lists = tmp_path / "hmdb51/testTrainMulti_7030_splits"
    lists.mkdir(parents=True)
    (lists / "brush_hair_test_split1.txt").write_text("x_0.avi 1 \nx_1.avi 2 \nx_2.avi 0 \n")
    (lists / "brush_hair_test_split2.txt").write_text("x_0.avi 2 \n")
    (lists / "clap_test_split1.txt").write_text("y_0.avi 2 \n")
    write_video(tmp_path / "hmdb51/frames/brush_hair/x_1", (1,))
    write_video(tmp_path / "hmdb51/frames/y_0", (2,))
    protocol = replace(VIDEOS["hmdb51"], n_images=2, n_classes=2)
    data = classification.open_data(protocol, RunOptions(data_root=str(tmp_path)))
    assert data.classes == ("brush_hair", "clap")
    assert data.names == ("brush_hair/x_1.avi", "clap/y_0.avi")


def test_kinetics(tmp_path: Path):
    write_video(tmp_path / "kinetics400/frames/abseiling/0wR5jVB-WPk_000417_000427", (1,))
    write_video(tmp_path / "kinetics400/frames/_dbcJuKJQNs_000040_000050", (2,))
    (tmp_path / "kinetics400/val.csv").write_text(
        "label,youtube_id,time_start,time_end,split,is_cc\nabseiling,0wR5jVB-WPk,417,427,val,0\n"
        '"air drumming",_dbcJuKJQNs,40,50,val,0\n'
    )
    protocol = replace(VIDEOS["kinetics400"], n_classes=2)
    data = classification.open_data(protocol, RunOptions(data_root=str(tmp_path)))
    assert data.classes == ("abseiling", "air drumming")
    assert [len(video.frames) for video in data.images] == [1, 1]


def test_published_counts():
    counts = {
        name: RETRIEVAL[name].n_images for name in ("msrvtt", "msvd", "didemo", "activitynet")
    }
    assert counts == {"msrvtt": 1000, "msvd": 670, "didemo": 1004, "activitynet": 4917}
    assert [(p.n_images, p.n_classes) for p in VIDEOS.values()] == [
        (3783, 101),
        (1530, 51),
        (None, 400),
    ]
    assert [len(p.templates or ()) for p in VIDEOS.values()] == [48, 28, 28]


class Command:
    """An object whose pickle names a function, as a pickle that runs code does."""

    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"a": [Command()]}), "names builtins.print: only plain values are read"),
        (b"not a pickle", "is not a pickle"),
        (pickle.dumps([1]), "must hold a dictionary"),
        (pickle.dumps({"a": [["a", 3]]}), "a caption is blank or not text"),
        (pickle.dumps({"b": [["a"]]}), "lists a, which has no captions"),
    ],
)
def test_bad_pickles(content: bytes, message: str, tmp_path: Path, capsys):
    write_video(tmp_path / "msvd/frames/a", (1,))
    (tmp_path / "msvd/raw-captions.pkl").write_bytes(content)
    (tmp_path / "msvd/test_list.txt").write_text("a\n")
    with pytest.raises(UsageError, match=message) as error:
        opened(small("msvd", 1), tmp_path)
    assert "\n" not in str(error.value)
    assert capsys.readouterr().out == ""


def test_missing_videos_are_named(tmp_path: Path):
    write_msrvtt(tmp_path)
    (tmp_path / "msrvtt/frames/videob").rename(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=r"1 of 3 videos .* missing, first: .*videob"):
        opened(small("msrvtt", 3), tmp_path)
    partial = RunOptions(data_root=str(tmp_path), allow_partial=True)
    assert len(retrieval.open_data(small("msrvtt", 3), partial).images) == 2
    write_ucf(tmp_path)
    (tmp_path / "ucf101/frames/YoYo/v_YoYo_g01_c01").rename(tmp_path / "away")
    protocol: ClassificationProtocol = replace(VIDEOS["ucf101"], n_images=3, n_classes=2)
    with pytest.raises(UsageError, match=r"1 of 3 .*v_YoYo_g01_c01\.avi"):
        classification.open_data(protocol, RunOptions(data_root=str(tmp_path)))


@pytest.mark.parametrize("line", ["YoYo.avi", "YoYo/x.avi 1", "1 YoYo"])
def test_bad_lists_of_videos(line: str, tmp_path: Path):
    write_ucf(tmp_path)
    (tmp_path / "ucf101/ucfTrainTestlist/testlist01.txt").write_text(f"{line}\n")
    with pytest.raises(UsageError, match="line 1: must be CLASS/v_CLASS"):
        classification.open_data(VIDEOS["ucf101"], RunOptions(data_root=str(tmp_path)))


def test_reports_show_the_middle_frame(tmp_path: Path, save_colour):
    for number, colour in enumerate(["red", "green", "blue"]):
        save_colour(tmp_path / "v" / f"{number}.png", colour)
    video = VideoFolder(tmp_path, 3).find("v")
    assert isinstance(video, Video)
    assert video.read() == (tmp_path / "v/1.png").read_bytes()
    with Image.open(tmp_path / "v/1.png") as image:
        assert video.decode(video.read()).tobytes() == image.tobytes()
