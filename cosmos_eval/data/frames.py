"""Videos as folders of frames: `video7020/000001.jpg`, `video7020/000002.jpg`... Imports no torch.

The feature of a video is the mean of the features of its frames, as in CLIP4Clip's `meanP` (Luo et
al. 2021, arXiv 2104.08860; github.com/ArrowLuo/CLIP4Clip, commit 508ffa3, modules/modeling.py).
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from cosmos_eval.data.class_folders import SUFFIXES
from cosmos_eval.data.sources import ImageFile, ImageSource
from cosmos_eval.types import UsageError

# Extensions of videos, such as those of DiDeMo's test videos (misc/datasets/didemo/test_list.txt of
# github.com/albanie/collaborative-experts, 7eb3b9d), whose names may also end with the point.
_FORMATS = ("3g2", "3gp", "avi", "flv", "m4v", "mkv", "mov", "mp4", "mpg", "mts", "webm", "wmv")


@dataclass(frozen=True)
class Video:
    """A sample of several images. Reports show the frame in the middle."""

    name: str
    # The frames that are encoded, in their order; at least one.
    frames: tuple[ImageSource, ...]

    def read(self) -> bytes:
        """Return the stored bytes of the frame in the middle."""
        return self._middle.read()

    def decode(self, content: bytes) -> Image.Image:
        """Decode the bytes that `read` returned into an RGB image."""
        return self._middle.decode(content)

    @property
    def _middle(self) -> ImageSource:
        """The frame in the middle."""
        return self.frames[len(self.frames) // 2]


@dataclass(frozen=True)
class VideoFolder:
    """A folder with a folder of frames for each video."""

    folder: Path
    # The number of frames of each video that are encoded.
    n_frames: int

    def find(self, name: str) -> Video | None:
        """Return the video with a name, or None if it has no folder, or no frames in it.

        Args:
            name: The name in a list, such as `Biking/v_Biking_g01_c01.avi`. The folder of the
                frames may lack the extension, and ActivityNet's prefix `v_`.
        """
        for folder_name in _possible_folders(name):
            folder = self.folder / folder_name
            file_names = _list_frames(folder)
            if file_names:
                chosen = choose_frames(len(file_names), self.n_frames)
                frames = tuple(ImageFile(folder / file_names[index]) for index in chosen)
                return Video(str(folder), frames)
        return None


def open_video_folder(path: Path, n_frames: int) -> VideoFolder:
    """Return the videos in a folder, by name. Raise UsageError for a zip file."""
    if not path.is_dir():
        raise UsageError(f"{path}: frames are read from folders: unpack it")
    return VideoFolder(path, n_frames)


def require_no_videos(images: Iterable[ImageSource]) -> None:
    """Raise UsageError if any of the images is a video, whose frames must not be told apart."""
    if any(isinstance(image, Video) for image in images):
        raise UsageError(
            "videos are measured as a whole, without --until and scores of pairs; diagnose, audit "
            "and overlap need images"
        )


def choose_frames(n_frames: int, n_chosen: int) -> list[int]:
    """Return the indices of frames that are spread evenly over a video, in their order.

    They are CLIP4Clip's (`slice_framepos` 2): from the first frame to the last one, rounded down,
    and all frames of a video that has fewer. A single frame is the one in the middle, as CLIP takes
    it (Radford et al. 2021, arXiv 2103.00020, appendix A.1).

    Args:
        n_frames: The number of frames of the video.
        n_chosen: The number of frames to choose, at least 1.

    Example:
        From 10 frames, 4 are [0, 3, 6, 9], and 1 is [5].
    """
    if n_chosen == 1:
        return [n_frames // 2]
    if n_frames <= n_chosen:
        return list(range(n_frames))
    indices: list[int] = np.linspace(0, n_frames - 1, num=n_chosen, dtype=int).tolist()
    return indices


def _possible_folders(name: str) -> Iterator[str]:
    """Yield the names that the folder of a video's frames may have.

    For example, `v_a.mp4` may be in `v_a.mp4`, `v_a`, `a.mp4` and `a`.
    """
    path = PurePosixPath(name)
    for file_name in dict.fromkeys((path.name, path.name.removeprefix("v_"))):
        yield str(path.with_name(file_name))
        stem, _, extension = file_name.rpartition(".")
        if stem and extension.lower() in ("", *_FORMATS):
            yield str(path.with_name(stem))


def _list_frames(folder: Path) -> list[str]:
    """Return the names of the images in a folder in the order of the frames; empty without any.

    Shorter names come first, so that `frame10.jpg` follows `frame9.jpg`.
    """
    try:
        file_names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UsageError(f"cannot read {folder}: {error.strerror}") from error
    frames = [
        name for name in file_names if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    ]
    return sorted(frames, key=lambda name: (len(name), name))
