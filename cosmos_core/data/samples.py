"""Decode the files of a sample, make views and batches of samples, and count broken samples."""

import io
import json
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageFile
import torch
from torch import Tensor

from cosmos_core.config import TrainConfig
from cosmos_core.data.pixels import open_image, to_rgb
from cosmos_core.types import Views
from cosmos_core.utils.text import split_sentences
from cosmos_core.views import ImageViews, MultiCrop, caption_views

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
SAMPLE_SUFFIXES = (*IMAGE_SUFFIXES, "json")
# github.com/zyf0619sjtu/DreamLIP: the raw caption, then short and long ones of three captioners.
DREAMLIP_KEYS = (
    "raw_caption",
    "shortIB_captions",
    "longIB_captions",
    "shortSV_captions",
    "longSV_captions",
    "shortLLA_captions",
    "longLLA_captions",
)
PIXELPROSE_KEYS = ("original_caption", "caption")

KINDS = (
    "image_missing",
    "image_broken",
    "image_too_large",  # more pixels than PIL.Image.MAX_IMAGE_PIXELS
    "record_missing",
    "record_broken",  # not a JSON object
    "captions_missing",
    "captions_wrong",  # not text
    "truncated",  # the tar ends before the sample does
    "unreadable",  # the system failed to open or to read a shard
)
# The first LOGGED problems of each kind are logged, and after them the 4th, 8th, 16th and so on.
LOGGED = 3

_log = logging.getLogger(__name__)

Tokenizer = Callable[[list[str]], Tensor]  # texts -> token ids (N, S)
SampleViews = tuple[ImageViews, list[str]]  # the views of one sample: uint8 images and T captions


class Problem(NamedTuple):
    """The problem of a sample, or of a whole shard, that cannot be read."""

    kind: str  # one of KINDS
    key: str
    detail: str  # the shard and the reason, in one line

    def __str__(self) -> str:
        """Return the problem in one line, such as `000123: image_broken: 00000.tar: 0 bytes`."""
        return f"{self.key}: {self.kind}: {self.detail}"


class BadSampleError(ValueError):
    """A sample cannot be read; `kind` is one of KINDS."""

    def __init__(self, kind: str, detail: str) -> None:
        """Create an error of one of the KINDS, with the reason in one line."""
        super().__init__(detail)
        self.kind = kind

    def problem(self, shard: str, key: str) -> Problem:
        """Return this error as the problem of a sample.

        Names in tars may hold bytes that are not valid text. They are escaped.

        Args:
            shard: The path or URL of the sample's tar.
            key: The name of the sample's files without their extensions, such as "000123".
        """
        detail = " ".join(f"{shard}: {self}".split())
        return Problem(self.kind, _escape_surrogates(key), _escape_surrogates(detail))


def _escape_surrogates(text: str) -> str:
    r"""Return a text that can be encoded as UTF-8, with other bytes spelled out as `\udcff`.

    Python represents a byte that is not valid UTF-8, such as 0xFF in a file's name, by half of a
    surrogate pair, which cannot be written to a log.
    """
    return text.encode("utf-8", "backslashreplace").decode()


class UnreadableDataError(ValueError):
    """Too many samples cannot be read for training to go on."""


class StreamPosition(NamedTuple):
    """The position of a worker in its stream of samples, in plain numbers for a snapshot.

    In a pass the worker reads all of its shards once. The order in which samples leave the shuffle
    buffer follows from the seed and from the numbers of samples that have come in and gone out. So
    these numbers tell which samples are in the buffer, and they can be read again.
    """

    # The number of the pass, counted from 0.
    pass_number: int = 0
    # The number of samples of this pass that have left the shuffle buffer.
    n_taken: int = 0
    # The number of samples among them that could be decoded.
    n_good: int = 0
    # The number of samples in each shard of this pass that was read to its end.
    finished_shard_sizes: tuple[int, ...] = ()
    # The number of samples that were read of the next shard.
    n_read_of_open_shard: int = 0

    @property
    def n_entries_read(self) -> int:
        """The number of samples of this pass that have entered the shuffle buffer."""
        return sum(self.finished_shard_sizes) + self.n_read_of_open_shard


