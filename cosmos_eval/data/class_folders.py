"""Images of classes in folders by torchvision's ImageFolder rules, and in webdataset archives.

ImageNet's validation images may also lie in one folder, with or without their class in the name.
Imports no torch.
"""

import hashlib
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.data import sources
from cosmos_eval.data.class_names import (
    WORDNET_ID,
    ClassData,
    class_differences,
    listed_classes,
    make_data,
)
from cosmos_eval.data.folders import folder_entries, root_of, several, walk
from cosmos_eval.data.readers import faults_of, read_json
from cosmos_eval.protocols.classification import CLASS_LISTS
from cosmos_eval.types import (
    ClassificationProtocol,
    FacesProtocol,
    MultilabelProtocol,
    RunOptions,
    UsageError,
)

# torchvision/datasets/folder.py, IMG_EXTENSIONS (compared by a test).
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")

# ImageNet's 50,000 validation images without folders: as ILSVRC2012_img_val.tar names them, and
# with the class at the end, as in val_images.tar.gz of huggingface.co/datasets/ILSVRC/imagenet-1k.
_FLAT = re.compile(r"(ILSVRC2012_val_\d{8})(?:_(n\d{8}))?\.JPEG")

# clip_benchmark's webdataset_builder.py writes these, test/nshards.txt and test/0.tar, 1.tar...; a
# sample's `.cls` member holds the index of its class.
_CLASSES = "classnames.txt"
_TEMPLATES = "zeroshot_classification_templates.txt"
_MOST_DIGITS = 9


def find_folder(protocol: ClassificationProtocol, options: RunOptions) -> Path:
    """Return the first of the set's usual folders that exists. Raises UsageError naming all."""
    root = root_of(protocol, options, protocol.folder)
    paths = [root / path for path in (protocol.folder, *protocol.usual_folders)]
    for path in paths:
        # Any folder may be the data root: it is the set only where it looks like it.
        if path.is_dir() and (path != root or protocol.folder == "." or _holds_imagenet(root)):
            return path
    if len(paths) == 1:
        if paths[0].exists():
            raise UsageError(f"{paths[0]} is not a folder")
        raise UsageError(f"{protocol.dataset}: expected {paths[0]}, which is not there")
    listed = ", ".join(map(str, paths))
    raise UsageError(f"{protocol.dataset}: expected one of {listed}, none of which is there")


def _holds_imagenet(folder: Path) -> bool:
    names = (entry.name for entry in folder_entries(folder))
    return any(WORDNET_ID.fullmatch(name) or _FLAT.fullmatch(name) for name in names)


class FlatImage(NamedTuple):
    """One of ImageNet's validation images outside class folders."""

    name: str
    usual: str  # the name that ILSVRC2012_img_val.tar gives it
    wordnet_id: str | None  # the end of `name`


def flat_images(folder: Path) -> list[FlatImage]:
    """List ImageNet's validation images that lie in the folder itself, sorted by name."""
    matches = (_FLAT.fullmatch(entry.name) for entry in folder_entries(folder))
    return sorted(FlatImage(match[0], f"{match[1]}.JPEG", match[2]) for match in matches if match)


def must_be_sorted(folder: Path, flat: Sequence[FlatImage]) -> bool:
    """Tell whether any image does not name its class, or others are in class folders already."""
    has_folders = any(WORDNET_ID.fullmatch(entry.name) for entry in folder_entries(folder))
    return bool(flat) and (has_folders or any(image.wordnet_id is None for image in flat))


