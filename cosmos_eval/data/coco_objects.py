"""Questions about the dominant and the small objects of COCO's images. Imports no torch.

They are built from COCO's instance annotations (Lin et al. 2014, arXiv 1405.0312), whose 80 kinds
are annotated exhaustively: a kind without annotations is absent from the image.
docs/caption-selection.md describes the protocol.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import pydantic

from cosmos_eval.data import readers
from cosmos_eval.data.asked_objects import DOMINANT, SMALL, AskedObject
from cosmos_eval.data.readers import FileError

LEAST_DOMINANT = 0.2
"""The least fraction of an image that a dominant object covers."""
SMALL_RANGE = (0.01, 0.05)
"""The least and the largest fraction of an image that all objects of a small kind cover."""


class Question(NamedTuple):
    """An image, a kind of object that it shows, and a kind that it does not show."""

    file_name: str
    kind: str
    absent_kind: str
    asked: AskedObject


class _Image(pydantic.BaseModel, strict=True):
    """The fields of an image that are read."""

    id: int
    file_name: str
    width: pydantic.PositiveInt
    height: pydantic.PositiveInt


class _Instance(pydantic.BaseModel, strict=True):
    """The fields of an annotated object that are read, or of a crowd of objects of one kind."""

    image_id: int
    category_id: int
    # In pixels of the object's mask.
    area: pydantic.NonNegativeFloat
    iscrowd: int = 0


class _Category(pydantic.BaseModel, strict=True):
    """A kind of object."""

    id: int
    name: readers.Text


class _Instances(pydantic.BaseModel, strict=True):
    """The fields that are read from a file of COCO's instances."""

    images: list[_Image]
    annotations: list[_Instance]
    categories: list[_Category]


class _Asked(NamedTuple):
    """An object that is asked about, without a kind that is absent from its image."""

    image: _Image
    kind: int
    asked: AskedObject
    # The kinds that the image shows.
    present_kinds: frozenset[int]

    @property
    def rank(self) -> str:
        """A hash that orders objects at random, but always alike."""
        return hashlib.sha256(f"{self.image.id} {self.kind}".encode()).hexdigest()


def read_questions(path: Path) -> list[Question]:
    """Return the questions about the images of a file of COCO's instances.

    An image is taken if its largest annotated object covers LEAST_DOMINANT of it or more, and if
    all objects of at least one other kind together cover a fraction in SMALL_RANGE. There is a
    question about the dominant object, and one about each such kind. A small kind that has a crowd
    in the image is present, but is not asked about. An image with a crowd of the dominant kind is
    left out.

    The absent kind is the kind of another question about the same role, see `_pair_questions`.

    Args:
        path: The JSON file, such as `instances_val2017.json`.

    Returns:
        The questions, in the order of the images in the file.

    Raises:
        FileError: If the file has another format, or if ids are not consistent.
    """
    coco = _read_instances(path)
    instances_by_image: dict[int, list[_Instance]] = {image.id: [] for image in coco.images}
    for instance in coco.annotations:
        instances_by_image[instance.image_id].append(instance)
    asked_objects: list[_Asked] = []
    for image in coco.images:
        asked_objects += _choose_objects(image, instances_by_image[image.id])

    absent_kinds: dict[tuple[int, int], int] = {}
    for role in (DOMINANT, SMALL):
        of_role = [entry for entry in asked_objects if entry.asked.role == role]
        absent_kinds.update(_pair_questions(of_role))

    name_by_kind = {category.id: category.name for category in coco.categories}
    questions = []
    for image, kind, asked, _ in asked_objects:
        absent_kind = absent_kinds.get((image.id, kind))
        if absent_kind is not None:
            absent_name = name_by_kind[absent_kind]
            questions.append(Question(image.file_name, name_by_kind[kind], absent_name, asked))
    return questions


