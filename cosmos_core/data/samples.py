"""Decode the files of a sample, make views and batches of samples, and count broken samples."""

import io
import json
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
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
# So many problems of each kind are logged, and after that one each time their number has doubled.
LOGGED = 3

_log = logging.getLogger(__name__)

Tokenizer = Callable[[list[str]], Tensor]  # texts -> token ids (N, S)
SampleViews = tuple[ImageViews, list[str]]  # the views of one sample: uint8 images and T captions


class Problem(NamedTuple):
    """A description of a sample that cannot be read."""

    kind: str  # one of KINDS
    key: str
    detail: str  # the shard and the reason, in one line

    def __str__(self) -> str:
        return f"{self.key}: {self.kind}: {self.detail}"


class BadSampleError(ValueError):
    """A sample cannot be read; `kind` is one of KINDS."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind

    def problem(self, shard: str, key: str) -> Problem:
        """Return the error as a problem of a sample.

        Names in tars may hold bytes that are not valid text; they are escaped.
        """
        detail = " ".join(f"{shard}: {self}".split())
        return Problem(self.kind, _escape_surrogates(key), _escape_surrogates(detail))


def _escape_surrogates(text: str) -> str:
    """Return a text in which bytes that are not UTF-8, such as `\\udcff`, are spelled out."""
    return text.encode("utf-8", "backslashreplace").decode()


class UnreadableDataError(ValueError):
    """Too many samples cannot be read for training to go on."""


class StreamPosition(NamedTuple):
    """The position of a worker in its stream, in plain numbers.

    In a pass the worker reads all of its shards once. The order in which samples leave the shuffle
    buffer follows from the seed and from the numbers of samples that have come in and gone out. So
    these numbers tell which samples are in the buffer, and they can be read again.
    """

    # The number of the pass, counted from 0.
    number: int = 0
    # Samples of this pass that have left the buffer.
    taken: int = 0
    # Samples among them that could be decoded.
    good: int = 0
    # The number of samples in each shard of this pass that was read to its end.
    whole: tuple[int, ...] = ()
    # Samples that were read of the next shard.
    begun: int = 0

    @property
    def n_entries_read(self) -> int:
        """The number of samples of this pass that were read."""
        return sum(self.whole) + self.begun


class Batch(NamedTuple):
    """A batch of B good samples."""

    # The uint8 views.
    views: Views
    # Bad samples that were read on the way to the good ones.
    problems: tuple[Problem, ...]
    # The worker that read the batch from streams, and its position after it.
    lane: int = 0
    position: StreamPosition | None = None


Item = Batch | UnreadableDataError
"""The result of a worker. An error is returned, because a raised one has a worker's traceback."""


class RawSample(NamedTuple):
    """The contents of a sample's files; None for a missing file."""

    image: bytes | None
    record: bytes | None


class Sample(NamedTuple):
    """A decoded sample: an RGB image and at least one caption sentence."""

    image: PIL.Image.Image
    sentences: list[str]


def caption_sentences(record: Mapping[str, Any]) -> list[str]:
    """Return all sentences of a sample's JSON record, stripped; at least one.

    A caption of DreamLIP is a list of sentences, or a text that is split into sentences, as FLAIR's
    presplit_captions.py does (github.com/ExplainableML/flair). PixelProse has an original caption,
    which is not split, and a text, which is. Raises BadSampleError for missing captions and for
    other types.
    """
    sentences = []
    if any(key in record for key in DREAMLIP_KEYS):
        for key in DREAMLIP_KEYS:
            if key in record:
                sentences += _dreamlip_sentences(key, record[key])
    elif any(key in record for key in PIXELPROSE_KEYS):
        original_key, text_key = PIXELPROSE_KEYS
        sentences.append(_require_text(original_key, record.get(original_key, "")))
        sentences += split_sentences(_require_text(text_key, record.get(text_key, "")))
    else:
        keys = ", ".join(sorted(record)) or "none"
        raise BadSampleError("captions_missing", f"no caption key among: {keys}")
    stripped_sentences = [sentence.strip() for sentence in sentences]
    stripped_sentences = [sentence for sentence in stripped_sentences if sentence]
    if not stripped_sentences:
        raise BadSampleError("captions_missing", "every caption is empty")
    return stripped_sentences


def _dreamlip_sentences(key: str, value: Any) -> list[str]:
    """Return the sentences of a DreamLIP caption, which is a list of sentences or a text."""
    if isinstance(value, list):
        return [_require_text(key, sentence) for sentence in value]
    return split_sentences(_require_text(key, value))


