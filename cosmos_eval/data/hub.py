"""Data sets of the Hugging Face hub in its client's cache, and errors of the client in one line."""

import errno
import logging
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import huggingface_hub as client
from huggingface_hub import constants, errors, snapshot_download

from cosmos_core.utils.extras import missing_package
from cosmos_core.utils.files import file_sha256
from cosmos_core.utils.hub import SlowHubError, limit_waiting
from cosmos_eval.data.sources import numbered_archives
from cosmos_eval.types import Protocol, UsageError

# Errors of the system if a disk is full or cannot be written.
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
# The HTTP libraries of all versions of the client, by the beginnings of their modules' names.
_HTTP_PACKAGES = ("http", "requests", "urllib3")

_FILE_PATTERNS = ("*.txt", "*.csv", "*.zip", "test/*")  # the files of a data set's test split
_SHA256_DIGITS = 64
_MAX_LISTED = 5  # missing files that an error message lists
_MAX_REASON = 300  # characters of the reason in an error message


def dataset_folder(protocol: Protocol) -> Path:
    """Return the folder of a data set's repository in the cache of huggingface_hub.

    The folder is a snapshot of the repository and is named by its commit. No request is made. Raise
    UsageError if the snapshot is not in the cache, or lacks files of the data set: its annotations
    and images, or else one of its archives.

    Example:
        ~/.cache/huggingface/hub/datasets--OWNER--NAME/snapshots/COMMIT
    """
    repository = f"{protocol.dataset}: {_repository_name(protocol)}"
    try:
        folder = Path(_get_snapshot(protocol, offline=True))
    except errors.LocalEntryNotFoundError as error:
        raise UsageError(
            f"{repository} is not, or not completely, in {constants.HF_HUB_CACHE}: "
            "--download fetches it"
        ) from error
    except Exception as error:
        raise UsageError(
            f"{repository} cannot be read from the cache ({describe_error(error)})"
        ) from error

    # A data set on the hub is a file of annotations with a file of images, or tar archives.
    annotations = str(getattr(protocol, "annotations", "") or "")
    if annotations:
        images = str(getattr(protocol, "images", "") or "")
        required_files = [folder / annotations, folder / images]
        list_description = ""
    else:
        required_files = numbered_archives(folder / "test")
        list_description = f"lists {len(required_files)} archives in test/nshards.txt, and "

    missing_names = [path.name for path in required_files if not path.is_file()]
    if missing_names:
        raise UsageError(
            f"{repository} {list_description}lacks {', '.join(missing_names[:_MAX_LISTED])}: "
            "--download fetches what the repository has"
        )
    return folder


def pin_revision(
    protocol: Protocol, find_folder: Callable[[Protocol], Path] = dataset_folder
) -> Protocol:
    """Return the protocol with the commit of its snapshot as its revision.

    A branch may change during a run, and a commit does not.

    Args:
        protocol: The data set, with a repository on the Hugging Face hub.
        find_folder: Returns the folder of the snapshot, which is named by the commit.
    """
    return replace(protocol, revision=find_folder(protocol).name)


def fetch_dataset(protocol: Protocol) -> None:
    """Download the test split of a data set into the cache, and check the SHA-256s of its files.

    Files that are in the cache already are not downloaded again, and an interrupted download is
    continued. Raise UsageError if the download fails or if a file is damaged.
    """
    with _report_client_errors(protocol):
        folder = Path(_get_snapshot(protocol))
    for path in sorted(folder.rglob("*")):
        require_intact(protocol, path, f"remove {path.resolve()} and use --download again")


def fetch_texts(protocol: Protocol) -> Path:
    """Download the text files of a data set into the cache, and return the snapshot's folder.

    Raise UsageError if the download fails.
    """
    with _report_client_errors(protocol):
        return Path(_get_snapshot(protocol, ["*.txt"]))


