"""Sets that can be downloaded, and what is said of those that are not there. Imports no torch."""

from __future__ import annotations

import contextlib
import sys
import tarfile
from pathlib import Path

from cosmos_eval.data.classification.folders import find_folder
from cosmos_eval.types import ClassificationProtocol, RunOptions, UsageError

# Of torchvision's sets the one whose page is gone.
_NOT_FETCHED = frozenset({"stanford_cars"})
# clip_benchmark/datasets/imagenetv2.py, URLS.
_IMAGENETV2 = (
    "https://huggingface.co/datasets/vaishaal/ImageNetV2/resolve/main/"
    "imagenetv2-matched-frequency.tar.gz"
)


def can_fetch(protocol: ClassificationProtocol) -> bool:
    """Whether it is known how to download the set."""
    if protocol.torchvision is not None:
        return protocol.torchvision not in _NOT_FETCHED
    return protocol.dataset == "imagenetv2" and protocol.root is None


def fetch(protocol: ClassificationProtocol, options: RunOptions) -> None:
    """Download the set below the data root unless it is there or it is not known how.

    Raises UsageError where the download fails.
    """
    if not can_fetch(protocol):
        return
    root = Path(str(options.data_root))
    if protocol.torchvision is not None:
        from cosmos_eval.data.classification.torchvision import download_torchvision

        download_torchvision(protocol, root)
        return
    try:
        find_folder(protocol, options)
    except UsageError:
        _fetch_imagenetv2(protocol, root)


def how_to_get(protocol: ClassificationProtocol) -> str:
    """The end of a message about a set that is not there."""
    if protocol.download is None:
        return ""
    if can_fetch(protocol):
        return f"; --download fetches it, or get it from {protocol.download}"
    return f"; get it from {protocol.download} (--download cannot)"


def _fetch_imagenetv2(protocol: ClassificationProtocol, root: Path) -> None:
    from torchvision.datasets.utils import download_and_extract_archive

    try:
        with contextlib.redirect_stdout(sys.stderr):
            download_and_extract_archive(_IMAGENETV2, str(root))
    except (OSError, EOFError, RuntimeError, tarfile.TarError) as error:
        archive = root / _IMAGENETV2.rpartition("/")[2]
        raise UsageError(
            f"{protocol.dataset}: cannot download or unpack {_IMAGENETV2}: {error}; remove "
            f"{archive} if it is there, and try again"
        ) from error
