"""Images of classes in folders by torchvision's ImageFolder rules, and in webdataset archives.

ImageNet's validation images may also lie in one folder, with or without their class in the name.
Imports no torch.
"""

import hashlib
import re
import shlex
from collections.abc import Sequence
from operator import attrgetter
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
from cosmos_eval.data.folders import as_tuple, folder_entries, number_distinct, root_of, walk
from cosmos_eval.data.readers import faults_of, read_json
from cosmos_eval.protocols.classification import CLASS_LISTS
from cosmos_eval.types import (
    ClassificationProtocol,
    FacesProtocol,
    MultilabelProtocol,
    RunOptions,
    UsageError,
)

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""IMG_EXTENSIONS of torchvision/datasets/folder.py, which a test compares."""

# Names of ImageNet's 50,000 validation images without folders: in ILSVRC2012_img_val.tar, or with
# the class at the end, in val_images.tar.gz of huggingface.co/datasets/ILSVRC/imagenet-1k.
_FLAT_NAME = re.compile(r"(ILSVRC2012_val_\d{8})(?:_(n\d{8}))?\.JPEG")

# clip_benchmark's webdataset_builder.py writes these files, test/nshards.txt and test/0.tar,
# 1.tar...; the `.cls` member of a sample holds the index of its class.
_CLASSES_FILE = "classnames.txt"
_TEMPLATES_FILE = "zeroshot_classification_templates.txt"
_MAX_DIGITS = 9  # of the index of a class


def find_folder(protocol: ClassificationProtocol, options: RunOptions) -> Path:
    """Return the first of the set's usual folders that exists.

    Raise UsageError that names all of them if none exists.
    """
    root = root_of(protocol, options, protocol.folder)
    paths = [root / path for path in (protocol.folder, *protocol.usual_folders)]
    for path in paths:
        if not path.is_dir():
            continue
        # Any folder may be the data root. It is the set itself only if the protocol says so, or
        # if it holds ImageNet's images or class folders.
        if path != root or protocol.folder == "." or _holds_imagenet(root):
            return path
    if len(paths) == 1:
        if paths[0].exists():
            raise UsageError(f"{paths[0]} is not a folder")
        raise UsageError(f"{protocol.dataset}: expected {paths[0]}, which is not there")
    listed = ", ".join(map(str, paths))
    raise UsageError(f"{protocol.dataset}: expected one of {listed}, none of which is there")


def _holds_imagenet(folder: Path) -> bool:
    """Return whether a folder holds ImageNet's class folders or its validation images."""
    for entry in folder_entries(folder):
        if WORDNET_ID.fullmatch(entry.name) or _FLAT_NAME.fullmatch(entry.name):
            return True
    return False


class FlatImage(NamedTuple):
    """One of ImageNet's validation images outside class folders."""

    name: str
    official_name: str  # its name in ILSVRC2012_img_val.tar
    wordnet_id: str | None  # its class, if it is the end of the name


def list_flat_images(folder: Path) -> list[FlatImage]:
    """List ImageNet's validation images that lie in the folder itself, sorted by name."""
    images = []
    for entry in folder_entries(folder):
        match = _FLAT_NAME.fullmatch(entry.name)
        if match is not None:
            images.append(FlatImage(match[0], f"{match[1]}.JPEG", match[2]))
    return sorted(images)


def must_be_moved(folder: Path, flat_images: Sequence[FlatImage]) -> bool:
    """Return whether flat images must be moved into class folders before they can be read.

    This is so if the name of an image lacks its class, or if the folder has class folders too.
    """
    if not flat_images:
        return False
    has_class_folders = any(WORDNET_ID.fullmatch(entry.name) for entry in folder_entries(folder))
    return has_class_folders or any(image.wordnet_id is None for image in flat_images)


def read_folders(folder: Path, protocol: ClassificationProtocol, options: RunOptions) -> ClassData:
    """List the images of every class folder, without decoding them.

    Raise UsageError for another layout or other classes than the protocol's.
    """
    if protocol.class_list == "imagenet1k":
        flat_images = list_flat_images(folder)
        if flat_images:
            return _read_flat(folder, flat_images, protocol, options)
    class_list = CLASS_LISTS.get(protocol.class_list or "")
    classes = sorted(entry.name for entry in folder_entries(folder) if entry.is_dir())
    if not classes:
        raise UsageError(f"{folder} has no class folders: the layout is {folder}/CLASS/IMAGE")
    if class_list and class_list.numeric and all(map(str.isdecimal, classes)):
        classes.sort(key=int)
    _require_listed_classes(protocol, folder, classes, "class folders")
    return _read_class_folders(folder, classes)


