"""Embed the images of a webdataset of the hub while its archives arrive.

One thread fetches archives, another one reads them and hashes their images, and the main thread
encodes the images, in the same shards as if the whole set had been downloaded. Each archive leaves
an index: its labels, captions and hashes of images. The index is cached by the archive's ETag, so
that a later run fetches only archives with images to encode."""

import re
import shutil
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Semaphore, Thread
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from huggingface_hub.utils import disable_progress_bars

from cosmos_eval.data import hub, sources
from cosmos_eval.embedding import embed
from cosmos_eval.embedding.cache import ShardStore, fingerprint
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.types import OnProgress, Progress, Protocol, RunOptions, UsageError

ON_DISK = 3  # archives at a time: one is read, the others are being fetched or wait
_PATIENCE = 1.0  # seconds that a thread has to end when a run is given up

Read = TypeVar("Read")


def stream(
    encoder: Encoder,
    protocol: Protocol,
    options: RunOptions,
    progress: OnProgress,
    open_data: Callable[[Any, RunOptions], Any],
) -> Any:
    """Fetch the archives of a data set of the hub, and embed their images while more arrive.

    At most three archives lie in a temporary folder at a time. If `options.download` is set, all
    archives are kept in the cache of the hub's client instead.

    Args:
        encoder: The model.
        protocol: The protocol of the data set, which names its repository on the hub.
        options: The options of the run, such as the batch size.
        progress: Called with the number of archives and images that are done.
        open_data: The function of the task that opens a data set on disk.

    Returns:
        The same data as `open_data` returns, but with an `EmbeddedImage`, which has a feature in
        place of pixels, for every image.

    Raises UsageError for a damaged archive, for a set that cannot be fetched, and for faults that
    `open_data` finds.
    """
    disable_progress_bars()  # of the hub's client: this package draws its own
    texts_folder = hub.fetch_texts(protocol)
    etag_by_file = hub.archives_of(protocol, texts_folder)
    temporary_name = ""
    try:
        folder = TemporaryDirectory(prefix="cosmos-eval-", ignore_cleanup_errors=True)
        with hub.quiet(), folder as temporary_name:
            # The set without its archives. Their indices are added while the archives are fetched.
            root = Path(temporary_name, "set")
            shutil.copytree(texts_folder, root, ignore=shutil.ignore_patterns("*.tar"))
            indexed_set = _IndexedSet(protocol, options, open_data, root, len(etag_by_file))
            embedder = _ArchiveEmbedder(encoder, options, progress, indexed_set)
            fetcher = _ArchiveFetcher(
                protocol, options, progress, root, etag_by_file, embedder.feature_store
            )
            with read_in_order(etag_by_file, fetcher.fetch) as archives:
                embedder.embed(archives)
            return indexed_set.open_embedded(embedder.features_by_key)
    except UsageError as error:
        # Messages name files of the temporary folder, which is removed. Name the repository
        # instead: "/tmp/cosmos-eval-x1/set/test/0.tar is damaged" -> "org/name/test/0.tar is ...".
        local_folder = rf"{re.escape(temporary_name)}/(set|hub-[^/]+/[^/]+/snapshots/[^/]+)"
        message = re.sub(local_folder, str(protocol.repository), str(error))
        raise UsageError(message) from error
    except OSError as error:
        raise UsageError(f"{protocol.dataset}: {hub.describe_error(error)}") from error


class _Archive(NamedTuple):
    """The images of an archive, and the features of those that are cached."""

    images: Sequence[sources.ArchiveMember]
    # The SHA-256 of each image's file.
    keys: Sequence[bytes]
    # The cached features of images, by their keys.
    cached_features: embed.FeaturesByKey


def _download_folder(root: Path, archive_name: str) -> Path:
    """Return the temporary folder that one archive of the set at `root` is downloaded into.

    It lies beside the set: for /tmp/x/set and the archive "3", it is /tmp/x/hub-3.
    """
    return root.with_name(f"hub-{archive_name}")


