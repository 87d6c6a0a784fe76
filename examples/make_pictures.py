"""Pictures for own_dataset.yaml and own_task/pictures.yaml: rendered scenes, a folder a class.

`python examples/make_pictures.py [FOLDER] [COUNT]` writes FOLDER/test and FOLDER/train, of COUNT
pictures each; by default 100 into examples/pictures.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from cosmos_core.data.scenes import TEST, TRAIN
from cosmos_core.data.scenes.layouts import write_layouts


def main(folder: Path, count: int) -> None:
    """Render both parts and put each in its place, which must be free."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in (TEST, TRAIN):
        with TemporaryDirectory(dir=folder) as beside:
            new = Path(beside) / "scenes"
            write_layouts(new, split=split, count=count, layouts=("folder",))
            (new / "folder" / split).rename(folder / split)


if __name__ == "__main__":
    default = Path(__file__).parent / "pictures"
    main(
        Path(sys.argv[1]) if len(sys.argv) > 1 else default,
        int(sys.argv[2]) if len(sys.argv) > 2 else 100,
    )
