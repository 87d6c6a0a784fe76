"""Queries and their positives, in the forms of those who publish them. Imports no torch."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import pydantic

from cosmos_eval.data.pickles import read_plain_pickle
from cosmos_eval.data.readers import (
    FileError,
    first_repeated,
    parse,
    read_json,
    read_records,
    report_faults_at,
)
from cosmos_eval.types import RankingProtocol

Box = tuple[int, int, int, int]
Names = tuple[str, ...]
_Model = TypeVar("_Model", bound=pydantic.BaseModel)


class ListedQuery(NamedTuple):
    """A query of a list: an image, a text or both, and items of the gallery by their keys."""

    # The name of the image, and the box (left, top, right, bottom) that is cut out; None: the whole
    # image.
    image: str | None
    text: str | None
    positives: Names
    # Items that are removed from the ranking of this query.
    junk: Names = ()
    # Positives that are hard to recognise, of revisited Oxford and Paris.
    hard: Names = ()
    # The items of CIRR's subset without the reference image.
    subset: Names = ()
    box: Box | None = None
    # Queries with the same name depend on each other; empty: those of the same image or text.
    cluster: str = ""
    # The number of positives that the published gallery lacks, so that no model ranks them.
    n_unranked: int = 0

    @property
    def n_positives(self) -> int:
        """The number of all positives of the query."""
        return len(self.positives) + self.n_unranked


class ListedSearch(NamedTuple):
    """Queries of one kind, and the gallery in which their positives are ranked."""

    # The start of the names of metrics, such as `image_to_text`; empty if there is one kind.
    direction: str
    # The keys of all items: names of images, or numbers of captions.
    gallery: Names
    queries: Sequence[ListedQuery]
    # The captions by their keys, if the gallery has captions.
    captions: Mapping[str, str] | None = None


class ListPaths(NamedTuple):
    """The files of a data set's lists."""

    queries: Path
    # The file that lists the gallery; None: the file of the queries does.
    gallery: Path | None


def read_searches(paths: ListPaths, protocol: RankingProtocol) -> list[ListedSearch]:
    """Return the queries of a data set, and the galleries in which they rank.

    Raises:
        FileError: If the list of queries is damaged, or if a query does not fit its gallery.
        UsageError: If another list is damaged. The message names its file.
    """
    searches = _READERS[protocol.layout](paths, protocol)
    for search in searches:
        _require_consistent(search)
    return searches


def _require_consistent(search: ListedSearch) -> None:
    """Raise FileError for a query without positives, and for items that a list has wrongly."""
    if repeated := first_repeated(search.gallery):
        raise FileError(f"item {repeated[0]} is in the gallery twice")
    if not search.queries:
        raise FileError("there are no queries")
    gallery = set(search.gallery)
    for number, query in enumerate(search.queries):
        location = f"query {number}"
        if not query.n_positives:
            raise FileError(f"{location} has no positives")
        removable = (*query.positives, *query.junk)
        if repeated := first_repeated(removable):
            raise FileError(f"{location} has item {repeated[0]} twice, as positive or junk")
        for item in (*removable, *query.subset):
            if item not in gallery:
                raise FileError(f"{location} has item {item}, which is not in the gallery")


class _Record(pydantic.BaseModel):
    """A record of a list. Keys that are not needed are ignored."""

    model_config = pydantic.ConfigDict(strict=True, extra="ignore")


Key = Annotated[str, pydantic.Field(min_length=1)]


def _parse_records(path: Path, model: type[_Model]) -> Iterator[tuple[str, _Model]]:
    """Yield the location of each record of a file, and the record. Raise FileError for faults."""
    for location, record in read_records(path):
        if not isinstance(record, dict):
            raise FileError(f"{location}: expected keys and values, not {record!r:.40}")
        try:
            yield location, parse(model, record)
        except FileError as error:
            raise FileError(f"{location}: {error}") from error


class _UserQuery(_Record):
    """A query of a user's list."""

    image: Key | None = None
    text: Key | None = None
    positives: list[Key]
    junk: list[Key] = []
    negatives: list[Key] = []


def _read_queries(paths: ListPaths, protocol: RankingProtocol) -> list[ListedSearch]:
    """Read records with `image`, `text` or both, `positives`, and optional `junk`, `negatives`.

    The gallery has all images that any query names as one of the three.
    """
    queries = []
    gallery: dict[str, None] = {}  # in the order of their first occurrence
    for location, record in _parse_records(paths.queries, _UserQuery):
        if record.image is None and record.text is None:
            raise FileError(f"{location}: give `image`, `text` or both")
        gallery |= dict.fromkeys([*record.positives, *record.junk, *record.negatives])
        queries.append(
            ListedQuery(record.image, record.text, tuple(record.positives), tuple(record.junk))
        )
    return [ListedSearch("", tuple(gallery), queries)]


