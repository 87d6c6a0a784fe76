"""The Hugging Face hub: released files, loading offline, and errors of its client in one line."""

import errno
import logging
import textwrap
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from huggingface_hub import constants, errors, hf_hub_download

from cosmos_eval.models.specs import RELEASED
from cosmos_eval.types import UsageError

RELEASED_REPOSITORY = "sankim2/cosmos"
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_HTTP = ("http", "requests", "urllib3")  # libraries of the client's versions


def fetch(name: str) -> Path:
    """Return the file of a released model from the client's cache or the network, or UsageError.
    HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN apply; a broken download is never used."""
    filename = f"cosmos_{name}.pt"
    try:
        return Path(hf_hub_download(RELEASED_REPOSITORY, filename))
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
        raise errors.OfflineModeIsEnabled(f"{url} is not fetched")

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
    return any(isinstance(step, errors.OfflineModeIsEnabled) for step in _causes(error))


def reason(error: BaseException, remedy: str = "") -> str:
    """Put an error in one line; `remedy` ends it where it is none of the hub or its client."""
    for step in _causes(error):
        if known := _known(step):
            return known
        # The client raises LocalEntryNotFoundError also where a hub refused a file.
        if isinstance(step, errors.LocalEntryNotFoundError) and step.__cause__ is not None:
            return reason(step.__cause__, remedy)
    return textwrap.shorten(str(error) or type(error).__name__, 300).rstrip(".") + remedy


def _known(error: BaseException) -> str | None:
    """Say what to do about an error of the client, of its HTTP library or of the system."""
    hub, cache = constants.ENDPOINT, constants.HF_HUB_CACHE
    status = getattr(getattr(error, "response", None), "status_code", 0)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"not in {cache}, and offline mode is enabled: unset HF_HUB_OFFLINE to fetch it"
    if isinstance(error, errors.GatedRepoError):
        return f"{hub} gives access on request: accept the terms on its page there, set HF_TOKEN"
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 403):
        return f"{hub} has no such repository, or a private one: correct its name, or set HF_TOKEN"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{hub} has no such revision of it: name a branch, tag or commit"
    if status == 429 or status >= 500:
        return f"{hub} answers with status {status}: try again later"
    if not status and type(error).__module__.startswith(_HTTP):
        return f"the connection to {hub} failed ({error}): check it and HF_ENDPOINT, then try again"
    if isinstance(error, OSError) and error.errno in _UNWRITABLE:
        return f"cannot write to {cache} ({error.strerror}): free space, or set HF_HOME elsewhere"
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