class Batch(NamedTuple):
    """A batch of B good samples."""

    # The uint8 views.
    views: Views
    # The problems of bad samples that were read on the way to the good ones.
    problems: tuple[Problem, ...]
    # For streams: the number of the worker that read the batch, and its position after the batch.
    lane: int = 0
    position: StreamPosition | None = None


Item = Batch | UnreadableDataError
"""The result of a data worker. An error is returned, not raised, because PyTorch would add the
traceback of the worker to its message."""


class RawSample(NamedTuple):
    """The undecoded files of a sample. A missing file is None."""

    image: bytes | None
    # JSON, which holds the captions.
    record: bytes | None


class Sample(NamedTuple):
    """A decoded sample: an RGB image and at least one caption sentence."""

    image: PIL.Image.Image
    sentences: list[str]


def caption_sentences(record: Mapping[str, Any], keys: Collection[str] = ()) -> list[str]:
    """Return the caption sentences of a sample's JSON record, stripped. There is at least one.

    A caption of DreamLIP is a list of sentences, or a text that is split into sentences, as FLAIR's
    presplit_captions.py does (github.com/ExplainableML/flair). PixelProse has an original caption,
    which is not split, and a long caption, which is split::

        {"raw_caption": "A dog. It runs.", "longIB_captions": ["a dog"]}
            -> ["A dog", "It runs", "a dog"]
        {"original_caption": "Mr. Dog", "caption": "A dog. It runs."}
            -> ["Mr. Dog", "A dog", "It runs"]

    Args:
        record: The content of the sample's JSON file.
        keys: The keys of the captions to use. If there are none, DreamLIP's captions are used, and
            PixelProse's if there are none of DreamLIP.

    Raises:
        BadSampleError: If the sample has no such captions, or if a caption is not text.
    """
    used_keys = keys or (*DREAMLIP_KEYS, *PIXELPROSE_KEYS)
    captions = {key: record[key] for key in used_keys if key in record}
    dreamlip_captions = {key: captions[key] for key in DREAMLIP_KEYS if key in captions}
    if dreamlip_captions and not keys:
        captions = dreamlip_captions
    if not captions:
        missing = " or ".join(keys) or "caption key"
        record_keys = ", ".join(sorted(record)) or "none"
        raise BadSampleError("captions_missing", f"no {missing} among: {record_keys}")
    stripped_sentences = [sentence.strip() for sentence in _split_captions(captions)]
    non_empty_sentences = [sentence for sentence in stripped_sentences if sentence]
    if not non_empty_sentences:
        raise BadSampleError("captions_missing", "every caption is empty")
    return non_empty_sentences


def _split_captions(captions: Mapping[str, Any]) -> list[str]:
    """Return the sentences of captions, first DreamLIP's and then PixelProse's.

    Args:
        captions: The captions by their keys in the record, at least one.

    Raises:
        BadSampleError: If a caption is not text.
    """
    sentences = []
    for key in DREAMLIP_KEYS:
        if key in captions:
            sentences += _split_dreamlip_caption(key, captions[key])
    original_key, long_key = PIXELPROSE_KEYS
    if original_key in captions:
        sentences.append(_require_text(original_key, captions[original_key]))
    if long_key in captions:
        sentences += split_sentences(_require_text(long_key, captions[long_key]))
    return sentences


def _split_dreamlip_caption(key: str, caption: Any) -> list[str]:
    """Return the sentences of one of DreamLIP's captions.

    Args:
        key: The key of the caption in the record, such as "raw_caption", for errors.
        caption: A list of sentences, or a text that is split into sentences.

    Raises:
        BadSampleError: If a sentence is not text.
    """
    if isinstance(caption, list):
        return [_require_text(key, sentence) for sentence in caption]
    return split_sentences(_require_text(key, caption))