class _CocoImage(_Record):
    id: int
    file_name: Key


class _CocoCaption(_Record):
    id: int
    image_id: int
    caption: Key


class _CocoCaptions(_Record):
    """COCO's file of captions."""

    images: list[_CocoImage]
    annotations: list[_CocoCaption]


class _CocoImages(_Record):
    """COCO's file of images without annotations."""

    images: list[_CocoImage]


class _CocoSplit(NamedTuple):
    """The images and captions that are ranked, by COCO's numbers as texts."""

    # The file of each image, and the image and the text of each caption, of the whole file.
    file_by_image: Mapping[str, str]
    caption_by_id: Mapping[str, _CocoCaption]
    # The images and the captions of the gallery.
    images: Names
    captions: Names


def _read_captions(paths: ListPaths, protocol: RankingProtocol) -> list[ListedSearch]:
    """Read captions of COCO, and lists of positives by COCO's numbers, as ECCV Caption has them.

    `protocol.positives` names the lists of captions by image, and of images by caption. They lie
    beside the file of the gallery, which lists the captions by image.
    """
    assert paths.gallery is not None
    split = _read_coco_split(paths.queries, paths.gallery)
    captions_file, images_file = (paths.gallery.parent / name for name in protocol.positives)
    texts = {caption: split.caption_by_id[caption].caption for caption in split.captions}
    image_files = tuple(split.file_by_image[image] for image in split.images)
    image_queries = _image_queries(split, _read_positives(captions_file))
    caption_queries = _caption_queries(split, _read_positives(images_file))
    return [
        ListedSearch("image_to_text", split.captions, image_queries, texts),
        ListedSearch("text_to_image", image_files, caption_queries),
    ]


def _read_coco_split(captions_path: Path, gallery_path: Path) -> _CocoSplit:
    """Return COCO's images and captions, and the images and captions of the gallery.

    Raises:
        FileError: If the file of captions lacks an image or a caption of the gallery, or has one
            twice.
    """
    content = parse(_CocoCaptions, _require_keys(read_json(captions_path)))
    _require_distinct_ids("image", content.images)
    _require_distinct_ids("caption", content.annotations)
    captions_by_image = _read_positives(gallery_path)
    split = _CocoSplit(
        file_by_image={str(image.id): image.file_name for image in content.images},
        caption_by_id={str(entry.id): entry for entry in content.annotations},
        images=tuple(captions_by_image),
        captions=tuple(item for captions in captions_by_image.values() for item in captions),
    )
    _require_numbers("image", split.images, split.file_by_image)
    _require_numbers("caption", split.captions, split.caption_by_id)
    return split


def _require_distinct_ids(noun: str, entries: Iterable[_CocoImage | _CocoCaption]) -> None:
    """Raise FileError for an id that two images or captions of COCO's file have."""
    if repeated := first_repeated(entry.id for entry in entries):
        raise FileError(f"has {noun} {repeated[0]} twice")


def _require_numbers(noun: str, numbers: Iterable[str], entries: Mapping[str, Any]) -> None:
    """Raise FileError for the first number of an image or a caption that COCO's file lacks."""
    for number in numbers:
        if number not in entries:
            raise FileError(f"lacks {noun} {number} of the lists of positives")


def _image_queries(split: _CocoSplit, captions_by_image: Mapping[str, Names]) -> list[ListedQuery]:
    """Return images as queries for captions.

    Two captions in ECCV Caption's lists are not among the 25,000 that it ranks. Its code counts
    them as positives, and so does this one: no model ranks them.
    """
    _require_numbers("image", captions_by_image, split.file_by_image)
    gallery = set(split.captions)
    queries = []
    for image, captions in captions_by_image.items():
        ranked = tuple(caption for caption in captions if caption in gallery)
        n_unranked = len(captions) - len(ranked)
        query = ListedQuery(split.file_by_image[image], None, ranked, n_unranked=n_unranked)
        queries.append(query)
    return queries


def _caption_queries(
    split: _CocoSplit, images_by_caption: Mapping[str, Names]
) -> list[ListedQuery]:
    """Return captions as queries for images. Captions of one image depend on each other."""
    _require_numbers("caption", images_by_caption, split.caption_by_id)
    queries = []
    for caption, images in images_by_caption.items():
        _require_numbers("image", images, split.file_by_image)
        entry = split.caption_by_id[caption]
        files = tuple(split.file_by_image[image] for image in images)
        image_of_caption = str(entry.image_id)
        queries.append(ListedQuery(None, entry.caption, files, cluster=image_of_caption))
    return queries


