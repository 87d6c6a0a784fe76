"""Images of classes in folders by torchvision's ImageFolder rules, and in webdataset archives.

ImageNet's validation images may also lie in one folder, with or without their class in the name.
Imports no torch.
"""

import hashlib
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.data import sources
from cosmos_eval.data.altered_images import join_severities
from cosmos_eval.data.class_names import (
    WORDNET_ID,
    ClassData,
    describe_class_differences,
    make_data,
    read_folder_names,
)
from cosmos_eval.data.folders import (
    as_tuple,
    folder_entries,
    number_distinct,
    root_of,
    walk_folders,
)
from cosmos_eval.data.readers import read_json, report_faults_at
from cosmos_eval.protocols.classification import CLASS_LISTS
from cosmos_eval.types import (
    ClassificationProtocol,
    FacesProtocol,
    MultilabelProtocol,
    RunOptions,
    UsageError,
)
from cosmos_eval.types.protocols import SEVERITIES

# IMG_EXTENSIONS of torchvision/datasets/folder.py, then Pillow's other suffixes of the formats that
# are decoded (cosmos_core/data/pixels.py). A test compares both.
SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"),
    *(".gif", ".jfif", ".jpe", ".mpo", ".apng", ".pbm", ".pnm"),
    *(".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
)
"""Suffixes of image files in lower case."""
UNREADABLE_IMAGES = (".avif", ".heic", ".heif", ".jxl", ".svg", ".dng", ".tga", ".psd")
"""Suffixes of other images, which are not read."""

# Names of ImageNet's 50,000 validation images without folders: in ILSVRC2012_img_val.tar, or with
# the class at the end, in val_images.tar.gz of huggingface.co/datasets/ILSVRC/imagenet-1k.
_FLAT_NAME = re.compile(r"(ILSVRC2012_val_\d{8})(?:_(n\d{8}))?\.JPEG")

# clip_benchmark's webdataset_builder.py writes these files, test/nshards.txt and test/0.tar,
# 1.tar...; the `.cls` member of a sample holds the index of its class.
_CLASSES_FILE = "classnames.txt"
_TEMPLATES_FILE = "zeroshot_classification_templates.txt"
_MAX_INDEX_DIGITS = 9  # digits of the index of a class


def find_folder(protocol: ClassificationProtocol, options: RunOptions) -> Path:
    """Return the folder of a data set, which is the first of its usual folders that exists.

    Raise UsageError, which names all usual folders, if none of them exists.
    """
    root = root_of(protocol, options, protocol.folder)
    paths = [root / path for path in (protocol.folder, *protocol.usual_folders)]
    for path in paths:
        if not path.is_dir():
            continue
        # The data root exists for every data set. It is the folder of this one only if the protocol
        # says so, or if ImageNet's images or class folders are in it.
        is_data_root = path == root
        if not is_data_root or protocol.folder == "." or _contains_imagenet(root):
            return path

    if len(paths) == 1:
        if paths[0].exists():
            raise UsageError(f"{paths[0]} is not a folder")
        raise UsageError(f"{protocol.dataset}: expected {paths[0]}, which is not there")
    candidates = ", ".join(map(str, paths))
    raise UsageError(f"{protocol.dataset}: expected one of {candidates}, none of which is there")


def _contains_imagenet(folder: Path) -> bool:
    """Return whether a folder contains class folders or validation images of ImageNet."""
    for entry in folder_entries(folder):
        if WORDNET_ID.fullmatch(entry.name) or _FLAT_NAME.fullmatch(entry.name):
            return True
    return False


class FlatImage(NamedTuple):
    """An ImageNet validation image that does not lie in the folder of its class."""

    # The name of the file, such as `ILSVRC2012_val_00000293_n01440764.JPEG`.
    name: str
    # Its name in ILSVRC2012_img_val.tar: `ILSVRC2012_val_00000293.JPEG`.
    official_name: str
    # Its class `n01440764`; None if the name does not end with it.
    wordnet_id: str | None