def _require_text(key: str, value: Any) -> str:
    """Return a value of a sample's record, after checking that it is valid text.

    Args:
        key: The key of the value in the record, for errors.
        value: The value.

    Raises:
        BadSampleError: If the value has another type, or cannot be encoded as UTF-8.
    """
    if not isinstance(value, str):
        raise BadSampleError("captions_wrong", f"{key} holds a {type(value).__name__}, not text")
    try:
        value.encode()  # JSON can spell half a surrogate pair, which no tokenizer takes
    except UnicodeEncodeError as error:
        raise BadSampleError("captions_wrong", f"{key} is not valid Unicode") from error
    return value


def decode_sample(raw: RawSample, caption_keys: Collection[str] = ()) -> Sample:
    """Decode the image and the captions of a sample.

    Args:
        raw: The content of the image file and of the JSON file, or None for a missing file.
        caption_keys: The keys of the captions to use. If there are none, all captions are used.

    Raises:
        BadSampleError: If a file is missing or broken. No other error is raised.
    """
    if raw.record is None:
        raise BadSampleError("record_missing", "no json")
    try:
        record = json.loads(raw.record)
    except (ValueError, RecursionError) as error:
        raise BadSampleError("record_broken", f"invalid JSON ({error})") from error
    if not isinstance(record, dict):
        type_name = type(record).__name__
        raise BadSampleError("record_broken", f"JSON holds a {type_name}, not an object")
    sentences = caption_sentences(record, caption_keys)
    return Sample(_decode_image(raw.image), sentences)


def _decode_image(data: bytes | None) -> PIL.Image.Image:
    """Decode the content of an image file to 8-bit RGB.

    Args:
        data: The content of the file, or None if the sample has no image file.

    Raises:
        BadSampleError: If the file is missing or broken, or if it has too many pixels.
    """
    if data is None:
        raise BadSampleError("image_missing", "no jpg, jpeg, png or webp")
    # Other imported code may have switched this on. A truncated image shall be an error.
    PIL.ImageFile.LOAD_TRUNCATED_IMAGES = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of harmless oddities in metadata
        warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
        try:
            return to_rgb(open_image(io.BytesIO(data)))
        except (PIL.Image.DecompressionBombWarning, PIL.Image.DecompressionBombError) as error:
            raise BadSampleError("image_too_large", str(error)) from error
        except PIL.UnidentifiedImageError as error:
            raise BadSampleError(
                "image_broken", f"{len(data)} bytes in an unknown format"
            ) from error
        except Exception as error:  # Pillow does not document what its decoders raise
            reason = str(error) or type(error).__name__
            raise BadSampleError("image_broken", f"{len(data)} bytes, {reason}") from error


class ViewMaker:
    """Makes the random views (crops and captions) of decoded samples, and batches of views."""

    def __init__(self, config: TrainConfig, tokenizer: Tokenizer) -> None:
        """Create a maker of the views that the training method of a configuration needs.

        Args:
            config: States the sizes, the numbers and the random changes of views.
            tokenizer: Turns N captions into token ids (N, S).
        """
        self._text_config = config.text
        self._view_counts = config.method.counts
        self._make_image_views = MultiCrop(config.image, self._view_counts)
        # The views of the first steps, which may be smaller.
        self._first_steps = config.image.first_steps
        first_size = config.image.first_size or config.image.global_size
        first_image = replace(config.image, global_size=first_size)
        self._make_first_views = MultiCrop(first_image, self._view_counts)
        self._tokenizer = tokenizer

    def decode(self, raw: RawSample) -> Sample:
        """Decode a sample with the captions that the configuration uses.

        Raises:
            BadSampleError: If a file is missing or broken, or if there is no such caption.
        """
        return decode_sample(raw, self._text_config.captions)

    def views(self, sample: Sample, seed: Sequence[int], step: int) -> SampleViews:
        """Return random crops and captions of a sample, which depend only on the arguments.

        Args:
            sample: The decoded sample.
            seed: Integers >= 0.
            step: The training step, counted from 0, which decides the size of global views.

        Returns:
            The image views, as uint8 tensors, and the caption views, as texts.
        """
        rng = np.random.default_rng(seed)
        captions = caption_views(sample.sentences, self._text_config, rng, self._view_counts)
        is_first = step < self._first_steps
        make_image_views = self._make_first_views if is_first else self._make_image_views
        return make_image_views(sample.image, rng), captions

    def batch(self, samples: Sequence[SampleViews], problems: Sequence[Problem]) -> Batch:
        """Stack the views of B samples to a batch.

        Args:
            samples: The views of each sample.
            problems: The problems of bad samples that were read on the way to these samples.

        Returns:
            The batch. With G global and L local image views, and T captions of S tokens for each
            sample, its tensors have the shapes (G, B, 3, H, W), (L, B, 3, h, w) and (T, B, S).
        """
        captions = []
        for _, sample_captions in samples:
            captions += sample_captions
        # The captions of a sample follow each other: (B * T, S) -> (B, T, S) -> (T, B, S).
        tokens = self._tokenizer(captions)
        texts = tokens.unflatten(0, (len(samples), -1)).transpose(0, 1)
        views = Views(
            global_images=torch.stack([images.global_images for images, _ in samples], 1),
            local_images=torch.stack([images.local_images for images, _ in samples], 1),
            texts=texts.contiguous(),
        )
        return Batch(views, tuple(problems))