def _read_instances(path: Path) -> _Instances:
    """Return the content of a file of COCO's instances.

    Raise FileError for another format, for annotations of unlisted images or kinds, and for an id
    that two images or two kinds have.
    """
    content = readers.read_json(path)
    if not isinstance(content, dict):
        raise FileError("must hold `images`, `annotations` and `categories`")
    coco = readers.parse(_Instances, content)
    image_ids = {image.id for image in coco.images}
    kinds = {category.id for category in coco.categories}
    if len(image_ids) < len(coco.images) or len(kinds) < len(coco.categories):
        raise FileError("has several images or categories of one id")
    for instance in coco.annotations:
        if instance.image_id not in image_ids:
            raise FileError(f"annotates image id {instance.image_id}, which it does not list")
        if instance.category_id not in kinds:
            raise FileError(f"has no category of id {instance.category_id}")
    return coco


def _choose_objects(image: _Image, instances: Sequence[_Instance]) -> list[_Asked]:
    """Return the objects of an image that questions are about, the dominant one first.

    The largest object is dominant if it covers enough of the image. A kind is small if all its
    objects together cover a share of the image in `SMALL_RANGE`. The result is empty if the image
    has no dominant object or no small kind. Kinds with a crowd, whose objects are not annotated one
    by one, are left out.

    Args:
        image: The image.
        instances: Its annotated objects.
    """
    if not instances:
        return []
    n_pixels = image.width * image.height
    area_by_kind: defaultdict[int, float] = defaultdict(float)
    for instance in instances:
        area_by_kind[instance.category_id] += instance.area / n_pixels
    crowded_kinds = {instance.category_id for instance in instances if instance.iscrowd}
    largest = max(instances, key=attrgetter("area"))
    dominant_area = min(1.0, largest.area / n_pixels)
    if dominant_area < LEAST_DOMINANT or largest.category_id in crowded_kinds:
        return []

    least_area, most_area = SMALL_RANGE
    small_objects: list[tuple[int, AskedObject]] = []
    for kind, area in sorted(area_by_kind.items()):
        if least_area <= area <= most_area and kind not in crowded_kinds:
            small_objects.append((kind, AskedObject(SMALL, "kind", area, dominant_area)))
    if not small_objects:
        return []

    dominant_object = AskedObject(DOMINANT, "kind", dominant_area, dominant_area)
    present_kinds = frozenset(area_by_kind)
    chosen_objects = []
    for kind, asked_object in [(largest.category_id, dominant_object), *small_objects]:
        chosen_objects.append(_Asked(image, kind, asked_object, present_kinds))
    return chosen_objects


def _pair_questions(entries: Sequence[_Asked]) -> dict[tuple[int, int], int]:
    """Return the absent kind of questions about one role, by the ids of their image and kind.

    Questions are paired so that the kind of each is absent from the image of the other. Each takes
    the kind of the other as its absent kind. A model that does not see the image chooses the same
    kind in both questions, and is right in one: its accuracy is exactly one half.

    Kinds with many questions choose their partners first, in an order of hashes. Questions that
    find no partner are left out.

    Args:
        entries: The objects that are asked about.

    Example:
        A question about a cat in an image without dogs, and one about a dog in an image without
        cats, are a pair: dog is the absent kind of the first one, and cat of the second one.
    """
    by_hash = sorted(entries, key=attrgetter("rank"))
    n_questions = Counter(entry.kind for entry in entries)
    by_frequency = sorted(by_hash, key=lambda entry: (-n_questions[entry.kind], entry.kind))
    absent_kinds: dict[tuple[int, int], int] = {}
    for entry in by_frequency:
        if (entry.image.id, entry.kind) in absent_kinds:
            continue
        for partner in by_hash:
            is_free = (partner.image.id, partner.kind) not in absent_kinds
            if (
                is_free
                and partner.kind not in entry.present_kinds
                and entry.kind not in partner.present_kinds
            ):
                absent_kinds[entry.image.id, entry.kind] = partner.kind
                absent_kinds[partner.image.id, partner.kind] = entry.kind
                break
    return absent_kinds