def archives_of(protocol: Protocol, folder: Path) -> dict[str, str]:
    """Return the names of a data set's archives, each with the hub's hash of its content.

    Args:
        protocol: The data set, with a repository on the Hugging Face hub.
        folder: A snapshot of the repository. Its file test/nshards.txt says how many archives there
            are. The hashes are asked from the hub.

    Raises:
        UsageError: If the hub does not answer, or if the repository lacks one of the archives.

    Example:
        {"test/0.tar": "<SHA-256>", "test/1.tar": "<SHA-256>"}
    """
    names = [str(path.relative_to(folder)) for path in numbered_archives(folder / "test")]
    with _report_client_errors(protocol):
        entries = list(
            client.HfApi().list_repo_tree(path_in_repo="test", **_repository_arguments(protocol))
        )
    file_by_path = {}
    for entry in entries:
        if isinstance(entry, client.hf_api.RepoFile):  # and not a folder
            file_by_path[entry.path] = entry

    hash_by_name = {}
    for name in names:
        if name not in file_by_path:
            raise UsageError(
                f"{protocol.dataset}: {_repository_name(protocol)} counts {len(names)} archives, "
                f"and lacks {name}"
            )
        file = file_by_path[name]
        # Large files have a SHA-256, small ones only the id of their Git object.
        hash_by_name[name] = getattr(file.lfs, "sha256", file.blob_id)
    return hash_by_name


def fetch_file(protocol: Protocol, file: str, folder: Path | None = None) -> Path:
    """Return the path of a file of a data set's repository, after downloading it if needed.

    Args:
        protocol: The data set, with a repository on the Hugging Face hub.
        file: The path of the file in the repository, such as `test/0.tar`.
        folder: The cache to download to if huggingface_hub's own cache lacks the file. By default,
            this is the own cache.

    Raises:
        UsageError: If the download fails.
    """
    arguments = {"filename": file, **_repository_arguments(protocol)}
    is_in_own_cache = isinstance(client.try_to_load_from_cache(**arguments), str)
    cache_folder = None if is_in_own_cache else folder  # None is huggingface_hub's own cache
    with _report_client_errors(protocol):
        return Path(client.hf_hub_download(**arguments, cache_dir=cache_folder))


@contextmanager
def _report_client_errors(protocol: Protocol) -> Iterator[None]:
    """Turn any error in the block, which uses huggingface_hub, into a UsageError of one line."""
    limit_waiting()
    try:
        yield
    except Exception as error:  # of huggingface_hub, of the system, or of an HTTP library
        raise UsageError(
            f"{protocol.dataset}: cannot fetch {_repository_name(protocol)} "
            f"({describe_error(error)})"
        ) from error


def require_intact(protocol: Protocol, path: Path, remedy: str) -> None:
    """Raise UsageError if a large file in the cache of huggingface_hub is damaged.

    The entries of a snapshot are links, and large files behind them are named by their SHA-256.
    Small files are not checked.

    Args:
        protocol: The data set, for the error message.
        path: The path of the file in the snapshot.
        remedy: The end of the error message, which says what to do.
    """
    name_in_cache = path.resolve().name
    is_named_by_sha256 = len(name_in_cache) == _SHA256_DIGITS
    if is_named_by_sha256 and file_sha256(path) != name_in_cache:
        raise UsageError(
            f"{protocol.dataset}: {path} is damaged, its SHA-256 is not the hub's: {remedy}"
        )


def _get_snapshot(
    protocol: Protocol, patterns: Sequence[str] = _FILE_PATTERNS, *, offline: bool = False
) -> str:
    """Return the folder of a repository's snapshot.

    Args:
        protocol: The data set, with a repository on the Hugging Face hub.
        patterns: The files that the snapshot must have, such as `["*.txt"]`. Training images are
            left out.
        offline: True if to use only files that are in the cache already. Otherwise, files that the
            cache lacks are downloaded.
    """
    with quiet():
        return snapshot_download(
            **_repository_arguments(protocol),
            allow_patterns=list(patterns),
            ignore_patterns=["train/*"],
            local_files_only=offline,
        )


def _repository_arguments(protocol: Protocol) -> dict[str, Any]:
    """Return the arguments by which functions of huggingface_hub name a repository."""
    return {"repo_id": protocol.repository, "repo_type": "dataset", "revision": protocol.revision}