def read_folders(folder: Path, protocol: ClassificationProtocol, options: RunOptions) -> ClassData:
    """List the images of every class, undecoded. Raises UsageError for another layout or class."""
    if protocol.class_list == "imagenet1k" and (flat := flat_images(folder)):
        return _read_flat(folder, flat, protocol, options)
    class_list = CLASS_LISTS.get(protocol.class_list or "")
    classes = sorted(entry.name for entry in folder_entries(folder) if entry.is_dir())
    if not classes:
        raise UsageError(f"{folder} has no class folders: the layout is {folder}/CLASS/IMAGE")
    if class_list and class_list.numeric and all(map(str.isdecimal, classes)):
        classes.sort(key=int)  # names that are no numbers fail by the list's hash
    _require_list(protocol, folder, classes)
    return _read_classes(folder, classes)


def read_objectnet(folder: Path) -> ClassData:
    """List the images of ObjectNet's classes that ImageNet has too, as CLIP Benchmark does in
    objectnet.py. Raises UsageError for another layout."""
    label_of = _texts(folder / "mappings" / "folder_to_objectnet_label.json")
    shared = _texts(folder / "mappings" / "objectnet_to_imagenet_1k.json")
    classes = sorted(name for name, label in label_of.items() if label in shared)
    for name in classes:
        if not (folder / "images" / name).is_dir():
            raise UsageError(f"{folder / 'images'} has no class folder {name}")
    data = _read_classes(folder / "images", classes)
    return data._replace(prompts=tuple(label_of[name].lower() for name in classes))


def _texts(path: Path) -> dict[str, str]:
    with faults_of(f"cannot read {path}: "):
        content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(v, str) for v in content.values()):
        raise UsageError(f"{path} must hold names and texts")
    return content


def _read_classes(folder: Path, classes: Sequence[str]) -> ClassData:
    """List the images of the folders of classes. Raises UsageError for an empty one."""
    images: dict[str, list[str]] = {name: [] for name in classes}
    # In ImageFolder's order, at any depth.
    for at, names in sorted(walk(folder), key=lambda found: str(found[0])):
        if at != folder:
            below = at.relative_to(folder)
            files = (file for file in sorted(names) if file.lower().endswith(SUFFIXES))
            if below.parts[0] in images:
                images[below.parts[0]] += [(below / file).as_posix() for file in files]
    if empty := [name for name in classes if not images[name]]:
        raise UsageError(f"class folder {folder / empty[0]} has no images ({', '.join(SUFFIXES)})")
    samples = (
        (path, sources.ImageFile(folder / path), index)
        for index, name in enumerate(classes)
        for path in images[name]
    )
    return make_data(classes, samples)


def _read_flat(
    folder: Path, flat: Sequence[FlatImage], protocol: ClassificationProtocol, options: RunOptions
) -> ClassData:
    """Read images that name their class, under the names and in the order of class folders."""
    if must_be_sorted(folder, flat):
        root = shlex.quote(str(protocol.root or options.data_root))
        raise UsageError(
            f"{folder} holds {len(flat)} images outside class folders, the first {flat[0].name}: "
            f"`cosmos-eval data prepare imagenet --data-root {root}` makes one folder per class"
        )
    images = sorted((str(image.wordnet_id), image.usual, image.name) for image in flat)
    index_of = {wnid: index for index, wnid in enumerate(dict.fromkeys(w for w, _, _ in images))}
    _require_list(protocol, folder, list(index_of), "classes in the names of its images")
    samples = (
        (f"{wnid}/{usual}", sources.ImageFile(folder / name), index_of[wnid])
        for wnid, usual, name in images
    )
    return make_data(list(index_of), samples)


def is_subset_of_list(protocol: ClassificationProtocol, classes: Sequence[str]) -> bool:
    """Tell whether a user's classes are in the list that the user's YAML names."""
    if protocol.class_list is None or protocol.n_classes is not None:
        return False
    return {*classes} <= {*listed_classes(protocol.class_list)}