class _ArchiveFetcher:
    """Fetches the archives of a set, and leaves the index of each one below `root`.

    An index is a small archive with the same labels and captions, and with the hashes of images in
    place of the images. Indices are cached.
    """

    def __init__(
        self,
        protocol: Protocol,
        options: RunOptions,
        progress: OnProgress,
        root: Path,
        etag_by_file: Mapping[str, str],
        feature_store: ShardStore,
    ) -> None:
        """Prepare to fetch archives.

        Args:
            protocol: The protocol of the data set, which names its repository on the hub.
            options: The options of the run.
            progress: Called with warnings about damaged files of the cache.
            root: The folder of the set without its archives.
            etag_by_file: The hub's hash of each archive, by its file, such as "test/0.tar".
            feature_store: The cached features of images.
        """
        self.protocol = protocol
        self.options = options
        self.progress = progress
        self.root = root
        self.etag_by_file = etag_by_file
        self.feature_store = feature_store
        code = fingerprint("cosmos_eval.data.sources", "cosmos_core.data.tar")
        self.index_store = embed.open_store({"role": "archive", "code": code}, options)

    def fetch(self, file: str) -> Callable[[], _Archive]:
        """Fetch an archive, unless its index and the features of all its images are cached.

        Args:
            file: The file of the archive in the repository, such as "test/0.tar".

        Returns:
            A function that reads the archive and returns its images. Another thread calls it.
        """
        index_key = sha256(self.etag_by_file[file].encode()).digest()
        if self.options.download:
            path = hub.fetch_file(self.protocol, file, None)
        else:
            cached_archive = self._open_cached(file, index_key)
            if cached_archive is not None:

                def return_cached() -> _Archive:
                    return cached_archive

                return return_cached
            folder = _download_folder(self.root, Path(file).stem)
            path = hub.fetch_file(self.protocol, file, folder)
        return partial(self._read_fetched, file, index_key, path)

    def _open_cached(self, file: str, index_key: bytes) -> _Archive | None:
        """Return an archive by its cached index, and write the index below `root`.

        Return None if the index is not cached, or if the feature of any image is not.

        Args:
            file: The file of the archive in the repository.
            index_key: The key of the archive's index in the cache.
        """
        for _, arrays in self.index_store.find([index_key], self._report_warning):
            index = zlib.decompress(arrays["index"].tobytes())
            (self.root / file).write_bytes(index)
            archive = self._open_index(file)
            has_all_features = set(archive.keys) <= archive.cached_features.keys()
            if has_all_features:
                return archive
        return None

    def _read_fetched(self, file: str, index_key: bytes, path: Path) -> _Archive:
        """Read an archive that was fetched, write its index below `root`, and cache the index.

        Args:
            file: The file of the archive in the repository.
            index_key: The key of the archive's index in the cache.
            path: The file that the archive was fetched to.

        Raises UsageError if the archive is damaged.
        """
        is_temporary = path.is_relative_to(self.root.parent)
        advice = "run again" if is_temporary else f"remove {path.resolve()} and run again"
        hub.require_intact(self.protocol, path, advice)
        images = sources.write_index(path, self.root / file)
        index = zlib.compress((self.root / file).read_bytes())
        self.index_store.add([index_key], {"index": np.frombuffer(index, np.uint8)})
        archive = self._open_index(file)
        return archive._replace(images=images)

    def _open_index(self, file: str) -> _Archive:
        """Read the index of an archive, and the cached features of its images.

        The content of each returned image is the SHA-256 of the image's file, not its pixels.
        """
        images = [sample.image() for sample in sources.open_archives([self.root / file])]
        keys = [image.read() for image in images]
        features = embed.read_cached_features(self.feature_store, keys, self._report_warning)
        return _Archive(images, keys, features)

    def _report_warning(self, warning: str) -> None:
        """Show a warning about the cache to the user."""
        self.progress(Progress("archives", 0, len(self.etag_by_file), warning))


