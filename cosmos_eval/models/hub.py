"""The Hugging Face hub: the released files, and why it was of no help.

Its client's own cache and switches apply: HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN.
"""

from __future__ import annotations

import textwrap
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import huggingface_hub.constants
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

from cosmos_eval.models.specs import RELEASED
from cosmos_eval.types import UsageError

RELEASED_REPOSITORY = "sankim2/cosmos"
_WIDTH = 300  # of a reason, in characters


def fetch(name: str) -> Path:
    """The file of a released model, from the cache or the network; UsageError where neither has it.

    Nothing of a broken download passes for the file: the client renames it when it is whole.
    """
    filename = f"cosmos_{name}.pt"
    try:
        return Path(huggingface_hub.hf_hub_download(RELEASED_REPOSITORY, filename))
    except Exception as error:
        # Besides its own errors and OSError the client raises those of the HTTP library that its
        # version is built on, where a connection breaks in the middle of a file.
        raise UsageError(
            f"cannot fetch {filename} of {RELEASED_REPOSITORY} on the Hugging Face hub "
            f"({reason(error)}); try again, or download it elsewhere and use "
            f"cosmos:PATH --arch {RELEASED[name]}"
        ) from error


@contextmanager
def offline() -> Iterator[None]:
    """Fetch nothing inside the block: only what is on this machine can be loaded."""
    constants, urlopen = huggingface_hub.constants, urllib.request.urlopen
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    # Weights that are on no hub are fetched by OpenCLIP itself.
    urllib.request.urlopen = _refuse
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        urllib.request.urlopen = urlopen


def _refuse(url: Any, *_: Any, **__: Any) -> NoReturn:
    raise OfflineModeIsEnabled(f"{url} is not fetched")


def was_not_fetched(error: BaseException) -> bool:
    """Whether an error came of something that is not on this machine and was not to be fetched."""
    step: BaseException | None = error
    while step is not None:
        if isinstance(step, OfflineModeIsEnabled):
            return True
        step = step.__cause__ or step.__context__
    return False


def reason(error: BaseException) -> str:
    """An error in one line.

    That a file is not in the cache is what the client says where a hub refused it, could not be
    reached or was not asked: then the line is that one's.
    """
    step: BaseException | None = error
    while step is not None:
        if isinstance(step, LocalEntryNotFoundError) and step.__cause__ is not None:
            return reason(step.__cause__)
        step = step.__cause__ or step.__context__
    return textwrap.shorten(str(error) or type(error).__name__, _WIDTH)
