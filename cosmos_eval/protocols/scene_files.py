"""The recorded files of the embedded data sets: their numbers must not depend on a drawing library.

The scenes of version 1 are archives in this package. Those of version 2 are too large for it: they
are rendered, and every file is compared with a recorded hash. Both are made by
`benchmarks/record_scenes.py`.
"""

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cosmos_core.utils.files import appearing, file_sha256
from cosmos_eval.types import UsageError

FOLDER = Path(__file__).with_name("recorded_scenes")
"""The folder of the archive and of the lists of hashes."""
ARCHIVES = {
    "scenes-test": "39b1cb708aafff393bdf1620ae0270285c47f6b7e284a3de3f6d09b26d40808e",
    "scenes-training": "0cf963d991b9474a9edb6d458eb43f3ad8b675cd24d01278e309ce120612b22f",
    "scenes-probe": "48237e6fbf8f07930aea93f343672ef439378853b188493c452761fd240b283a",
}
"""The SHA-256 of each archive, which is called `scenes-test.tar.gz`, for example."""
RECORDED_WITH = "'opencv-python==5.0.*' 'pillow==13.*'"
"""What rendered the recorded files. Pillow 10.1 to 12 write the same bytes."""


def unpack_scenes(root: Path, name: str) -> None:
    """Unpack an archive into the new folder `root`, which appears when it is complete.

    Args:
        root: The folder to create.
        name: The name of the archive, such as `scenes-test`.

    Raises:
        UsageError: If the archive is damaged, or the folder cannot be written.
    """
    path = archive_path(name)
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != ARCHIVES[name]:
        raise UsageError(f"{path} is damaged: install cosmos-eval again")
    with (
        report_write_errors(root),
        appearing(root) as folder,
        tarfile.open(fileobj=io.BytesIO(content)) as archive,
    ):
        # Python 3.10.11, 3.11.3 and before have no filters.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(folder)


def render_recorded(root: Path, name: str, write: Callable[[Path], object]) -> None:
    """Render scenes into the new folder `root`, which appears when all files are the recorded ones.

    Args:
        root: The folder to create.
        name: The name of the list of hashes, such as `scenes2-test`.
        write: Writes the scenes into a folder that does not exist yet.

    Raises:
        UsageError: If files differ from the recorded ones, or the folder cannot be written.
    """
    with report_write_errors(root), appearing(root) as folder:
        rendered = folder / "rendered"
        write(rendered)
        require_recorded(rendered, name)
        for path in rendered.iterdir():
            path.rename(folder / path.name)
        rendered.rmdir()


def require_recorded(folder: Path, name: str) -> None:
    """Raise UsageError if the files of a folder are not those of a list of hashes.

    Args:
        folder: The folder of the rendered scenes.
        name: The name of the list, such as `scenes2-test`.
    """
    recorded, rendered = read_hashes(list_path(name)), hash_files(folder)
    differing = [path for path in recorded if rendered.get(path) != recorded[path]]
    differing += sorted(set(rendered) - set(recorded))
    if differing:
        import cv2  # here, since the other functions do without
        import PIL

        raise UsageError(
            f"{name}: rendered with OpenCV {cv2.__version__} and Pillow {PIL.__version__}, "
            f"{len(differing)} of {len(recorded)} files differ from the recorded ones, such as "
            f"{differing[0]}; install the versions that they were recorded with: {RECORDED_WITH}"
        )


def archive_path(name: str) -> Path:
    """Return the path of an archive."""
    return FOLDER / f"{name}.tar.gz"


def list_path(name: str) -> Path:
    """Return the path of a list of hashes, which `sha256sum --check` reads."""
    return FOLDER / f"{name}.sha256"


def read_hashes(path: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a list, by its path in the folder of the scenes."""
    hashes = {}
    for line in path.read_text("utf-8").splitlines():
        sha256, file = line.split("  ", 1)
        hashes[file] = sha256
    return hashes


def hash_files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file below a folder, by its path."""
    return {
        path.relative_to(folder).as_posix(): file_sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@contextmanager
def report_write_errors(root: Path) -> Iterator[None]:
    """Turn an OSError in the block, which writes the folder `root`, into a UsageError.

    Ignore the error if the folder exists after it.
    """
    try:
        yield
    except OSError as error:
        if root.is_dir():
            return  # another run was faster and has written the same files
        raise UsageError(
            f"cannot write the embedded scenes to {root.parent}: {error}; "
            "set COSMOS_EVAL_CACHE to a folder that can be written"
        ) from error
