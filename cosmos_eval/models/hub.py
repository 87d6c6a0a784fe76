"""Released files on the Hugging Face hub, and loading offline."""

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from huggingface_hub import constants, errors, hf_hub_download

from cosmos_core.utils.hub import limit_waiting
from cosmos_eval.data.hub import describe_error
from cosmos_eval.models.specs import RELEASED
from cosmos_eval.types import UsageError

RELEASED_REPOSITORY = "sankim2/cosmos"


def fetch(name: str) -> Path:
    """Return the file of a released COSMOS model, such as "vitb16_cc3m".

    The file is taken from the cache of the hub's client, or downloaded. The environment variables
    HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN apply. A broken download is never used. Raises
    UsageError if the file cannot be fetched.
    """
    filename = f"cosmos_{name}.pt"
    limit_waiting()
    try:
        return Path(hf_hub_download(RELEASED_REPOSITORY, filename))
    except Exception as error:  # of the client, of the HTTP library that it uses, and OSError
        raise UsageError(
            f"cannot fetch {filename} of {RELEASED_REPOSITORY} on the Hugging Face hub "
            f"({describe_error(error)}); try again, or download it elsewhere and use "
            f"cosmos:PATH --arch {RELEASED[name]}"
        ) from error


@contextmanager
def offline() -> Iterator[None]:
    """Refuse all downloads within the context: only files of this machine can be loaded.

    The settings of the hub's client and of urllib are changed, and restored afterwards.
    """

    def refuse(url: Any, *_: Any, **__: Any) -> NoReturn:
        """Take the place of `urllib.request.urlopen`, and raise an error."""
        raise errors.OfflineModeIsEnabled(f"{url} is not fetched")

    former_offline, former_urlopen = constants.HF_HUB_OFFLINE, urllib.request.urlopen
    constants.HF_HUB_OFFLINE = True
    # OpenCLIP opens URLs of weights that are not on the hub.
    urllib.request.urlopen = refuse
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = former_offline
        urllib.request.urlopen = former_urlopen
