"""Embed the images of a webdataset of the hub while its archives arrive.

A thread fetches one archive after the other, another hashes images, which are encoded in the shards
of a downloaded set. The index of an archive is left: labels, captions and hashes of images. It is
cached by the archive's ETag, so that another run fetches only archives with images to encode."""

import re
import shutil
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from itertools import islice, tee
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Semaphore, Thread
from typing import Any, NamedTuple, TypeVar

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
    """Return the data of a set as a task's `open_data` does, with `EmbeddedImage`s. No more than
    ON_DISK archives lie in a temporary folder, or `options.download` keeps all of them in the
    client's cache. Raises UsageError for whatever is wrong with an archive or the whole set."""
    disable_progress_bars()  # of the hub's client: this package draws its own
    texts = hub.fetch_texts(protocol)
    files = hub.archives_of(protocol, texts)
    keys: list[bytes] = []
    contents: dict[int, sources.ImageContent] = {}
    inputs = embed.image_inputs(encoder, contents, keys, options)
    code = fingerprint("cosmos_eval.data.sources", "cosmos_core.data.tar")
    features = embed.store_of(inputs.identity, options)
    indices = embed.store_of({"role": "archive", "code": code}, options)
    name = ""
    try:
        folder = TemporaryDirectory(prefix="cosmos-eval-", ignore_cleanup_errors=True)
        with hub.quiet(), folder as name:
            root = Path(name, "set")
            shutil.copytree(texts, root, ignore=shutil.ignore_patterns("*.tar"))
            of_set = protocol, options, progress, open_data, root, files
            streamed = _Stream(*of_set, keys, contents, {}, inputs, features, indices)
            with in_order(files, streamed.fetch) as archives:
                streamed.embed(archives)
            data = streamed.open(len(files))
            found = ((image.name, image.read()) for image in data.images)
            images = (embed.EmbeddedImage(*one, streamed.found[one[1]]) for one in found)
            return data._replace(images=tuple(images))
    except UsageError as error:
        # A file of the temporary folder is called as on the hub.
        own = rf"{re.escape(name)}/(set|hub-[^/]+/[^/]+/snapshots/[^/]+)"
        raise UsageError(re.sub(own, str(protocol.repository), str(error))) from error
    except OSError as error:
        raise UsageError(f"{protocol.dataset}: {hub.reason(error)}") from error


class _Archive(NamedTuple):
    """Images, their SHA-256s and what of their features is cached."""

    images: Sequence[sources.ArchiveMember]
    keys: Sequence[bytes]
    found: embed.Found


@dataclass(frozen=True)
class _Stream:
    """A set while it is streamed: indices of its archives lie at `root`, and of the distinct images
    met so far `keys` are the SHA-256s, `contents` what is to be encoded, `found` the features."""

    protocol: Protocol
    options: RunOptions
    progress: OnProgress
    open_data: Callable[[Any, RunOptions], Any]
    root: Path
    files: Mapping[str, str]
    keys: list[bytes]
    contents: dict[int, sources.ImageContent]
    found: embed.Found
    inputs: embed.Inputs
    features: ShardStore
    indices: ShardStore

    def fetch(self, file: str) -> Callable[[], _Archive]:
        """Fetch an archive that has images to encode; return the function that reads it."""
        key = sha256(self.files[file].encode()).digest()
        folder = None if self.options.download else self.root.with_name(f"hub-{Path(file).stem}")
        for _, arrays in self.indices.find([key], self._report) if folder else ():
            (self.root / file).write_bytes(zlib.decompress(arrays["index"].tobytes()))
            archive = self._indexed(file)
            if archive.found.keys() >= {*archive.keys}:
                return lambda: archive
        return partial(self._read, file, key, hub.fetch_file(self.protocol, file, folder))

    def _read(self, file: str, key: bytes, path: Path) -> _Archive:
        kept = "" if path.is_relative_to(self.root.parent) else f"remove {path.resolve()} and "
        hub.require_intact(self.protocol, path, f"{kept}run again")
        images = sources.write_index(path, self.root / file)
        content = zlib.compress((self.root / file).read_bytes())
        self.indices.add([key], {"index": np.frombuffer(content, np.uint8)})
        return self._indexed(file)._replace(images=images)

    def _indexed(self, file: str) -> _Archive:
        images = [sample.image() for sample in sources.open_archives([self.root / file])]
        keys = [image.read() for image in images]
        return _Archive(images, keys, embed.cached_features(self.features, keys, self._report))

    def _report(self, note: str) -> None:
        self.progress(Progress("archives", 0, len(self.files), note))

    def open(self, count: int) -> Any:
        """Return the data of the first archives; numbers of samples are those of all archives."""
        (self.root / "test/nshards.txt").write_text(str(count))
        part: dict[str, Any] = {} if count == len(self.files) else {"n_images": None}
        own = replace(self.protocol, repository=None, root=str(self.root), **part)
        return self.open_data(own, self.options)

    def embed(self, archives: Iterable[_Archive]) -> None:
        """Find or encode the features of all images, in shards of distinct ones."""
        done, distinct = 0, self._distinct(archives)
        shards = iter(lambda: [*islice(distinct, self.inputs.shard_size)], [])
        missing = ([index for index in shard if index in self.contents] for shard in shards)
        lists, own = tee(filter(None, missing))
        for indices, features in zip(own, self.inputs.encode(lists), strict=True):
            embed.add_features(self.inputs, self.features, indices, features, self.found)
            for index in indices:
                del self.contents[index]
            done += len(indices)
            self.progress(Progress("images", done, len(self.keys)))

    def _distinct(self, archives: Iterable[_Archive]) -> Iterator[int]:
        """Yield the index of every distinct image once its content is held or its feature known."""
        met = set[bytes]()
        for number, archive in enumerate(archives):
            self.progress(Progress("archives", number, len(self.files)))
            if number == 0:
                self.open(1)  # so that most faults show before much is fetched
            self.found.update(archive.found)
            for image, key in zip(archive.images, archive.keys, strict=True):
                if key in met:
                    continue
                met.add(key)
                if key not in self.found:
                    self.contents[len(met) - 1] = sources.ImageContent(image.name, image.read())
                self.keys.append(key)
                yield len(met) - 1
            shutil.rmtree(self.root.with_name(f"hub-{number}"), ignore_errors=True)


@contextmanager
def in_order(
    files: Collection[str], fetch: Callable[[str], Callable[[], Read]]
) -> Iterator[Iterator[Read]]:
    """Give an iterator over results of the functions that `fetch` returns; a second thread calls
    them. At most ON_DISK files are fetched and not read. The process may end within a fetch."""
    fetched: list[Future[Callable[[], Read]]] = [Future() for _ in files]
    results: list[Future[Read]] = [Future() for _ in files]
    places = Semaphore(ON_DISK)
    waiting = (file for file in files if places.acquire())
    stages = (fetch, waiting, fetched), (lambda future: future.result()(), fetched, results)

    def read() -> Iterator[Read]:
        for result in results:
            yield result.result()
            places.release()

    threads = [Thread(target=_settle, args=stage, daemon=True) for stage in stages]
    try:
        for thread in threads:
            thread.start()
        yield read()
    finally:
        for future in fetched:
            future.cancel()
        places.release(len(files))
        for thread in threads:
            thread.join(_PATIENCE)


def _settle(act: Callable[[Any], Read], given: Iterable[Any], futures: list[Future[Read]]) -> None:
    """Give futures that were not cancelled what a function returns or raises."""
    for one, future in zip(given, futures, strict=True):
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(act(one))
            except Exception as error:
                future.set_exception(error)
