"""The Hugging Face hub: released files, loading offline, and errors of its client in one line.

The client's own cache and switches apply: HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN.
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
_REASON_CHARACTERS = 300


def fetch(name: str) -> Path:
    """Return the file of a released model from the cache or the network, or raise UsageError.

    The client renames a download when it is whole, so that a broken one is never used.
    """
    filename = f"cosmos_{name}.pt"
    try:
        return Path(huggingface_hub.hf_hub_download(RELEASED_REPOSITORY, filename))
    except Exception as error:  # its own, OSError, and those of whatever HTTP library it uses
        raise UsageError(
            f"cannot fetch {filename} of {RELEASED_REPOSITORY} on the Hugging Face hub "
            f"({reason(error)}); try again, or download it elsewhere and use "
            f"cosmos:PATH --arch {RELEASED[name]}"
        ) from error


@contextmanager
def offline() -> Iterator[None]:
    """Fetch nothing inside the block: only files of this machine can be loaded."""
    constants, urlopen = huggingface_hub.constants, urllib.request.urlopen
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    urllib.request.urlopen = _refuse  # how OpenCLIP fetches weights that are on no hub
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        urllib.request.urlopen = urlopen


def _refuse(url: Any, *_: Any, **__: Any) -> NoReturn:
    raise OfflineModeIsEnabled(f"{url} is not fetched")


def was_not_fetched(error: BaseException) -> bool:
    """Tell whether an error comes from a file that `offline` did not let be fetched."""
    return any(isinstance(step, OfflineModeIsEnabled) for step in _causes(error))


def reason(error: BaseException) -> str:
    """Put an error in one line.

    The client raises LocalEntryNotFoundError also where a hub refused a file or could not be
    reached; its cause says so.
    """
    for step in _causes(error):
        if isinstance(step, LocalEntryNotFoundError) and step.__cause__ is not None:
            return reason(step.__cause__)
    return textwrap.shorten(str(error) or type(error).__name__, _REASON_CHARACTERS)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