class _IndexedSet:
    """A data set whose archives are replaced by their indices.

    An index has the labels and captions of an archive, and hashes of images in place of images.
    """

    def __init__(
        self,
        protocol: Protocol,
        options: RunOptions,
        open_data: Callable[[Any, RunOptions], Any],
        root: Path,
        n_archives: int,
    ) -> None:
        """Describe the set. Its indices may be written later.

        Args:
            protocol: The protocol of the data set.
            options: The options of the run.
            open_data: The function of the task that opens a data set on disk.
            root: The folder of the set.
            n_archives: The number of archives of the complete set.
        """
        self.protocol = protocol
        self.options = options
        self.open_data = open_data
        self.root = root
        self.n_archives = n_archives

    def open(self, n_archives: int) -> Any:
        """Return the data of the first `n_archives` archives.

        If these are not all archives, the set may have fewer images than its protocol states.
        Raises UsageError for faults in the data.
        """
        # A webdataset states its number of archives in this file.
        (self.root / "test/nshards.txt").write_text(str(n_archives))
        protocol: Any = replace(self.protocol, repository=None, root=str(self.root))
        is_complete = n_archives == self.n_archives
        if not is_complete:
            protocol = replace(protocol, n_images=None)
        return self.open_data(protocol, self.options)

    def open_embedded(self, features_by_key: embed.FeaturesByKey) -> Any:
        """Return the data of the whole set, with embedded images in place of the hashes.

        Args:
            features_by_key: The feature (D,) of every image, by the SHA-256 of its file.
        """
        data = self.open(self.n_archives)
        embedded_images = []
        for image in data.images:
            key = image.read()
            embedded_images.append(embed.EmbeddedImage(image.name, key, features_by_key[key]))
        return data._replace(images=tuple(embedded_images))


class _ArchiveEmbedder:
    """Embeds the distinct images of archives one after the other."""

    def __init__(
        self,
        encoder: Encoder,
        options: RunOptions,
        progress: OnProgress,
        indexed_set: _IndexedSet,
    ) -> None:
        """Start without any image. Images and features are added by `embed`.

        Args:
            encoder: The model.
            options: The options of the run, such as the batch size.
            progress: Called with the number of archives and images that are done.
            indexed_set: The data set, to which indices are added while its archives are read.
        """
        self.progress = progress
        self.indexed_set = indexed_set
        # The keys of all distinct images so far.
        self.keys: list[bytes] = []
        # The contents of distinct images that are not encoded yet, by their indices in `keys`.
        self.contents: dict[int, sources.ImageContent] = {}
        # The features of all images that are embedded.
        self.features_by_key: embed.FeaturesByKey = {}
        self.inputs = embed.ImageInputs(encoder, self.contents, self.keys, options)
        self.feature_store = embed.open_store(self.inputs.identity, options)

    def embed(self, archives: Iterable[_Archive]) -> None:
        """Encode the images of archives whose features are not cached, shard by shard.

        Afterwards, `self.features_by_key` holds the features of all images.
        """
        n_done = 0
        shards = self._shards_to_encode(archives)
        for indices, features in self.inputs.encode(shards):
            embed.add_features(
                self.inputs, self.feature_store, indices, features, self.features_by_key
            )
            for index in indices:
                del self.contents[index]  # frees the memory of the image
            n_done += len(indices)
            self.progress(Progress("images", n_done, len(self.keys)))

    def _shards_to_encode(self, archives: Iterable[_Archive]) -> Iterator[list[int]]:
        """Yield the indices of each shard's images that are not cached, if there are any.

        All distinct images are cut into shards, whether they are cached or not.

        Example:
            With 3 images per shard, the images 0 to 2 are one shard. If image 1 is cached, [0, 2]
            is yielded.
        """
        missing_in_shard: list[int] = []
        for index in self._distinct_images(archives):
            is_missing = index in self.contents
            if is_missing:
                missing_in_shard.append(index)
            is_last_of_shard = (index + 1) % self.inputs.shard_size == 0
            if is_last_of_shard and missing_in_shard:
                yield missing_in_shard
                missing_in_shard = []
        if missing_in_shard:
            yield missing_in_shard

    def _distinct_images(self, archives: Iterable[_Archive]) -> Iterator[int]:
        """Yield the index of each distinct image of archives, in the order of first occurrence.

        Before an index is yielded, the SHA-256 of the image's file is appended to `self.keys`. If
        the image's feature is not cached, the image is added to `self.contents` as well. An
        archive's temporary folder is removed after its last image.
        """
        distinct_keys = set[bytes]()
        for archive_index, archive in enumerate(archives):
            self.progress(Progress("archives", archive_index, self.indexed_set.n_archives))
            if archive_index == 0:
                self.indexed_set.open(1)  # so that most faults show before much is fetched
            self.features_by_key.update(archive.cached_features)
            for image, key in zip(archive.images, archive.keys, strict=True):
                if key in distinct_keys:
                    continue
                index = len(distinct_keys)
                distinct_keys.add(key)
                if key not in self.features_by_key:
                    self.contents[index] = sources.ImageContent(image.name, image.read())
                self.keys.append(key)
                yield index
            folder = _download_folder(self.indexed_set.root, str(archive_index))
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def read_in_order(
    files: Collection[str], fetch: Callable[[str], Callable[[], Read]]
) -> Iterator[Iterator[Read]]:
    """Fetch and read files in two threads.

    A context manager, which gives an iterator over the contents of the files in their order. At
    most three files are fetched and not yet read. The threads do not keep the process alive: it may
    end during a fetch.

    Args:
        files: The files to fetch.
        fetch: A function that fetches a file, and returns the function that reads it.
    """
    pipeline = _Pipeline(files, fetch)
    try:
        pipeline.start()
        yield pipeline.results()
    finally:
        pipeline.stop()