def list_flat_images(folder: Path) -> list[FlatImage]:
    """Return ImageNet's validation images that lie directly in a folder, sorted by name.

    Other files, and images in folders below, are ignored.
    """
    images = []
    for entry in folder_entries(folder):
        match = _FLAT_NAME.fullmatch(entry.name)
        if match is not None:
            official_stem, wordnet_id = match.groups()
            images.append(FlatImage(entry.name, f"{official_stem}.JPEG", wordnet_id))
    return sorted(images)


def must_be_moved(folder: Path, flat_images: Sequence[FlatImage]) -> bool:
    """Return whether flat images must be moved into class folders before they can be read.

    Flat images lie directly in a folder, and not in the folder of their class. They can stay there
    if all their names end with their class, and if the folder has no class folders besides.

    Args:
        folder: The folder.
        flat_images: The flat images in it.
    """
    if not flat_images:
        return False
    has_class_folders = any(WORDNET_ID.fullmatch(entry.name) for entry in folder_entries(folder))
    lacks_classes = any(image.wordnet_id is None for image in flat_images)
    return has_class_folders or lacks_classes


def read_folders(folder: Path, protocol: ClassificationProtocol, options: RunOptions) -> ClassData:
    """Return the images of a data set with a folder for each class: `FOLDER/CLASS/IMAGE`.

    ImageNet's validation images may also lie in one folder, if their names end with their class.
    Images are listed and not read.

    Args:
        folder: The folder of the data set.
        protocol: The data set and its class list, if it has one.
        options: The options of the command, for the advice in error messages.

    Raises:
        UsageError: If class folders are missing, and if they do not match the class list.
    """
    if protocol.class_list == "imagenet1k":
        flat_images = list_flat_images(folder)
        if flat_images:
            return _read_flat(folder, flat_images, protocol, options)

    class_list = CLASS_LISTS.get(protocol.class_list or "")
    classes = sorted(entry.name for entry in folder_entries(folder) if entry.is_dir())
    if not classes:
        raise UsageError(f"{folder} has no class folders: the layout is {folder}/CLASS/IMAGE")
    is_numbered = class_list is not None and class_list.numeric
    if is_numbered and all(map(str.isdecimal, classes)):
        classes.sort(key=int)  # 2 before 10
    _require_listed_classes(protocol, folder, classes, "class folders")
    return _read_class_folders(folder, classes)


def read_severities(
    folder: Path, protocol: ClassificationProtocol, options: RunOptions
) -> ClassData:
    """Return corrupted images in the layout of ImageNet-C: `FOLDER/SEVERITY/CLASS/IMAGE`.

    The severities are 1 to 5, and each must have the same images.

    Args:
        folder: The folder of the corruption, such as `imagenet-c/fog`.
        protocol: The data set and its class list, if it has one.
        options: The options of the command, for the advice in error messages.

    Raises:
        UsageError: If a severity is missing, or has other classes or images than severity 1.
    """
    versions: list[ClassData] = []
    for severity in SEVERITIES:
        subfolder = folder / str(severity)
        if not subfolder.is_dir():
            raise UsageError(f"{folder} has no folder {severity}: severities are 1 to 5")
        version = read_folders(subfolder, protocol, options)
        if versions:
            _require_same_images(subfolder, versions[0], version)
        versions.append(version)
    named_versions = []
    for severity, version in zip(SEVERITIES, versions, strict=True):
        names = tuple(f"{severity}/{name}" for name in version.names)
        named_versions.append(version._replace(names=names))
    return join_severities(named_versions)


def _require_same_images(folder: Path, first: ClassData, version: ClassData) -> None:
    """Raise UsageError unless a folder has the classes and the images of the first severity."""
    missing = set(first.names) - set(version.names)
    unknown = set(version.names) - set(first.names)
    if missing:
        raise UsageError(
            f"{folder} lacks {len(missing)} images of severity 1, the first: {min(missing)}"
        )
    if unknown:
        raise UsageError(
            f"{folder} has {len(unknown)} images that severity 1 lacks, the first: {min(unknown)}"
        )


