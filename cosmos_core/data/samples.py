"""From the files of a sample to views and batches, and what happens to samples that are broken."""

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
# github.com/zyf0619sjtu/DreamLIP: raw, then short and long captions of three captioners.
DREAMLIP_KEYS = (
    "raw_caption",
    *(f"{length}{name}_captions" for name in ("IB", "SV", "LLA") for length in ("short", "long")),
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
LOGGED = 3  # problems of each kind; after that each time their number has doubled

_log = logging.getLogger(__name__)

Tokenizer = Callable[[list[str]], Tensor]  # texts -> token ids (N, S)
SampleViews = tuple[ImageViews, list[str]]  # the views of one sample: uint8 images and T captions


class Problem(NamedTuple):
    """A sample that cannot be read: one of `KINDS`, its key, and where and why, in one line."""

    kind: str
    key: str
    detail: str

    def __str__(self) -> str:
        return f"{self.key}: {self.kind}: {self.detail}"


class BadSampleError(ValueError):
    """Raised where a sample cannot be read; `kind` is one of `KINDS`."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind

    def problem(self, shard: str, key: str) -> Problem:
        """Describe the error; names in tars may hold bytes that are no text, which are escaped."""
        line = " ".join(f"{shard}: {self}".split())
        key, line = (text.encode("utf-8", "backslashreplace").decode() for text in (key, line))
        return Problem(self.kind, key, line)


class UnreadableDataError(ValueError):
    """Too many samples cannot be read for training to go on."""


class StreamPosition(NamedTuple):
    """How far a worker has come in its stream, of plain numbers.

    A pass reads all shards of the worker once. The order in which samples leave the shuffle buffer
    follows from the seed and from how many came in and out. So these numbers tell which samples are
    in the buffer, and it is filled again from the shards that have them.
    """

    number: int = 0  # of the pass, counted from 0
    taken: int = 0  # samples of this pass that have left the buffer
    good: int = 0  # samples among them that could be decoded
    whole: tuple[int, ...] = ()  # samples in each shard of this pass that was read to its end
    begun: int = 0  # samples read of the next shard


class Batch(NamedTuple):
    """The uint8 views of B good samples, and the bad samples met on the way to them."""

    views: Views
    problems: tuple[Problem, ...]
    lane: int = 0  # of the worker that read it from streams
    position: StreamPosition | None = None  # of this worker after it


Item = Batch | UnreadableDataError
"""What a worker hands on; a raised error would arrive with the worker's traceback."""


class RawSample(NamedTuple):
    """The files of a sample; None where there is none."""

    image: bytes | None
    record: bytes | None


class Sample(NamedTuple):
    """A decoded sample: an RGB image and at least one caption sentence."""

    image: PIL.Image.Image
    sentences: list[str]


def caption_sentences(record: Mapping[str, Any]) -> list[str]:
    """Return all sentences of a sample's JSON record, stripped, at least one. A caption of DreamLIP
    is a list of sentences, or a text that is split into them (as FLAIR's presplit_captions.py,
    github.com/ExplainableML/flair, does). PixelProse has an original caption, kept whole, and a
    text. Raises BadSampleError for missing captions and for other types."""
    if any(key in record for key in DREAMLIP_KEYS):
        found = [_sentences(key, record[key]) for key in DREAMLIP_KEYS if key in record]
    elif any(key in record for key in PIXELPROSE_KEYS):
        original, text = (_require_text(key, record.get(key, "")) for key in PIXELPROSE_KEYS)
        found = [[original], split_sentences(text)]
    else:
        keys = ", ".join(sorted(record)) or "none"
        raise BadSampleError("captions_missing", f"no caption key among: {keys}")
    sentences = [stripped for group in found for part in group if (stripped := part.strip())]
    if not sentences:
        raise BadSampleError("captions_missing", "every caption is empty")
    return sentences


def _sentences(key: str, value: Any) -> list[str]:
    if isinstance(value, list):
        return [_require_text(key, sentence) for sentence in value]
    return split_sentences(_require_text(key, value))


def _require_text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise BadSampleError("captions_wrong", f"{key} holds a {type(value).__name__}, not text")
    try:
        value.encode()  # JSON can spell half a surrogate pair, which no tokenizer takes
    except UnicodeEncodeError as error:
        raise BadSampleError("captions_wrong", f"{key} is no valid Unicode") from error
    return value


def decode_sample(raw: RawSample) -> Sample:
    """Decode both files of a sample. Raises BadSampleError and nothing else, whatever they hold."""
    if raw.record is None:
        raise BadSampleError("record_missing", "no json")
    try:
        record = json.loads(raw.record)
    except (ValueError, RecursionError) as error:
        raise BadSampleError("record_broken", f"invalid JSON ({error})") from error
    if not isinstance(record, dict):
        kind = type(record).__name__
        raise BadSampleError("record_broken", f"JSON holds a {kind}, not an object")
    sentences = caption_sentences(record)
    return Sample(_decode_image(raw.image), sentences)


def _decode_image(data: bytes | None) -> PIL.Image.Image:
    if data is None:
        raise BadSampleError("image_missing", "no jpg, jpeg, png or webp")
    # Imported code may have allowed it, but half an image is another image.
    PIL.ImageFile.LOAD_TRUNCATED_IMAGES = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of harmless oddities in metadata
        warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
        try:
            return to_rgb(open_image(io.BytesIO(data)))
        except (PIL.Image.DecompressionBombWarning, PIL.Image.DecompressionBombError) as error:
            raise BadSampleError("image_too_large", str(error)) from error
        except PIL.UnidentifiedImageError as error:
            raise BadSampleError("image_broken", f"{len(data)} bytes of no known format") from error
        except Exception as error:  # Pillow does not document what its decoders raise
            reason = str(error) or type(error).__name__
            raise BadSampleError("image_broken", f"{len(data)} bytes, {reason}") from error


class ViewMaker:
    """Makes decoded samples into views, and views into batches."""

    def __init__(self, config: TrainConfig, tokenizer: Tokenizer) -> None:
        self._texts, self._counts = config.text, config.method.counts
        self._crops = MultiCrop(config.image, self._counts)
        self._tokenizer = tokenizer

    def views(self, sample: Sample, seed: Sequence[int]) -> SampleViews:
        """Make the views that a seed, a few whole numbers >= 0, decides."""
        rng = np.random.default_rng(seed)
        captions = caption_views(sample.sentences, self._texts, rng, self._counts)
        return self._crops(sample.image, rng), captions

    def batch(self, samples: Sequence[SampleViews], problems: Sequence[Problem]) -> Batch:
        """Stack the views of B samples, view-major: (G, B, 3, H, W), (L, B, 3, h, w), (T, B, S)."""
        tokens = self._tokenizer([text for _, captions in samples for text in captions])
        texts = tokens.unflatten(0, (len(samples), -1)).transpose(0, 1).contiguous()
        large, small = zip(*(images for images, _ in samples), strict=True)
        return Batch(Views(torch.stack(large, 1), torch.stack(small, 1), texts), tuple(problems))


class ProblemCounter:
    """Counts bad samples of this process by kind, logs some, and stops a run where more than the
    fraction `limit` of all samples are bad, once `minimum` have been read."""

    def __init__(self, limit: float, *, minimum: int = 200) -> None:
        self._limit, self._minimum = limit, minimum
        self._read = 0
        self._counts = Counter[str]()
        self._examples: dict[str, str] = {}

    @property
    def bad(self) -> int:
        """Bad samples so far."""
        return self._counts.total()

    def add(self, problems: Iterable[Problem], *, seen: int) -> None:
        """Count the bad samples among `seen` good ones. Raises UnreadableDataError if too many."""
        self._read += seen
        for problem in problems:
            self._counts[problem.kind] += 1
            self._examples[problem.kind] = problem.key
            count = self._counts[problem.kind]
            if count <= LOGGED or count.bit_count() == 1:
                so_far = f" ({count} of this kind so far)" if count > 1 else ""
                _log.warning("bad sample %s%s", problem, so_far)
        total = self._read + self.bad
        if total >= self._minimum and self.bad > self._limit * total:
            kind = max(KINDS, key=self._counts.__getitem__)
            example = f", as in {self._examples[kind]}" if kind in self._examples else ""
            raise UnreadableDataError(
                f"{self.bad} of {total} samples could not be read ({self.bad / total:.1%}), more "
                f"than data.max_bad={self._limit:g} allows; most often {kind}{example}"
            )

    def state(self) -> dict[str, int]:
        """Return the counts as plain numbers for a snapshot."""
        return {"read": self._read, **{kind: self._counts[kind] for kind in KINDS}}

    def load(self, state: Mapping[str, int]) -> None:
        """Continue from the counts of a snapshot."""
        self._read = state["read"]
        self._counts = Counter({kind: state.get(kind, 0) for kind in KINDS})