def _require_keys(content: Any) -> dict[str, Any]:
    """Return the content of a JSON file. Raise FileError if it is not an object."""
    if not isinstance(content, dict):
        raise FileError(f"must hold keys and values, not a {type(content).__name__}")
    return content


def _read_positives(path: Path) -> dict[str, Names]:
    """Return the numbers in a list of positives, such as `{"42": [38, 182]}`, as texts.

    Raise UsageError if the list is damaged.
    """
    positives = {}
    with report_faults_at(f"{path}: "):
        for key, values in _require_keys(read_json(path)).items():
            are_numbers = isinstance(values, list) and all(type(value) is int for value in values)
            if not are_numbers:
                raise FileError(f"`{key}` must be a list of whole numbers")
            positives[key] = tuple(map(str, values))
    return positives


def _read_revisited(paths: ListPaths, protocol: RankingProtocol) -> list[ListedSearch]:
    """Read the pickle of revisited Oxford or Paris, `gnd_roxford5k.pkl`, without executing it.

    Its lists of easy, hard and junk images are indices of `imlist`. Queries are cut out by `bbx`.
    Several queries show the same landmark, so that they depend on each other.
    """
    content = read_plain_pickle(paths.queries)
    try:
        gallery = tuple(str(name) for name in content["imlist"])
        queries = []
        for name, truth in zip(content["qimlist"], content["gnd"], strict=True):
            items: dict[str, Names] = {}
            for kind in ("easy", "hard", "junk"):
                items[kind] = tuple(_item_at(gallery, index) for index in truth[kind])
            left, top, right, bottom = (round(float(edge)) for edge in truth["bbx"])
            queries.append(
                ListedQuery(
                    image=str(name),
                    text=None,
                    positives=(*items["easy"], *items["hard"]),
                    junk=items["junk"],
                    hard=items["hard"],
                    box=(left, top, right, bottom),
                )
            )
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise FileError(
            f"is not in the form of github.com/filipradenovic/revisitop: {reason}"
        ) from (error)
    landmarks = _number_landmarks(queries)
    queries_of_landmarks = []
    for query, landmark in zip(queries, landmarks, strict=True):
        queries_of_landmarks.append(query._replace(cluster=f"landmark {landmark}"))
    return [ListedSearch("", gallery, queries_of_landmarks)]


def _number_landmarks(queries: Sequence[ListedQuery]) -> list[int]:
    """Return the number of the landmark that each query shows.

    Queries show the same landmark if they share a positive, or if each shares one with a third
    query, and so on.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    # In a graph of all queries, followed by all positives, queries are linked to their positives.
    node_of_positive: dict[str, int] = {}
    linked_queries, linked_positives = [], []
    for number, query in enumerate(queries):
        for name in query.positives:
            node = node_of_positive.setdefault(name, len(queries) + len(node_of_positive))
            linked_queries.append(number)
            linked_positives.append(node)
    n_nodes = len(queries) + len(node_of_positive)
    links = ([True] * len(linked_queries), (linked_queries, linked_positives))
    _, number_of_node = connected_components(coo_array(links, shape=(n_nodes, n_nodes)))
    landmarks: list[int] = number_of_node[: len(queries)].tolist()
    return landmarks


def _item_at(gallery: Sequence[str], index: Any) -> str:
    """Return the item with an index. Raise IndexError for a negative index too."""
    if not 0 <= int(index) < len(gallery):
        raise IndexError(f"index {index} is not below {len(gallery)}")
    return gallery[int(index)]


class _CircoQuery(_Record):
    reference_img_id: int
    relative_caption: Key
    gt_img_ids: list[int]


def _read_circo(paths: ListPaths, protocol: RankingProtocol) -> list[ListedSearch]:
    """Read the annotations of CIRCO, and COCO's list of unlabeled images, the gallery."""
    assert paths.gallery is not None
    with report_faults_at(f"{paths.gallery}: "):
        images = parse(_CocoImages, _require_keys(read_json(paths.gallery))).images
        _require_distinct_ids("image", images)
    file_by_id = {image.id: image.file_name for image in images}
    queries = []
    for location, record in _parse_records(paths.queries, _CircoQuery):
        if record.reference_img_id not in file_by_id:
            raise FileError(f"{location}: image {record.reference_img_id} is not in the gallery")
        positives = tuple(file_by_id.get(number, str(number)) for number in record.gt_img_ids)
        reference = file_by_id[record.reference_img_id]
        queries.append(ListedQuery(reference, record.relative_caption, positives))
    return [ListedSearch("", tuple(file_by_id.values()), queries)]