def _require_list(
    protocol: ClassificationProtocol, folder: Path, classes: list[str], what: str = "class folders"
) -> None:
    """Raise UsageError for other classes than a known set's, or than a user's list has."""
    expected = CLASS_LISTS.get(protocol.class_list or "")
    if is_subset_of_list(protocol, classes):
        return
    found = hashlib.sha256("\n".join(classes).encode(errors="surrogateescape")).hexdigest()
    if expected and expected.classes_sha256 not in (None, found):
        raise UsageError(
            f"{folder} has {len(classes)} {what}, which are not the {expected.n_classes} "
            f"{expected.classes} of {protocol.class_list}{class_differences(protocol, classes)}"
        )


def read_webdataset(folder: Path, protocol: ClassificationProtocol) -> ClassData:
    """List the samples of the test split in the archives' order; with `n_classes`, that many may
    have blank names. Raises UsageError."""
    names = _lines(folder / _CLASSES, protocol.n_classes)
    # Several classes may have the same name, as in ImageNet, and CLEVR's fourth distance has none.
    distinct = [
        f"{name} ({i})".strip() if not name or names.count(name) > 1 else name
        for i, name in enumerate(names)
    ]
    path = folder / _TEMPLATES
    templates = _lines(path) if path.exists() else []
    for template in (template for template in templates if template.count("{c}") != 1):
        raise UsageError(
            f"{path}: template {template[:60]!r} must hold '{{c}}' exactly once; prompts for "
            "each class are not supported"
        )
    prompts = tuple(template.replace("{c}", "{}") for template in templates)
    samples = sources.open_archives(sources.numbered_archives(folder / "test"))
    label = _LABELS.get(type(protocol), _label)
    listed = (
        (f"{one.archive.relative_to(folder)}:{one.key}", one.image(), label(one, len(names)))
        for one in samples
    )
    data = make_data(distinct, listed)._replace(prompts=tuple(names), templates=prompts or None)
    return data.grouped([_group(one, protocol) for one in samples]) if protocol.metadata else data


def _group(sample: sources.ArchiveSample, protocol: ClassificationProtocol) -> str:
    """Name the group of a sample by the numbers that its .npy holds, such as `region 3`."""
    found = sample.vector(len(protocol.metadata), exact=False)
    values = {key: found[protocol.metadata.index(key)] for key in several(protocol.group_keys)}
    for key, value in values.items():
        if value < 0 or value != int(value):
            raise UsageError(f"{sample.name}.npy: `{key}` must be 0, 1, 2..., not {value}")
    return ", ".join(f"{key} {int(value)}" for key, value in values.items())


def _labels(sample: sources.ArchiveSample, n_classes: int) -> NDArray[Any]:
    labels = sample.vector(n_classes)
    if not np.isin(labels, (0, 1)).all():
        raise UsageError(f"{sample.name}.npy must hold 0 and 1, not {labels.min()}, {labels.max()}")
    return labels.astype(bool)


def _of_face(sample: sources.ArchiveSample, _: int) -> NDArray[Any]:
    labels = sample.vector(4, exact=False)[:4]
    if (labels < 0).any() or (labels != labels.astype(np.int64)).any():
        raise UsageError(f"{sample.name}.npy must hold 0, 1, 2..., not {labels.tolist()}")
    return labels.astype(np.int64)


def _label(sample: sources.ArchiveSample, n_classes: int) -> int:
    text = sample.text("cls").strip()
    if not text.isdecimal() or len(text) > _MOST_DIGITS or int(text) >= n_classes:
        raise UsageError(
            f"{sample.name}.cls holds {text[:40]!r}, which is no class from 0 to {n_classes - 1}"
        )
    return int(text)


_LABELS: Mapping[type, Callable[[sources.ArchiveSample, int], Any]] = {
    MultilabelProtocol: _labels,
    FacesProtocol: _of_face,
}


def _lines(path: Path, expected: int | None = None) -> list[str]:
    lines = [line.strip() for line in sources.read_layout_file(path).splitlines()]
    if not lines or ("" in lines and len(lines) != expected):
        raise UsageError(f"{path} is empty or has a blank line")
    return lines
