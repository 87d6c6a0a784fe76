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
    """Fetch and embed a set. Return its data like a task's `open_data`, but with `EmbeddedImage`s.

    At most ON_DISK archives lie in a temporary folder at a time. If `options.download` is set, all
    archives are kept in the cache of the hub's client instead. Raises UsageError for a damaged
    archive, for a set that cannot be fetched, and for faults that `open_data` finds.
    """
    disable_progress_bars()  # of the hub's client: this package draws its own
    texts_folder = hub.fetch_texts(protocol)
    etags = hub.archives_of(protocol, texts_folder)
    temporary_name = ""
    try:
        folder = TemporaryDirectory(prefix="cosmos-eval-", ignore_cleanup_errors=True)
        with hub.quiet(), folder as temporary_name:
            root = Path(temporary_name, "set")
            shutil.copytree(texts_folder, root, ignore=shutil.ignore_patterns("*.tar"))
            indexed_set = _IndexedSet(protocol, options, open_data, root, len(etags))
            embedder = _ArchiveEmbedder(encoder, options, progress, indexed_set)
            feature_store = embedder.feature_store
            fetcher = _ArchiveFetcher(protocol, options, progress, root, etags, feature_store)
            with in_order(etags, fetcher.fetch) as archives:
                embedder.embed(archives)
            return indexed_set.open_embedded(embedder.features_by_key)
    except UsageError as error:
        # Messages name files of the temporary folder: name them as the hub does.
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


def _fetched_folder(root: Path, archive: str) -> Path:
    """Return the temporary folder that an archive of the set at `root` is fetched into."""
    return root.with_name(f"hub-{archive}")


class _ArchiveFetcher:
    """Fetches the archives of a set, and leaves the index of each one below `root`."""

    def __init__(
        self,
        protocol: Protocol,
        options: RunOptions,
        progress: OnProgress,
        root: Path,
        etags: Mapping[str, str],
        feature_store: ShardStore,
    ) -> None:
        self.protocol = protocol
        self.options = options
        self.progress = progress
        self.root = root
        self.etags = etags  # by the names of the archives' files
        self.feature_store = feature_store
        code = fingerprint("cosmos_eval.data.sources", "cosmos_core.data.tar")
        self.index_store = embed.store_of({"role": "archive", "code": code}, options)

    def fetch(self, file: str) -> Callable[[], _Archive]:
        """Fetch an archive, and return the function that reads it and returns an `_Archive`.

        An archive is not fetched if its index and the features of all its images are cached.
        """
        index_key = sha256(self.etags[file].encode()).digest()
        if self.options.download:
            path = hub.fetch_file(self.protocol, file, None)
        else:
            archive = self._cached_archive(file, index_key)
            if archive is not None:
                return lambda: archive
            path = hub.fetch_file(self.protocol, file, _fetched_folder(self.root, Path(file).stem))
        return partial(self._read, file, index_key, path)

    def _cached_archive(self, file: str, index_key: bytes) -> _Archive | None:
        """Return an archive from its cached index.

        Return None if the index is not cached, or if any image must be encoded.
        """
        for _, arrays in self.index_store.find([index_key], self._report):
            (self.root / file).write_bytes(zlib.decompress(arrays["index"].tobytes()))
            archive = self._open_index(file)
            if set(archive.keys) <= archive.cached_features.keys():
                return archive
        return None

    def _read(self, file: str, index_key: bytes, path: Path) -> _Archive:
        """Read an archive that was fetched, and cache its index. Raises UsageError for damage."""
        if path.is_relative_to(self.root.parent):
            remedy = "run again"
        else:
            remedy = f"remove {path.resolve()} and run again"
        hub.require_intact(self.protocol, path, remedy)
        images = sources.write_index(path, self.root / file)
        content = zlib.compress((self.root / file).read_bytes())
        self.index_store.add([index_key], {"index": np.frombuffer(content, np.uint8)})
        return self._open_index(file)._replace(images=images)

    def _open_index(self, file: str) -> _Archive:
        """Return the archive of an index, which holds the hashes of images instead of images."""
        images = [sample.image() for sample in sources.open_archives([self.root / file])]
        keys = [image.read() for image in images]
        return _Archive(images, keys, embed.cached_features(self.feature_store, keys, self._report))

    def _report(self, note: str) -> None:
        self.progress(Progress("archives", 0, len(self.etags), note))


