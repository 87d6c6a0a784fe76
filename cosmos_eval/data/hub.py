"""Data sets of the Hugging Face hub in its client's cache, and errors of the client in one line."""

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
_HTTP_PACKAGES = ("http", "requests", "urllib3")  # HTTP libraries of versions of the client

_FILE_PATTERNS = ("*.txt", "*.csv", "*.zip", "test/*")  # the files of a set's test split
_SHA256_DIGITS = 64
_MAX_LISTED = 5  # missing files that an error message lists
_MAX_REASON = 300  # characters of an error's message


def dataset_folder(protocol: Protocol) -> Path:
    """Return the folder of a data set's repository in the client's cache, without any request.

    The folder is a snapshot of the repository, and is named by its commit. Raise UsageError if it
    is missing, or lacks the annotations and images, or one of the archives, of the data set.
    """
    repository = f"{protocol.dataset}: {_repository_name(protocol)}"
    try:
        folder = Path(_snapshot(protocol, offline=True))
    except errors.LocalEntryNotFoundError as error:
        raise UsageError(
            f"{repository} is not, or not completely, in {constants.HF_HUB_CACHE}: "
            "--download fetches it"
        ) from error
    except Exception as error:
        raise UsageError(f"{repository} cannot be read from the cache ({reason(error)})") from error
    annotations = str(getattr(protocol, "annotations", "") or "")
    if annotations:
        images = str(getattr(protocol, "images", "") or "")
        files = [folder / annotations, folder / images]
        listed = ""
    else:
        files = numbered_archives(folder / "test")
        listed = f"lists {len(files)} archives in test/nshards.txt, and "
    missing_names = [path.name for path in files if not path.is_file()]
    if missing_names:
        raise UsageError(
            f"{repository} {listed}lacks {', '.join(missing_names[:_MAX_LISTED])}: "
            "--download fetches what the repository has"
        )
    return folder


def pinned(
    protocol: Protocol, find_folder: Callable[[Protocol], Path] = dataset_folder
) -> Protocol:
    """Return the protocol with the commit of its snapshot as revision.

    A branch may move during a run; a commit does not. `find_folder` returns the snapshot of a
    protocol, whose name is the commit.
    """
    return replace(protocol, revision=find_folder(protocol).name)


def fetch_dataset(protocol: Protocol) -> None:
    """Download the files of a set's test split that the cache lacks, and check their SHA-256s.

    Files of an interrupted download are kept. Raise UsageError if the download fails or if a file
    is damaged.
    """
    with _client_errors_reported(protocol):
        folder = Path(_snapshot(protocol))
    for path in sorted(folder.rglob("*")):
        require_intact(protocol, path, f"remove {path.resolve()} and use --download again")


def fetch_texts(protocol: Protocol) -> Path:
    """Download the text files of a set that the cache lacks, and return the snapshot."""
    with _client_errors_reported(protocol):
        return Path(_snapshot(protocol, ["*.txt"]))


def archives_of(protocol: Protocol, folder: Path) -> dict[str, str]:
    """Return the archives of a set, each with the hash by which the hub identifies its content.

    nshards.txt in `folder` says how many archives there are. Raise UsageError if the repository
    lacks one of them.
    """
    names = [str(path.relative_to(folder)) for path in numbered_archives(folder / "test")]
    with _client_errors_reported(protocol):
        entries = list(
            client.HfApi().list_repo_tree(path_in_repo="test", **_repository_arguments(protocol))
        )
    file_by_path = {
        entry.path: entry for entry in entries if isinstance(entry, client.hf_api.RepoFile)
    }
    hashes = {}
    for name in names:
        if name not in file_by_path:
            raise UsageError(
                f"{protocol.dataset}: {_repository_name(protocol)} counts {len(names)} archives, "
                f"and lacks {name}"
            )
        file = file_by_path[name]
        hashes[name] = getattr(file.lfs, "sha256", file.blob_id)
    return hashes


def fetch_file(protocol: Protocol, file: str, folder: Path | None = None) -> Path:
    """Return the path of a file of the repository, and fetch it if the cache lacks it.

    It is fetched to a cache at `folder` (None: the client's own cache).
    """
    arguments = {"filename": file, **_repository_arguments(protocol)}
    is_cached = isinstance(client.try_to_load_from_cache(**arguments), str)
    if is_cached:
        folder = None
    with _client_errors_reported(protocol):
        return Path(client.hf_hub_download(**arguments, cache_dir=folder))


