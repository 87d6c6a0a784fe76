"""Released files on the Hugging Face hub, and loading offline."""

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from huggingface_hub import constants, errors, hf_hub_download

from cosmos_core.utils.hub import limit_waiting
from cosmos_eval.data.hub import reason
from cosmos_eval.models.specs import RELEASED
from cosmos_eval.types import UsageError

RELEASED_REPOSITORY = "sankim2/cosmos"


def fetch(name: str) -> Path:
    """Return the file of a released model from the client's cache or the network, or UsageError.
    HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN apply; a broken download is never used."""
    filename = f"cosmos_{name}.pt"
    limit_waiting()
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