def _repository_name(protocol: Protocol) -> str:
    """Return the name of a data set's repository for messages: `owner/name at v1`.

    The revision is left out if the protocol has none.
    """
    revision = f" at {protocol.revision}" if protocol.revision else ""
    return f"{protocol.repository}{revision}"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep libraries from logging errors in the block, since they also raise them.

    OpenCLIP would set up logging if the root logger had no handler. It therefore gets a handler
    that does nothing, until the block ends.
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
    """Return whether an error was raised because offline mode forbids to download a file."""
    return any(isinstance(cause, errors.OfflineModeIsEnabled) for cause in _iterate_causes(error))


def describe_error(error: BaseException, remedy: str = "") -> str:
    """Return a description of an error in one line, with what the user can do about it.

    Errors of the hub, the connection and the disk, and packages that are not installed are
    explained. Any other error is described by its own message.

    Args:
        error: The error. If it was raised because of another one, that one is explained.
        remedy: The text after the message of an error that is not explained, such as "; try again".
    """
    for cause in _iterate_causes(error):
        for explain in (_explain_missing_package, _explain_access_error, _explain_connection_error):
            explanation = explain(cause)
            if explanation is not None:
                return explanation
        # huggingface_hub also raises LocalEntryNotFoundError if the hub refuses a file. Its cause
        # then says why.
        if isinstance(cause, errors.LocalEntryNotFoundError) and cause.__cause__ is not None:
            return describe_error(cause.__cause__, remedy)

    message = str(error) or type(error).__name__
    return textwrap.shorten(message, _MAX_REASON).rstrip(".") + remedy


def _explain_missing_package(error: BaseException) -> str | None:
    """Return which package a model of transformers lacks, or None for other errors."""
    if isinstance(error, ModuleNotFoundError) and error.name == "transformers":
        return missing_package("it", "transformers", "hf")
    # transformers asks for either of two packages, and a vocabulary fits only one of them.
    message = str(error).lower()
    names_tokenizers = "sentencepiece" in message or "tiktoken" in message
    if names_tokenizers and find_spec("sentencepiece") is None:
        return missing_package("its tokenizer", "sentencepiece", "hf")
    return None


def _explain_access_error(error: BaseException) -> str | None:
    """Return why the hub gives no access to a file and what to do, or None for other errors."""
    hub, cache = constants.ENDPOINT, constants.HF_HUB_CACHE
    if isinstance(error, SlowHubError):
        return str(error)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"not in {cache}, and offline mode is enabled: unset HF_HUB_OFFLINE to fetch it"
    if isinstance(error, errors.GatedRepoError):
        return f"{hub} gives access on request: accept the terms on its page there, set HF_TOKEN"
    if isinstance(error, errors.RepositoryNotFoundError) or _get_status_code(error) in (401, 403):
        return f"{hub} has no such repository, or a private one: correct its name, or set HF_TOKEN"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{hub} has no such revision of it: name a branch, tag or commit"
    return None


def _explain_connection_error(error: BaseException) -> str | None:
    """Return how the connection or the disk fails and what to do, or None for other errors."""
    hub, cache = constants.ENDPOINT, constants.HF_HUB_CACHE
    status = _get_status_code(error)
    is_overloaded = status == 429 or status >= 500
    if is_overloaded:
        return f"{hub} answers with status {status}: try again later"

    # Errors of an HTTP library without a response.
    has_no_answer = status == 0
    if has_no_answer and type(error).__module__.startswith(_HTTP_PACKAGES):
        return f"the connection to {hub} failed ({error}): check it and HF_ENDPOINT, then try again"

    if isinstance(error, OSError) and error.errno in _UNWRITABLE:
        return (
            f"cannot write to {cache} ({error.strerror}): free space, or set HF_HOME, for "
            "--stream TMPDIR, elsewhere"
        )
    return None


def _get_status_code(error: BaseException) -> int:
    """Return the status of the HTTP response that an error holds, or 0 without a response."""
    response = getattr(error, "response", None)
    return getattr(response, "status_code", 0)


def _iterate_causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, its cause, the cause of the cause, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