class _IndexedSet:
    """A set whose archives are replaced by their indices, below `root`."""

    def __init__(
        self,
        protocol: Protocol,
        options: RunOptions,
        open_data: Callable[[Any, RunOptions], Any],
        root: Path,
        n_archives: int,
    ) -> None:
        self.protocol = protocol
        self.options = options
        self.open_data = open_data
        self.root = root
        self.n_archives = n_archives

    def open(self, n_archives: int) -> Any:
        """Return the data of the first `n_archives` archives. Raises UsageError for faults in them.

        The number of images must be the protocol's only if these are all archives.
        """
        (self.root / "test/nshards.txt").write_text(str(n_archives))
        protocol: Any = replace(self.protocol, repository=None, root=str(self.root))
        if n_archives < self.n_archives:
            protocol = replace(protocol, n_images=None)
        return self.open_data(protocol, self.options)

    def open_embedded(self, features_by_key: embed.FeaturesByKey) -> Any:
        """Return the data of the whole set. Its images are replaced by embedded images."""
        data = self.open(self.n_archives)
        images = []
        for image in data.images:
            key = image.read()
            images.append(embed.EmbeddedImage(image.name, key, features_by_key[key]))
        return data._replace(images=tuple(images))


class _ArchiveEmbedder:
    """Embeds the distinct images of archives one after the other."""

    def __init__(
        self,
        encoder: Encoder,
        options: RunOptions,
        progress: OnProgress,
        indexed_set: _IndexedSet,
    ) -> None:
        self.progress = progress
        self.indexed_set = indexed_set
        # The keys of all distinct images so far.
        self.keys: list[bytes] = []
        # The contents of distinct images that are not encoded yet, by their indices in `keys`.
        self.contents: dict[int, sources.ImageContent] = {}
        # The features of all images that are embedded.
        self.features_by_key: embed.FeaturesByKey = {}
        self.inputs = embed.ImageInputs(encoder, self.contents, self.keys, options)
        self.feature_store = embed.store_of(self.inputs.identity, options)

    def embed(self, archives: Iterable[_Archive]) -> None:
        """Encode the images of archives whose features are not cached, in shards.

        All features are in `features_by_key` afterwards.
        """
        n_done = 0
        shards = self._shards_to_encode(archives)
        for indices, features in self.inputs.encode(shards):
            embed.add_features(
                self.inputs, self.feature_store, indices, features, self.features_by_key
            )
            for index in indices:
                del self.contents[index]
            n_done += len(indices)
            self.progress(Progress("images", n_done, len(self.keys)))

    def _shards_to_encode(self, archives: Iterable[_Archive]) -> Iterator[list[int]]:
        """Yield the indices of each shard's images that are not cached, if there are any."""
        shard: list[int] = []
        for index in self._distinct_images(archives):
            if index in self.contents:
                shard.append(index)
            is_last_of_shard = (index + 1) % self.inputs.shard_size == 0
            if is_last_of_shard and shard:
                yield shard
                shard = []
        if shard:
            yield shard

    def _distinct_images(self, archives: Iterable[_Archive]) -> Iterator[int]:
        """Yield the index of each distinct image of archives, in the order of first occurrence.

        Before an index is yielded, the image's key is added to `keys`, and its content to
        `contents`, unless its feature is cached. An archive's temporary folder is removed after its
        last image.
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
            folder = _fetched_folder(self.indexed_set.root, str(archive_index))
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def in_order(
    files: Collection[str], fetch: Callable[[str], Callable[[], Read]]
) -> Iterator[Iterator[Read]]:
    """Fetch and read files in two threads, and return an iterator over the results in order.

    `fetch` fetches a file and returns the function that reads it. At most ON_DISK files are fetched
    and not yet read. The threads do not keep the process alive: it may end during a fetch.
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
        self.files = files
        self.fetch = fetch
        self.readers: list[Future[Callable[[], Read]]] = [Future() for _ in files]
        self.contents: list[Future[Read]] = [Future() for _ in files]
        self.free_places = Semaphore(ON_DISK)  # for files that are fetched and not yet read
        self.threads = [
            Thread(target=self._fetch_files, daemon=True),
            Thread(target=self._read_files, daemon=True),
        ]

    def start(self) -> None:
        """Start to fetch and read files."""
        for thread in self.threads:
            thread.start()

    def results(self) -> Iterator[Read]:
        """Yield the result of reading each file. Raises the error of a file that failed."""
        for content in self.contents:
            yield content.result()
            self.free_places.release()

    def stop(self) -> None:
        """Fetch no further file, and give the threads a moment to end."""
        for reader in self.readers:
            reader.cancel()
        self.free_places.release(len(self.files))
        for thread in self.threads:
            thread.join(_PATIENCE)

    def _fetch_files(self) -> None:
        """Fetch the files in order. The first thread runs this, and fills `readers`."""
        for file, reader in zip(self.files, self.readers, strict=True):
            self.free_places.acquire()
            if reader.set_running_or_notify_cancel():  # False if it was cancelled
                try:
                    reader.set_result(self.fetch(file))
                except Exception as error:
                    reader.set_exception(error)

    def _read_files(self) -> None:
        """Read the files that are fetched. The second thread runs this, and fills `contents`."""
        for reader, content in zip(self.readers, self.contents, strict=True):
            try:
                read = reader.result()
                content.set_result(read())
            except Exception as error:
                content.set_exception(error)
