"""The Hugging Face hub: released files, loading offline, and errors of its client in one line."""

import logging
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


def fetch(name: str) -> Path:
    """Return the file of a released model from the client's cache or the network, or UsageError.
    HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN apply; a broken download is never used."""
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

    def refuse(url: Any, *_: Any, **__: Any) -> NoReturn:
        raise OfflineModeIsEnabled(f"{url} is not fetched")

    constants = huggingface_hub.constants
    before = constants.HF_HUB_OFFLINE, urllib.request.urlopen
    # OpenCLIP opens URLs of weights that are on no hub.
    constants.HF_HUB_OFFLINE, urllib.request.urlopen = True, refuse
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, urllib.request.urlopen = before


@contextmanager
def quiet() -> Iterator[None]:
    """Keep libraries from logging what they raise. OpenCLIP also sets up the root logger."""
    before, handler = logging.root.manager.disable, logging.NullHandler()
    logging.disable(logging.ERROR)
    logging.root.addHandler(handler)
    try:
        yield
    finally:
        logging.root.removeHandler(handler)
        logging.disable(before)


def was_not_fetched(error: BaseException) -> bool:
    """Tell whether an error comes from a file that `offline` did not let be fetched."""
    return any(isinstance(step, OfflineModeIsEnabled) for step in _causes(error))


def reason(error: BaseException) -> str:
    """Put an error in one line."""
    # The client raises LocalEntryNotFoundError also where a hub refused a file or could not be
    # reached; its cause says so.
    for step in _causes(error):
        if isinstance(step, LocalEntryNotFoundError) and step.__cause__ is not None:
            return reason(step.__cause__)
    return textwrap.shorten(str(error) or type(error).__name__, 300)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