@contextmanager
def _client_errors_reported(protocol: Protocol) -> Iterator[None]:
    """Turn all errors of the client in the block into a UsageError of one line."""
    limit_waiting()
    try:
        yield
    except Exception as error:  # of the client, of the system, or of the client's HTTP library
        raise UsageError(
            f"{protocol.dataset}: cannot fetch {_repository_name(protocol)} ({reason(error)})"
        ) from error


def require_intact(protocol: Protocol, path: Path, remedy: str) -> None:
    """Raise UsageError if the content of a large file in the cache does not match its name.

    The client names large files by their SHA-256.
    """
    expected = path.resolve().name
    if len(expected) == _SHA256_DIGITS and file_sha256(path) != expected:
        raise UsageError(
            f"{protocol.dataset}: {path} is damaged, its SHA-256 is not the hub's: {remedy}"
        )


def _snapshot(
    protocol: Protocol, patterns: Sequence[str] = _FILE_PATTERNS, *, offline: bool = False
) -> str:
    """Return the path of a repository's snapshot with the files that match `patterns`.

    Fetch the files that the cache lacks unless `offline` is set.
    """
    with quiet():
        return snapshot_download(
            **_repository_arguments(protocol),
            allow_patterns=list(patterns),
            ignore_patterns=["train/*"],
            local_files_only=offline,
        )


def _repository_arguments(protocol: Protocol) -> dict[str, Any]:
    """Return the arguments of the client's functions that name a repository."""
    return {"repo_id": protocol.repository, "repo_type": "dataset", "revision": protocol.revision}


def _repository_name(protocol: Protocol) -> str:
    """Return the name of a repository for messages, with its revision if the protocol has one."""
    revision = f" at {protocol.revision}" if protocol.revision else ""
    return f"{protocol.repository}{revision}"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep libraries from logging the errors that they raise in the block.

    OpenCLIP sets up the root logger if it has no handler. It is given one in the block.
    """
    disabled_level = logging.root.manager.disable
    handler = logging.NullHandler()
    logging.disable(logging.ERROR)
    logging.root.addHandler(handler)
    try:
        yield
    finally:
        logging.root.removeHandler(handler)
        logging.disable(disabled_level)


def was_not_fetched(error: BaseException) -> bool:
    """Return whether an error comes from a file that is missing because of the offline mode."""
    return any(isinstance(cause, errors.OfflineModeIsEnabled) for cause in _causes(error))


def reason(error: BaseException, remedy: str = "") -> str:
    """Return a description of an error in one line.

    `remedy` is added to an error that comes neither from the hub nor from its client.
    """
    for cause in _causes(error):
        text = _access_reason(cause) or _connection_reason(cause)
        if text is not None:
            return text
        # The client also raises LocalEntryNotFoundError if the hub refused a file.
        if isinstance(cause, errors.LocalEntryNotFoundError) and cause.__cause__ is not None:
            return reason(cause.__cause__, remedy)
    return textwrap.shorten(str(error) or type(error).__name__, _MAX_REASON).rstrip(".") + remedy


def _access_reason(error: BaseException) -> str | None:
    """Return what to do if the hub does not give access to a file, or None for other errors."""
    hub, cache = constants.ENDPOINT, constants.HF_HUB_CACHE
    if isinstance(error, SlowHubError):
        return str(error)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"not in {cache}, and offline mode is enabled: unset HF_HUB_OFFLINE to fetch it"
    if isinstance(error, errors.GatedRepoError):
        return f"{hub} gives access on request: accept the terms on its page there, set HF_TOKEN"
    if isinstance(error, errors.RepositoryNotFoundError) or _status_code(error) in (401, 403):
        return f"{hub} has no such repository, or a private one: correct its name, or set HF_TOKEN"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{hub} has no such revision of it: name a branch, tag or commit"
    return None


def _connection_reason(error: BaseException) -> str | None:
    """Return what to do if the connection or the disk fails, or None for other errors."""
    hub, cache = constants.ENDPOINT, constants.HF_HUB_CACHE
    status = _status_code(error)
    if status == 429 or status >= 500:
        return f"{hub} answers with status {status}: try again later"
    if not status and type(error).__module__.startswith(_HTTP_PACKAGES):
        return f"the connection to {hub} failed ({error}): check it and HF_ENDPOINT, then try again"
    if isinstance(error, OSError) and error.errno in _UNWRITABLE:
        return (
            f"cannot write to {cache} ({error.strerror}): free space, or set HF_HOME, for "
            "--stream TMPDIR, elsewhere"
        )
    return None


def _status_code(error: BaseException) -> int:
    """Return the status of the HTTP response that an error holds, or 0."""
    return getattr(getattr(error, "response", None), "status_code", 0)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, its cause, the cause of the cause, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