def _require_text(key: str, value: Any) -> str:
    """Return a value that is valid text. Raises BadSampleError for other values."""
    if not isinstance(value, str):
        raise BadSampleError("captions_wrong", f"{key} holds a {type(value).__name__}, not text")
    try:
        value.encode()  # JSON can spell half a surrogate pair, which no tokenizer takes
    except UnicodeEncodeError as error:
        raise BadSampleError("captions_wrong", f"{key} is not valid Unicode") from error
    return value


def decode_sample(raw: RawSample) -> Sample:
    """Decode both files of a sample. Raises BadSampleError, and no other error, if it is broken."""
    if raw.record is None:
        raise BadSampleError("record_missing", "no json")
    try:
        record = json.loads(raw.record)
    except (ValueError, RecursionError) as error:
        raise BadSampleError("record_broken", f"invalid JSON ({error})") from error
    if not isinstance(record, dict):
        type_name = type(record).__name__
        raise BadSampleError("record_broken", f"JSON holds a {type_name}, not an object")
    sentences = caption_sentences(record)
    return Sample(_decode_image(raw.image), sentences)


def _decode_image(data: bytes | None) -> PIL.Image.Image:
    """Return an image file in RGB. Raises BadSampleError if it is missing or cannot be read."""
    if data is None:
        raise BadSampleError("image_missing", "no jpg, jpeg, png or webp")
    # Imported code may have set it, but half an image is another image.
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
    """Makes views of decoded samples, and batches of views."""

    def __init__(self, config: TrainConfig, tokenizer: Tokenizer) -> None:
        self._text_config = config.text
        self._view_counts = config.method.counts
        self._make_image_views = MultiCrop(config.image, self._view_counts)
        self._tokenizer = tokenizer

    def views(self, sample: Sample, seed: Sequence[int]) -> SampleViews:
        """Return views of a sample that follow from a seed, a sequence of integers >= 0."""
        rng = np.random.default_rng(seed)
        captions = caption_views(sample.sentences, self._text_config, rng, self._view_counts)
        return self._make_image_views(sample.image, rng), captions

    def batch(self, samples: Sequence[SampleViews], problems: Sequence[Problem]) -> Batch:
        """Stack the views of B samples to (G, B, 3, H, W), (L, B, 3, h, w) and (T, B, S)."""
        captions = []
        for _, sample_captions in samples:
            captions += sample_captions
        tokens = self._tokenizer(captions)
        views = Views(
            global_images=torch.stack([images.global_images for images, _ in samples], 1),
            local_images=torch.stack([images.local_images for images, _ in samples], 1),
            texts=tokens.unflatten(0, (len(samples), -1)).transpose(0, 1).contiguous(),
        )
        return Batch(views, tuple(problems))


class ProblemCounter:
    """Counts bad samples of this process by kind, and logs some of them.

    It stops a run if more than the fraction `limit` of all samples are bad, once `minimum` samples
    have been read.
    """

    def __init__(self, limit: float, *, minimum: int = 200) -> None:
        self._limit = limit
        self._minimum = minimum
        self._good = 0
        # The number of bad samples by kind, and the key of the last one.
        self._counts = Counter[str]()
        self._last_keys: dict[str, str] = {}

    @property
    def bad(self) -> int:
        """The number of bad samples so far."""
        return self._counts.total()

    def add(self, problems: Iterable[Problem], *, seen: int) -> None:
        """Count bad samples, and `seen` good ones that were read with them.

        Raises UnreadableDataError if too many samples are bad.
        """
        self._good += seen
        for problem in problems:
            self._counts[problem.kind] += 1
            self._last_keys[problem.kind] = problem.key
            count = self._counts[problem.kind]
            is_power_of_two = count.bit_count() == 1
            if count <= LOGGED or is_power_of_two:
                so_far = f" ({count} of this kind so far)" if count > 1 else ""
                _log.warning("bad sample %s%s", problem, so_far)
        total = self._good + self.bad
        if total >= self._minimum and self.bad > self._limit * total:
            kind = max(KINDS, key=self._counts.__getitem__)
            example = f", as in {self._last_keys[kind]}" if kind in self._last_keys else ""
            raise UnreadableDataError(
                f"{self.bad} of {total} samples could not be read ({self.bad / total:.1%}), more "
                f"than data.max_bad={self._limit:g} allows; most often {kind}{example}"
            )

    def state(self) -> dict[str, int]:
        """Return the counts as plain numbers for a snapshot."""
        state = {"read": self._good}
        for kind in KINDS:
            state[kind] = self._counts[kind]
        return state

    def load(self, state: Mapping[str, int]) -> None:
        """Continue from the counts of a snapshot."""
        self._good = state["read"]
        self._counts = Counter({kind: state.get(kind, 0) for kind in KINDS})