def read_objectnet(folder: Path) -> ClassData:
    """List the images of the ObjectNet classes that are also classes of ImageNet.

    CLIP Benchmark does the same in objectnet.py. Raise UsageError for another layout.
    """
    label_by_folder = _read_mapping(folder / "mappings" / "folder_to_objectnet_label.json")
    imagenet_class_by_label = _read_mapping(folder / "mappings" / "objectnet_to_imagenet_1k.json")
    classes = sorted(
        name for name, label in label_by_folder.items() if label in imagenet_class_by_label
    )
    for name in classes:
        if not (folder / "images" / name).is_dir():
            raise UsageError(f"{folder / 'images'} has no class folder {name}")
    data = _read_class_folders(folder / "images", classes)
    return data._replace(prompts=tuple(label_by_folder[name].lower() for name in classes))


def _read_mapping(path: Path) -> dict[str, str]:
    """Read a JSON object that maps names to texts. Raise UsageError for any other content."""
    with faults_of(f"cannot read {path}: "):
        content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(v, str) for v in content.values()):
        raise UsageError(f"{path} must hold names and texts")
    return content


def _read_class_folders(folder: Path, classes: Sequence[str]) -> ClassData:
    """List the images below the folders of classes, at any depth, in ImageFolder's order.

    Raise UsageError for a class without images.
    """
    paths_by_class: dict[str, list[str]] = {name: [] for name in classes}
    for subfolder, file_names in sorted(walk(folder), key=lambda entry: str(entry[0])):
        relative = subfolder.relative_to(folder)
        if not relative.parts or relative.parts[0] not in paths_by_class:
            continue
        for file_name in sorted(file_names):
            if file_name.lower().endswith(SUFFIXES):
                paths_by_class[relative.parts[0]].append((relative / file_name).as_posix())
    samples = []
    for index, name in enumerate(classes):
        if not paths_by_class[name]:
            raise UsageError(f"class folder {folder / name} has no images ({', '.join(SUFFIXES)})")
        for path in paths_by_class[name]:
            samples.append((path, sources.ImageFile(folder / path), index))
    return make_data(classes, samples)


def _read_flat(
    folder: Path,
    flat_images: Sequence[FlatImage],
    protocol: ClassificationProtocol,
    options: RunOptions,
) -> ClassData:
    """Read images whose names end in their class.

    They get the names and the order that they would have in class folders. Raise UsageError if an
    image does not name its class, and if the protocol has other classes.
    """
    if must_be_moved(folder, flat_images):
        root = shlex.quote(str(protocol.root or options.data_root))
        raise UsageError(
            f"{folder} holds {len(flat_images)} images outside class folders, the first "
            f"{flat_images[0].name}: `cosmos-eval data prepare imagenet --data-root {root}` makes "
            "one folder per class"
        )
    wordnet_ids = sorted({str(image.wordnet_id) for image in flat_images})
    _require_listed_classes(protocol, folder, wordnet_ids, "classes in the names of its images")
    index_by_wordnet_id = number_distinct(wordnet_ids)
    samples = []
    for image in sorted(flat_images, key=attrgetter("wordnet_id", "official_name", "name")):
        name = f"{image.wordnet_id}/{image.official_name}"
        source = sources.ImageFile(folder / image.name)
        samples.append((name, source, index_by_wordnet_id[image.wordnet_id]))
    return make_data(wordnet_ids, samples)


def is_subset_of_list(protocol: ClassificationProtocol, classes: Sequence[str]) -> bool:
    """Return whether a user's YAML names a class list that has all classes of the data."""
    if protocol.class_list is None or protocol.n_classes is not None:
        return False
    return {*classes} <= {*listed_classes(protocol.class_list)}


def _require_listed_classes(
    protocol: ClassificationProtocol, folder: Path, classes: list[str], origin: str
) -> None:
    """Raise UsageError unless the classes are those in the class list of the protocol.

    `origin` says in the message where the classes were read. A user's data may have a subset of
    a list's classes.
    """
    class_list = CLASS_LISTS.get(protocol.class_list or "")
    if class_list is None or class_list.classes_sha256 is None:
        return
    if is_subset_of_list(protocol, classes):
        return
    sha256 = hashlib.sha256("\n".join(classes).encode(errors="surrogateescape")).hexdigest()
    if sha256 != class_list.classes_sha256:
        raise UsageError(
            f"{folder} has {len(classes)} {origin}, which are not the {class_list.n_classes} "
            f"{class_list.classes} of {protocol.class_list}{class_differences(protocol, classes)}"
        )


