"""The Hugging Face hub: data sets in its client's cache, and errors of the client in one line."""

import errno
import logging
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub as client
from huggingface_hub import constants, errors, snapshot_download

from cosmos_core.utils.files import file_sha256
from cosmos_core.utils.hub import SlowHubError, limit_waiting
from cosmos_eval.data.sources import numbered_archives
from cosmos_eval.types import Protocol, UsageError

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_HTTP = ("http", "requests", "urllib3")  # libraries of the client's versions

_FILES = ("*.txt", "*.csv", "*.zip", "test/*")  # of a set, but for those of train/
_SHA256_DIGITS = 64


def dataset_folder(protocol: Protocol) -> Path:
    """Return the snapshot of a set's repository in the client's cache, without any request. Its
    name is the commit. Raises UsageError where it is missing or lacks files."""
    where = f"{protocol.dataset}: {protocol.repository}{_at(protocol)}"
    try:
        folder = Path(_snapshot(protocol, offline=True))
    except errors.LocalEntryNotFoundError as error:
        raise UsageError(
            f"{where} is not, or not completely, in {constants.HF_HUB_CACHE}: --download fetches it"
        ) from error
    except Exception as error:
        raise UsageError(f"{where} cannot be read from the cache ({reason(error)})") from error
    named = [str(getattr(protocol, field, "") or "") for field in ("annotations", "images")]
    files = [folder / name for name in named] if named[0] else numbered_archives(folder / "test")
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        what = "" if named[0] else f"lists {len(files)} archives in test/nshards.txt, and "
        raise UsageError(
            f"{where} {what}lacks {', '.join(missing[:5])}: "
            "--download fetches what the repository has"
        )
    return folder


def pinned(protocol: Protocol, folder: Callable[[Protocol], Path] = dataset_folder) -> Protocol:
    """Return the protocol at the commit of its snapshot: a branch may move during a run."""
    return replace(protocol, revision=folder(protocol).name)


def fetch_dataset(protocol: Protocol) -> None:
    """Download what the cache lacks of a set's test split, and check SHA-256s. Files
    of an interrupted download are kept. Raises UsageError for what fails or is damaged."""
    with _reported(protocol):
        folder = Path(_snapshot(protocol))
    for path in sorted(folder.rglob("*")):
        require_intact(protocol, path, f"remove {path.resolve()} and use --download again")


def fetch_texts(protocol: Protocol) -> Path:
    """Download what the cache lacks of a set's text files; return its snapshot."""
    with _reported(protocol):
        return Path(_snapshot(protocol, ["*.txt"]))


def archives_of(protocol: Protocol, folder: Path) -> dict[str, str]:
    """Return what the hub identifies the contents of the archives by that nshards.txt in `folder`
    counts, by their names. Raises UsageError for those that the repository lacks."""
    counted = [str(path.relative_to(folder)) for path in numbered_archives(folder / "test")]
    with _reported(protocol):
        listed = [*client.HfApi().list_repo_tree(path_in_repo="test", **_repository(protocol))]
    files = {one.path: one for one in listed if isinstance(one, client.hf_api.RepoFile)}
    for name in (name for name in counted if name not in files):
        where = f"{protocol.dataset}: {protocol.repository}{_at(protocol)}"
        raise UsageError(f"{where} counts {len(counted)} archives, and lacks {name}")
    return {name: getattr(files[name].lfs, "sha256", files[name].blob_id) for name in counted}


def fetch_file(protocol: Protocol, file: str, folder: Path | None = None) -> Path:
    """Return the path of a file in the client's cache, else fetch it to one at `folder`."""
    where = {"filename": file, **_repository(protocol)}
    if isinstance(client.try_to_load_from_cache(**where), str):
        folder = None
    with _reported(protocol):
        return Path(client.hf_hub_download(**where, cache_dir=folder))


@contextmanager
def _reported(protocol: Protocol) -> Iterator[None]:
    limit_waiting()
    try:
        yield
    except Exception as error:  # the client's, OSError, and those of its HTTP library
        raise UsageError(
            f"{protocol.dataset}: cannot fetch {protocol.repository}{_at(protocol)} "
            f"({reason(error)})"
        ) from error


def require_intact(protocol: Protocol, path: Path, remedy: str) -> None:
    """Raise UsageError for a large file of the cache that is not named after its SHA-256."""
    expected = path.resolve().name
    if len(expected) == _SHA256_DIGITS and file_sha256(path) != expected:
        raise UsageError(
            f"{protocol.dataset}: {path} is damaged, its SHA-256 is not the hub's: {remedy}"
        )


def _snapshot(protocol: Protocol, files: Sequence[str] = _FILES, *, offline: bool = False) -> str:
    with quiet():
        return snapshot_download(
            **_repository(protocol),
            allow_patterns=list(files),
            ignore_patterns=["train/*"],
            local_files_only=offline,
        )


def _repository(protocol: Protocol) -> dict[str, Any]:
    return {"repo_id": protocol.repository, "repo_type": "dataset", "revision": protocol.revision}


def _at(protocol: Protocol) -> str:
    return f" at {protocol.revision}" if protocol.revision else ""


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
    if isinstance(error, SlowHubError):
        return str(error)
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
        remedy = "free space, or set HF_HOME, for --stream TMPDIR, elsewhere"
        return f"cannot write to {cache} ({error.strerror}): {remedy}"
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