class _Pipeline(Generic[Read]):
    """One thread that fetches files, and one that reads them."""

    def __init__(self, files: Collection[str], fetch: Callable[[str], Callable[[], Read]]) -> None:
        """Create the threads, which `start` starts.

        Args:
            files: The files to fetch.
            fetch: A function that fetches a file, and returns the function that reads it.
        """
        self.files = files
        self.fetch = fetch
        # For each file, the function that reads it, once it is fetched, and then its content.
        self.readers: list[Future[Callable[[], Read]]] = [Future() for _ in files]
        self.contents: list[Future[Read]] = [Future() for _ in files]
        self.free_places = Semaphore(ON_DISK)  # for files that are fetched and not yet read
        self.threads = [
            Thread(target=self._fetch_files, daemon=True),
            Thread(target=self._read_files, daemon=True),
        ]

    def start(self) -> None:
        """Start the threads that fetch and read files."""
        for thread in self.threads:
            thread.start()

    def results(self) -> Iterator[Read]:
        """Yield the content of each file, in order. Raises the error of a file that failed."""
        for content in self.contents:
            yield content.result()
            self.free_places.release()

    def stop(self) -> None:
        """Cancel the files that are not fetched yet, and give the threads a moment to end."""
        for reader in self.readers:
            reader.cancel()
        self.free_places.release(len(self.files))  # so that the fetching thread does not wait
        for thread in self.threads:
            thread.join(_PATIENCE)

    def _fetch_files(self) -> None:
        """Fetch the files in order, each as soon as there is a free place for it.

        The first thread runs this method. It sets the result of each future in `self.readers`, or
        its exception if the fetch fails.
        """
        for file, reader in zip(self.files, self.readers, strict=True):
            self.free_places.acquire()
            is_cancelled = not reader.set_running_or_notify_cancel()
            if is_cancelled:
                continue
            try:
                reader.set_result(self.fetch(file))
            except Exception as error:
                reader.set_exception(error)

    def _read_files(self) -> None:
        """Read the files in order, each as soon as it is fetched.

        The second thread runs this method. It sets the result of each future in `self.contents`, or
        its exception if the fetch or the reading fails.
        """
        for reader, content in zip(self.readers, self.contents, strict=True):
            try:
                read = reader.result()
                content.set_result(read())
            except Exception as error:
                content.set_exception(error)