def read_webdataset(folder: Path, protocol: ClassificationProtocol) -> ClassData:
    """List the samples of the test split in the order of the archives.

    Names of classes may be blank if there are exactly `protocol.n_classes` of them. Raise
    UsageError for any fault.
    """
    prompt_names = _read_lines(folder / _CLASSES_FILE, protocol.n_classes)
    templates = _read_templates(folder / _TEMPLATES_FILE)
    archives = sources.numbered_archives(folder / "test")
    samples = sources.open_archives(archives)
    labelled_images = []
    for sample in samples:
        name = f"{sample.archive.relative_to(folder)}:{sample.key}"
        image = sample.image()
        label = _read_label(sample, protocol, len(prompt_names))
        labelled_images.append((name, image, label))
    data = make_data(_make_names_distinct(prompt_names), labelled_images)
    data = data._replace(prompts=tuple(prompt_names), templates=templates or None)
    if protocol.metadata:
        data = data.grouped([_group_name(sample, protocol) for sample in samples])
    return data


def _make_names_distinct(names: Sequence[str]) -> list[str]:
    """Return the names, with the class index added to those that are blank or not unique.

    `["crane", "crane", ""]` gives `["crane (0)", "crane (1)", "(2)"]`. Several classes of ImageNet
    have the same name, and the fourth distance of CLEVR has none.
    """
    distinct = []
    for index, name in enumerate(names):
        if name and names.count(name) == 1:
            distinct.append(name)
        else:
            distinct.append(f"{name} ({index})".strip())
    return distinct


def _read_templates(path: Path) -> tuple[str, ...]:
    """Read prompt templates, with `{}` for the class, if the file exists."""
    if not path.exists():
        return ()
    templates = _read_lines(path)
    for template in templates:
        if template.count("{c}") != 1:
            raise UsageError(
                f"{path}: template {template[:60]!r} must hold '{{c}}' exactly once; prompts for "
                "each class are not supported"
            )
    return tuple(template.replace("{c}", "{}") for template in templates)


def _group_name(sample: sources.ArchiveSample, protocol: ClassificationProtocol) -> str:
    """Return the name of a sample's group, such as `region 3`, from numbers in its .npy member.

    The member holds one number for each of `protocol.metadata`. The numbers of
    `protocol.group_keys` make the name.
    """
    metadata = sample.vector(len(protocol.metadata), exact=False)
    labels = []
    for key in as_tuple(protocol.group_keys):
        value = metadata[protocol.metadata.index(key)]
        if value < 0 or value != int(value):
            raise UsageError(f"{sample.name}.npy: `{key}` must be 0, 1, 2..., not {value}")
        labels.append(f"{key} {int(value)}")
    return ", ".join(labels)


def _read_label(
    sample: sources.ArchiveSample, protocol: ClassificationProtocol, n_classes: int
) -> Any:
    """Return the label of a sample, in the form that ClassData.labels has for the protocol."""
    if isinstance(protocol, MultilabelProtocol):
        return _read_multilabel(sample, n_classes)
    if isinstance(protocol, FacesProtocol):
        return _read_face_labels(sample)
    return _read_class_index(sample, n_classes)


def _read_multilabel(sample: sources.ArchiveSample, n_classes: int) -> NDArray[Any]:
    """Return whether the image shows each class (C,)."""
    labels = sample.vector(n_classes)
    if not np.isin(labels, (0, 1)).all():
        raise UsageError(f"{sample.name}.npy must hold 0 and 1, not {labels.min()}, {labels.max()}")
    return labels.astype(bool)


def _read_face_labels(sample: sources.ArchiveSample) -> NDArray[Any]:
    """Return the labels (4,) of a face.

    They are the indices of age, gender and race, and last 0 for white or 1 for any other race.
    """
    labels = sample.vector(4, exact=False)[:4]
    if (labels < 0).any() or (labels != labels.astype(np.int64)).any():
        raise UsageError(f"{sample.name}.npy must hold 0, 1, 2..., not {labels.tolist()}")
    return labels.astype(np.int64)


def _read_class_index(sample: sources.ArchiveSample, n_classes: int) -> int:
    """Return the index of the sample's class. Raise UsageError for any other number."""
    text = sample.text("cls").strip()
    if not text.isdecimal() or len(text) > _MAX_DIGITS or int(text) >= n_classes:
        raise UsageError(
            f"{sample.name}.cls holds {text[:40]!r}, which is not a class from 0 to {n_classes - 1}"
        )
    return int(text)


def _read_lines(path: Path, n_with_blanks: int | None = None) -> list[str]:
    """Read the lines of a file. Raise UsageError for a blank line or an empty file.

    A file of exactly `n_with_blanks` lines may have blank ones.
    """
    lines = [line.strip() for line in sources.read_layout_file(path).splitlines()]
    if not lines or ("" in lines and len(lines) != n_with_blanks):
        raise UsageError(f"{path} is empty or has a blank line")
    return lines