def read_objectnet(folder: Path) -> ClassData:
    """Return the images of the ObjectNet classes that are also classes of ImageNet.

    Two files of ObjectNet map its folders to labels (`air_freshener` to `Air freshener`), and these
    labels to classes of ImageNet. The label in lower case is the name in prompts. CLIP Benchmark
    does the same in objectnet.py. Raise UsageError if a file or a class folder is missing.
    """
    label_by_folder = _read_mapping(folder / "mappings" / "folder_to_objectnet_label.json")
    imagenet_class_by_label = _read_mapping(folder / "mappings" / "objectnet_to_imagenet_1k.json")
    classes = []
    for class_folder, label in sorted(label_by_folder.items()):
        if label in imagenet_class_by_label:
            classes.append(class_folder)

    image_folder = folder / "images"
    for name in classes:
        if not (image_folder / name).is_dir():
            raise UsageError(f"{image_folder} has no class folder {name}")
    data = _read_class_folders(image_folder, classes)
    prompt_names = tuple(label_by_folder[name].lower() for name in classes)
    return data._replace(prompts=prompt_names)


def _read_mapping(path: Path) -> dict[str, str]:
    """Return the content of a JSON file that maps names to texts.

    Raise UsageError if the file cannot be read or has any other content.
    """
    with report_faults_at(f"cannot read {path}: "):
        content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(text, str) for text in content.values()):
        raise UsageError(f"{path} must hold names and texts")
    return content


def _read_class_folders(folder: Path, classes: Sequence[str]) -> ClassData:
    """Return the images below the folders of classes, in the order of torchvision's ImageFolder.

    Images may lie at any depth below the folder of their class. Their names are their paths below
    the folder of the data set, such as `CLASS/subfolder/1.jpg`.

    Args:
        folder: The folder of the data set.
        classes: The names of the class folders in it.

    Raises:
        UsageError: If a class has no images.
    """
    # Find the images of each class.
    skipped_files = []
    paths_by_class: dict[str, list[str]] = {name: [] for name in classes}
    for subfolder, file_names in sorted(walk_folders(folder), key=lambda entry: str(entry[0])):
        relative_folder = subfolder.relative_to(folder)
        # The class is the first folder of the path; the data set's own folder has none.
        class_name = relative_folder.parts[0] if relative_folder.parts else None
        if class_name is None or class_name not in paths_by_class:
            continue
        for file_name in sorted(file_names):
            if file_name.lower().endswith(SUFFIXES):
                path = (relative_folder / file_name).as_posix()
                paths_by_class[class_name].append(path)
            elif not file_name.startswith("."):
                skipped_files.append(file_name)

    # Label each image with the index of its class.
    samples = []
    for class_index, name in enumerate(classes):
        if not paths_by_class[name]:
            raise UsageError(f"class folder {folder / name} has no images ({', '.join(SUFFIXES)})")
        for path in paths_by_class[name]:
            samples.append((path, sources.ImageFile(folder / path), class_index))
    return make_data(classes, samples)._replace(skipped_files=tuple(skipped_files))


def describe_skipped_files(file_names: Sequence[str]) -> str:
    """Return a note on files that are not read because of their suffix; empty if there are none.

    Example:
        "3 files in class folders are left out for the suffix, which no readable image format has:
        .avif (2), .txt (1)"
    """
    if not file_names:
        return ""
    n_files_by_suffix = Counter(Path(name).suffix.lower() or "no suffix" for name in file_names)
    counts = [f"{suffix} ({count})" for suffix, count in n_files_by_suffix.most_common(5)]
    n_files = len(file_names)
    noun, verb = ("file", "is") if n_files == 1 else ("files", "are")
    return (
        f"{n_files} {noun} in class folders {verb} left out for the suffix, which no readable "
        f"image format has: {', '.join(counts)}"
    )