class ProblemCounter:
    """Counts the bad samples of this process by kind, and logs some of them.

    It stops a run if more than the fraction `limit` of all samples are bad, once `minimum` samples
    have been read.
    """

    def __init__(self, limit: float, *, minimum: int = 200) -> None:
        """Start to count.

        Args:
            limit: The largest fraction of bad samples that is accepted, from 0 to 1.
            minimum: The number of samples before which the fraction is not checked.
        """
        self._limit = limit
        self._minimum = minimum
        self._n_good = 0
        self._count_by_kind = Counter[str]()
        # The key of the last bad sample of each kind.
        self._last_key_by_kind: dict[str, str] = {}

    @property
    def bad(self) -> int:
        """The number of bad samples so far."""
        return self._count_by_kind.total()

    def add(self, problems: Iterable[Problem], *, seen: int) -> None:
        """Count bad samples, and the good samples that were read with them.

        The first three bad samples of each kind are logged, then the 4th, 8th, 16th and so on.

        Args:
            problems: The problems of the bad samples.
            seen: The number of good samples.

        Raises:
            UnreadableDataError: If too many of all samples so far are bad.
        """
        self._n_good += seen
        for problem in problems:
            self._count_by_kind[problem.kind] += 1
            self._last_key_by_kind[problem.kind] = problem.key
            count = self._count_by_kind[problem.kind]
            is_power_of_two = count.bit_count() == 1
            if count <= LOGGED or is_power_of_two:
                count_text = f" ({count} of this kind so far)" if count > 1 else ""
                _log.warning("bad sample %s%s", problem, count_text)

        n_samples = self._n_good + self.bad
        if n_samples >= self._minimum and self.bad > self._limit * n_samples:
            kind = max(KINDS, key=self._count_by_kind.__getitem__)
            example = ""
            if kind in self._last_key_by_kind:
                example = f", as in {self._last_key_by_kind[kind]}"
            raise UnreadableDataError(
                f"{self.bad} of {n_samples} samples could not be read "
                f"({self.bad / n_samples:.1%}), more than data.max_bad={self._limit:g} allows; "
                f"most often {kind}{example}"
            )

    def state(self) -> dict[str, int]:
        """Return the number of good samples (`read`) and of bad ones by kind, for a snapshot."""
        state = {"read": self._n_good}
        for kind in KINDS:
            state[kind] = self._count_by_kind[kind]
        return state

    def load(self, state: Mapping[str, int]) -> None:
        """Continue from the counts that `state` returned for a snapshot."""
        self._n_good = state["read"]
        self._count_by_kind = Counter({kind: state.get(kind, 0) for kind in KINDS})