class _CirrSet(_Record):
    members: list[Key]


class _CirrQuery(_Record):
    reference: Key
    target_hard: Key
    caption: Key
    img_set: _CirrSet


def _read_cirr(paths: ListPaths, protocol: RankingProtocol) -> list[ListedSearch]:
    """Read the captions of CIRR, and its split, which has the path of every image by its name.

    The reference image is not ranked, as the code of SEARLE (src/validate.py) removes it.
    """
    assert paths.gallery is not None
    with report_faults_at(f"{paths.gallery}: "):
        path_by_name = _require_keys(read_json(paths.gallery))
        if not all(isinstance(path, str) for path in path_by_name.values()):
            raise FileError("must have a path for every name")
    queries = []
    for location, record in _parse_records(paths.queries, _CirrQuery):
        reference = record.reference
        names = [reference, record.target_hard, *record.img_set.members]
        for name in names:
            if name not in path_by_name:
                raise FileError(f"{location}: image {name} is not in {paths.gallery.name}")
        if record.target_hard not in record.img_set.members:
            raise FileError(f"{location}: the target is not a member of `img_set`")
        subset = [path_by_name[name] for name in record.img_set.members if name != reference]
        queries.append(
            ListedQuery(
                image=path_by_name[reference],
                text=record.caption,
                positives=(path_by_name[record.target_hard],),
                junk=(path_by_name[reference],),
                subset=tuple(subset),
            )
        )
    return [ListedSearch("", tuple(path_by_name.values()), queries)]


class _FashionQuery(_Record):
    candidate: Key
    target: Key
    captions: list[str]  # three queries of shirts and tops have an empty one


def _read_fashion_iq(paths: ListPaths, protocol: RankingProtocol) -> list[ListedSearch]:
    """Read the captions of a category of FashionIQ, and its split, a list of names of images.

    The captions of a query become one text: `is longer and has red stripes`, without the characters
    at their ends that SEARLE's code (src/validate.py) removes. As there, an empty caption is joined
    too: ` and has red stripes`.
    """
    assert paths.gallery is not None
    with report_faults_at(f"{paths.gallery}: "):
        gallery = read_json(paths.gallery)
        if not (isinstance(gallery, list) and all(isinstance(name, str) for name in gallery)):
            raise FileError("must be a list of names")
    queries = []
    for location, record in _parse_records(paths.queries, _FashionQuery):
        captions = [caption.strip(".?, ") for caption in record.captions]
        if not any(captions):
            raise FileError(f"{location}: all captions are empty")
        text = " and ".join(captions)
        queries.append(ListedQuery(record.candidate, text, (record.target,)))
    return [ListedSearch("", tuple(gallery), queries)]


class _UnedImage(_Record):
    path: Key
    # Queries of landmarks may show several classes.
    class_id: int | Annotated[list[int], pydantic.Field(min_length=1)]

    @property
    def classes(self) -> list[int]:
        """The classes of the image."""
        return self.class_id if isinstance(self.class_id, list) else [self.class_id]


def _read_uned(paths: ListPaths, protocol: RankingProtocol) -> list[ListedSearch]:
    """Read the queries and the index of a domain of UnED, which have a class for every image.

    Positives are the images of the index that share a class with the query. A domain without a file
    of the index ranks the queries among each other, each without itself.
    """
    queries = [record for _, record in _parse_records(paths.queries, _UnedImage)]
    index = queries
    if paths.gallery is not None:
        with report_faults_at(f"{paths.gallery}: "):
            index = [record for _, record in _parse_records(paths.gallery, _UnedImage)]
    names_by_class: dict[int, list[str]] = {}
    for image in index:
        for class_id in image.classes:
            names_by_class.setdefault(class_id, []).append(image.path)

    listed_queries = []
    for query in queries:
        positives: dict[str, None] = {}
        for class_id in query.classes:
            positives.update(dict.fromkeys(names_by_class.get(class_id, [])))
        positives.pop(query.path, None)
        listed_queries.append(
            ListedQuery(
                image=query.path,
                text=None,
                positives=tuple(positives),
                junk=(query.path,) if paths.gallery is None else (),
                cluster=f"class {query.classes[0]}",
            )
        )
    return [ListedSearch("", tuple(image.path for image in index), listed_queries)]


_READERS: Mapping[str, Callable[[ListPaths, RankingProtocol], list[ListedSearch]]] = {
    "queries": _read_queries,
    "captions": _read_captions,
    "revisited": _read_revisited,
    "circo": _read_circo,
    "cirr": _read_cirr,
    "fashion-iq": _read_fashion_iq,
    "uned": _read_uned,
}