def _read_flat(
    folder: Path,
    flat_images: Sequence[FlatImage],
    protocol: ClassificationProtocol,
    options: RunOptions,
) -> ClassData:
    """Return ImageNet's validation images in one folder, whose names end with their class.

    They get the names and the order that they would have in class folders.

    Args:
        folder: The folder of the images.
        flat_images: The images that lie directly in it.
        protocol: The data set with its class list.
        options: The options of the command, for the advice in error messages.

    Raises:
        UsageError: If an image does not name its class, and if the classes do not match the class
            list.
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

    # Label each image with the index of its class.
    index_by_wordnet_id = number_distinct(wordnet_ids)
    samples = []
    for image in sorted(flat_images, key=attrgetter("wordnet_id", "official_name", "name")):
        name = f"{image.wordnet_id}/{image.official_name}"
        source = sources.ImageFile(folder / image.name)
        samples.append((name, source, index_by_wordnet_id[image.wordnet_id]))
    return make_data(wordnet_ids, samples)


def is_subset_of_list(protocol: ClassificationProtocol, classes: Sequence[str]) -> bool:
    """Return whether the classes of a user's data are some or all classes of a known class list.

    Args:
        protocol: The data set. `protocol.class_list` is the list that the user's YAML file names,
            such as `imagenet1k`. The result is False for known data sets, which must have all
            classes of their list.
        classes: The classes of the data.
    """
    is_known_set = protocol.n_classes is not None
    if protocol.class_list is None or is_known_set:
        return False
    return set(classes) <= set(read_folder_names(protocol.class_list))


def _require_listed_classes(
    protocol: ClassificationProtocol, folder: Path, classes: list[str], origin: str
) -> None:
    """Raise UsageError unless the classes of the data match the protocol's class list.

    They are compared by their hash, except that a user's data may have a subset of the list.

    Args:
        protocol: The data set with its class list, if it has one.
        folder: The folder of the data set, for the error message.
        classes: The classes of the data, in order.
        origin: Where the classes were read, for the error message, for example `class folders`.
    """
    class_list = CLASS_LISTS.get(protocol.class_list or "")
    if class_list is None or class_list.classes_sha256 is None:
        return
    if is_subset_of_list(protocol, classes):
        return
    sha256 = hashlib.sha256("\n".join(classes).encode(errors="surrogateescape")).hexdigest()
    if sha256 != class_list.classes_sha256:
        differences = describe_class_differences(protocol, classes)
        raise UsageError(
            f"{folder} has {len(classes)} {origin}, which are not the {class_list.n_classes} "
            f"{class_list.classes} of {protocol.class_list}{differences}"
        )


def read_webdataset(folder: Path, protocol: ClassificationProtocol) -> ClassData:
    """Return the images of the test split of a data set in CLIP Benchmark's webdataset layout.

    The folder has a text file of class names, perhaps one of prompt templates, and tar archives of
    samples. An image is named by its archive and by the common name of the sample's files:
    `test/0.tar:00012`.

    Args:
        folder: The folder of the data set.
        protocol: The data set. A class name may be blank if the file has exactly
            `protocol.n_classes` lines.

    Raises:
        UsageError: If anything is missing or broken.
    """
    prompt_names = _read_lines(folder / _CLASSES_FILE, protocol.n_classes)
    templates = _read_templates(folder / _TEMPLATES_FILE)

    # Read the images and their labels.
    samples = sources.open_archives(sources.numbered_archives(folder / "test"))
    labelled_images = []
    for sample in samples:
        name = f"{sample.archive.relative_to(folder)}:{sample.key}"
        image = sample.image()
        label = _read_label(sample, protocol, len(prompt_names))
        labelled_images.append((name, image, label))

    data = make_data(_make_names_distinct(prompt_names), labelled_images)
    data = data._replace(prompts=tuple(prompt_names), templates=templates or None)
    if protocol.metadata:
        data = data.with_groups([_format_group_name(sample, protocol) for sample in samples])
    return data


def _make_names_distinct(names: Sequence[str]) -> list[str]:
    """Return the names of classes, with the index of the class added if a name is not unique.

    Some classes of ImageNet share a name, and a class of CLEVR has a blank one.

    Example:
        `["crane", "crane", ""]` gives `["crane (0)", "crane (1)", "(2)"]`.
    """
    distinct_names = []
    for index, name in enumerate(names):
        if name and names.count(name) == 1:
            distinct_names.append(name)
        else:
            distinct_names.append(f"{name} ({index})".strip())
    return distinct_names


def _read_templates(path: Path) -> tuple[str, ...]:
    """Return the prompt templates in a file, with `{}` for the class.

    The file has a template on each line, with `{c}` for the class. The result is empty if the file
    does not exist. Raise UsageError for templates without exactly one `{c}`.

    Example:
        The line `a photo of a {c}.` gives `a photo of a {}.`.
    """
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


def _format_group_name(sample: sources.ArchiveSample, protocol: ClassificationProtocol) -> str:
    """Return the name of the group of images that a sample belongs to.

    Args:
        sample: The sample. Its .npy file holds a number for each name in `protocol.metadata`.
        protocol: `metadata` has the names of the numbers, in their order. `group_keys` selects the
            numbers that make the name of the group.

    Raises:
        UsageError: If a number is not 0, 1, 2...

    Example:
        If `metadata` is `("region", "country", "year")`, `group_keys` is `("region", "year")`, and
        the numbers are `[3, 17, 2]`, the group is `region 3, year 2`.
    """
    numbers = sample.vector(len(protocol.metadata), exact=False)
    descriptions = []
    for key in as_tuple(protocol.group_keys):
        value = numbers[protocol.metadata.index(key)]
        if value < 0 or value != int(value):
            raise UsageError(f"{sample.name}.npy: `{key}` must be 0, 1, 2..., not {value}")
        descriptions.append(f"{key} {int(value)}")
    return ", ".join(descriptions)


def _read_label(
    sample: sources.ArchiveSample, protocol: ClassificationProtocol, n_classes: int
) -> Any:
    """Return the label of a sample in a webdataset archive.

    Args:
        sample: The files of the sample, one of which holds the label.
        protocol: Its type decides the form of the label: the index of the class for classification,
            whether the image shows each class (C,) for several labels, and four indices (4,) for
            faces.
        n_classes: C, the number of classes.

    Raises:
        UsageError: If the label is broken.
    """
    if isinstance(protocol, MultilabelProtocol):
        return _read_multilabel(sample, n_classes)
    if isinstance(protocol, FacesProtocol):
        return _read_face_labels(sample)
    return _read_class_index(sample, n_classes)


def _read_multilabel(sample: sources.ArchiveSample, n_classes: int) -> NDArray[Any]:
    """Return whether the image of a sample shows each of the C classes, (C,) bool.

    The .npy file of the sample holds a 1 or a 0 for each class. Raise UsageError for other numbers.
    """
    labels = sample.vector(n_classes)
    if not np.isin(labels, (0, 1)).all():
        raise UsageError(f"{sample.name}.npy must hold 0 and 1, not {labels.min()}, {labels.max()}")
    return labels.astype(bool)


def _read_face_labels(sample: sources.ArchiveSample) -> NDArray[Any]:
    """Return the labels (4,) of a face, which are the first numbers in the sample's .npy file.

    They are the indices of age, gender and race, and then 0 for white or 1 for any other race.
    Raise UsageError for numbers that are not 0, 1, 2...
    """
    labels = sample.vector(4, exact=False)[:4]
    integer_labels = labels.astype(np.int64)
    are_integers = (labels == integer_labels).all()
    if not are_integers or (labels < 0).any():
        raise UsageError(f"{sample.name}.npy must hold 0, 1, 2..., not {labels.tolist()}")
    return integer_labels


def _read_class_index(sample: sources.ArchiveSample, n_classes: int) -> int:
    """Return the index of the class, which is the text of the sample's .cls file.

    Raise UsageError if it is not the index of one of the `n_classes` classes.
    """
    text = sample.text("cls").strip()
    is_index = text.isdecimal() and len(text) <= _MAX_INDEX_DIGITS and int(text) < n_classes
    if not is_index:
        raise UsageError(
            f"{sample.name}.cls holds {text[:40]!r}, which is not a class from 0 to {n_classes - 1}"
        )
    return int(text)


def _read_lines(path: Path, n_lines_with_blanks: int | None = None) -> list[str]:
    """Return the stripped lines of a text file.

    Args:
        path: The path of the file.
        n_lines_with_blanks: The number of lines of the only file that may have blank lines; None:
            no file may have them.

    Raises:
        UsageError: If the file is empty, or if it has a blank line and another number of lines.
    """
    lines = [line.strip() for line in sources.read_layout_file(path).splitlines()]
    has_forbidden_blank = "" in lines and len(lines) != n_lines_with_blanks
    if not lines or has_forbidden_blank:
        raise UsageError(f"{path} is empty or has a blank line")
    return lines
