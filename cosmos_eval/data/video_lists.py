"""Lists of the test videos of UCF101, HMDB51 and Kinetics, with their classes. Imports no torch."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cosmos_eval.data.class_names import ClassData, make_data
from cosmos_eval.data.frames import VideoFolder
from cosmos_eval.data.readers import (
    FileError,
    first_repeated,
    lines,
    read_records,
    read_text,
    report_faults_at,
)
from cosmos_eval.data.sources import ImageFile, ImageSource

_UCF_VIDEO = re.compile(r"(?:\w+/)?(v_(\w+)_g\d+_c\d+\.avi)")
_HMDB_SUFFIX = "_test_split1.txt"
_HMDB_USES = {"0": "not used", "1": "training", "2": "test"}
_KINETICS_COLUMNS = ("label", "youtube_id", "time_start", "time_end")


class _ListedVideo(NamedTuple):
    """A test video: its class, and the paths below the folder of videos that it may have."""

    class_name: str
    paths: tuple[str, ...]


def read_videos(path: Path, video_folder: VideoFolder) -> ClassData:
    """Return the test videos of a list, with the sorted classes as the labels.

    A video whose frames are missing gets the source of a file that does not exist.

    Args:
        path: UCF101's `testlist01.txt`, HMDB51's folder `testTrainMulti_7030_splits`, or the CSV
            file of a split of Kinetics.
        video_folder: The folder of the videos, with or without a folder for each class.

    Raises:
        UsageError: If the list is broken, is empty, or has a video twice.
    """
    with report_faults_at(f"{path}: "):
        if path.is_dir():
            videos = list(_read_hmdb(path))
        elif path.suffix.lower() == ".csv":
            videos = list(_read_kinetics(path))
        else:
            videos = list(_read_ucf(path))
        if not videos:
            raise FileError("lists no videos")
        if repeated := first_repeated(video.paths[0] for video in videos):
            raise FileError(f"lists {repeated[0]} twice")

    classes = sorted({video.class_name for video in videos})
    label_by_class = {class_name: label for label, class_name in enumerate(classes)}
    samples: list[tuple[str, ImageSource, int]] = []
    for video in videos:
        source: ImageSource | None = None
        for video_path in video.paths:
            source = source or video_folder.find(video_path)
        if source is None:
            source = ImageFile(video_folder.folder / video.paths[0])
        samples.append((video.paths[0], source, label_by_class[video.class_name]))
    return make_data(classes, samples)


def _read_ucf(path: Path) -> Iterator[_ListedVideo]:
    """Yield the videos of UCF101's list: lines `Biking/v_Biking_g01_c01.avi`, or with a number.

    The class of `v_YoYo_g01_c01` is `Yo Yo`, as in data/prompts.md of github.com/openai/CLIP.
    """
    for number, line in lines(read_text(path)):
        video = line.split()[0]
        match = _UCF_VIDEO.fullmatch(video)
        if match is None:
            raise FileError(f"line {number}: must be CLASS/v_CLASS_g01_c01.avi, not {line!r}")
        file_name, class_name = match.groups()
        spaced_name = re.sub("(?<=[a-z])(?=[A-Z])", " ", class_name)
        yield _ListedVideo(spaced_name, (video, file_name))


def _read_hmdb(folder: Path) -> Iterator[_ListedVideo]:
    """Yield the test videos of HMDB51's first split: `brush_hair_test_split1.txt` and 50 others.

    A line is `VIDEO.avi 2` for a test video, 1 for training, and 0 for a video that is not used.
    """
    for path in sorted(folder.glob(f"*{_HMDB_SUFFIX}")):
        class_name = path.name.removesuffix(_HMDB_SUFFIX)
        for number, line in lines(read_text(path)):
            file_name, _, use = line.rpartition(" ")
            if not file_name or use not in _HMDB_USES:
                raise FileError(f"{path.name}, line {number}: must be VIDEO.avi 0, 1 or 2")
            if _HMDB_USES[use] == "test":
                file_name = file_name.strip()
                yield _ListedVideo(class_name, (f"{class_name}/{file_name}", file_name))


def _read_kinetics(path: Path) -> Iterator[_ListedVideo]:
    """Yield the clips of a split of Kinetics: `label,youtube_id,time_start,time_end,split`.

    The clip of `abseiling,0wR5jVB-WPk,417,427` has the usual name `0wR5jVB-WPk_000417_000427`, and
    may be in the folder `abseiling`.
    """
    for location, record in read_records(path):
        values = [str(record.get(column) or "").strip() for column in _KINETICS_COLUMNS]
        label, video_id, start, end = values
        if not (label and video_id and start.isdecimal() and end.isdecimal()):
            raise FileError(f"{location}: must have {', '.join(_KINETICS_COLUMNS)}")
        clip = f"{video_id}_{int(start):06d}_{int(end):06d}"
        paths = (f"{label}/{clip}", clip, f"{label.replace(' ', '_')}/{clip}", video_id)
        yield _ListedVideo(label, paths)
