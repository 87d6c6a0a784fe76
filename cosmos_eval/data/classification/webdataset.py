"""A set as CLIP Benchmark's webdataset_builder.py writes it. Imports no torch.

classnames.txt, zeroshot_classification_templates.txt with `{c}` for the class, test/nshards.txt and
test/0.tar, 1.tar...; a sample's `.cls` member holds its class number.
"""

from __future__ import annotations

from pathlib import Path

from cosmos_eval.data.archives import ArchiveSample, numbered_archives, open_archives
from cosmos_eval.data.classification.types import ClassData, make_data
from cosmos_eval.data.clip_benchmark_lists import from_clip_benchmark
from cosmos_eval.data.readers import FileError, MissingFileError, read_text
from cosmos_eval.types import UsageError

_CLASSES = "classnames.txt"
_MOST_DIGITS = 9
_TEMPLATES = "zeroshot_classification_templates.txt"


def read_webdataset(folder: Path) -> ClassData:
    """List the samples of the test split, in the order of the archives; no image is decoded.

    Raises UsageError for files that are missing or of another form, and for labels that are no
    class.
    """
    names = _lines(folder / _CLASSES)
    samples = open_archives(_archives(folder))
    labels = [_label(sample, len(names)) for sample in samples]
    images = [
        (f"{sample.archive.relative_to(folder)}:{sample.key}", sample.image()) for sample in samples
    ]
    data = make_data(_told_apart(names), images, labels)
    return data._replace(prompts=tuple(names), templates=_templates(folder / _TEMPLATES))


def _archives(folder: Path) -> list[Path]:
    path = folder / "test" / "nshards.txt"
    return numbered_archives(folder / "test", " ".join(_lines(path)))


def _templates(path: Path) -> tuple[str, ...] | None:
    if not path.exists():
        return None
    templates = _lines(path)
    for template in templates:
        if template.count("{c}") != 1:
            raise UsageError(
                f"{path}: template {template[:60]!r} must hold '{{c}}' exactly once; prompts for "
                "each class are not supported"
            )
    return tuple(from_clip_benchmark(template) for template in templates)


def _label(sample: ArchiveSample, n_classes: int) -> int:
    text = sample.text("cls").strip()
    if not text.isdecimal() or len(text) > _MOST_DIGITS or int(text) >= n_classes:
        raise UsageError(
            f"{sample.name}.cls holds {text[:40]!r}, which is no class from 0 to {n_classes - 1}"
        )
    return int(text)


def _told_apart(names: list[str]) -> list[str]:
    """Names with their number where several classes have the same one, as in ImageNet."""
    return [
        f"{name} ({number})" if names.count(name) > 1 else name for number, name in enumerate(names)
    ]


def _lines(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in read_text(path).splitlines()]
    except MissingFileError as error:
        raise UsageError(f"expected {path}, which is not there") from error
    except FileError as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    if not lines or "" in lines:
        raise UsageError(f"{path} is empty or has a blank line")
    return lines
