"""Zero-shot classification sets as COSMOS's published evaluation measures them: family `cosmos`.

Sizes are those of the test splits: github.com/mlfoundations/datacomp, tasklist.yml, but for
caltech101; numbers of classes are those of the sets' own pages. Templates:
clip_benchmark/datasets/en_zeroshot_classification_templates.json, for ImageNet OpenCLIP's
OPENAI_IMAGENET_TEMPLATES. Names of classes are torchvision's with underscores as spaces, where
nothing else is stated. Imports no torch.

Templates of all sets but imagenetv2 are those of templates.json in github.com/ExplainableML/cosmos,
and the names of imagenet1k, flowers102, caltech101, food101, stanford_cars and oxford_pets are
those of its class lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from cosmos_eval.types import ClassificationProtocol

_SOURCE = "github.com/ExplainableML/cosmos"


class ClassList(NamedTuple):
    """Prompt names in the order of a set's classes.

    `names` is the key in clip_benchmark's en_classnames.json, of whose list the first `skipped`
    are left out. `classes` says what the classes are called on the disk, `numeric` that they are
    sorted as numbers, `classes_sha256` is of their names in that order, joined by newlines; None:
    only their number is checked.
    """

    names: str
    classes: str
    n_classes: int
    classes_sha256: str | None = None
    numeric: bool = False
    skipped: int = 0


CLASS_LISTS: Mapping[str, ClassList] = MappingProxyType(
    {
        # The 1,000 WordNet ids of ILSVRC 2012 in sorted order; compared with timm's copy
        # (timm/data/_info/imagenet_synsets.txt) by a test. The names are equal to open_clip's
        # IMAGENET_CLASSNAMES and hold "missile" and "sunglasses" twice, as published.
        "imagenet1k": ClassList(
            names="imagenet1k",
            classes="WordNet ids",
            n_classes=1000,
            classes_sha256="385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd",
        ),
        # ImageNetV2 calls the same classes by their number; sorted as text, 10 would come before 2.
        "imagenet1k-numbers": ClassList(
            names="imagenet1k",
            classes="numbers 0 to 999",
            n_classes=1000,
            classes_sha256="cdcaf63295eb44b199f8945bea9040fc067d26c0af90e23fefc77367534bc75e",
            numeric=True,
        ),
        # torchvision's own list has other spellings in three places, such as "ball moss" for
        # "air plant".
        "flowers102": ClassList(names="flowers", classes="labels", n_classes=102),
        "caltech101-with-background": ClassList(
            names="caltech101", classes="folders of 101_ObjectCategories", n_classes=102
        ),
        # The first of the 102 is the background, BACKGROUND_Google.
        "caltech101": ClassList(
            names="caltech101",
            classes="folders of 101_ObjectCategories but BACKGROUND_Google",
            n_classes=101,
            skipped=1,
        ),
    }
)

# Typing errors of the published list of names; those of clip_benchmark and torchvision have none.
_PETS_AS_PUBLISHED = {"Persian": "Persian'", "Yorkshire Terrier": "Yorkshire Terrie"}


def _imagenet(
    dataset: str, folder: str, usual_folders: tuple[str, ...], class_list: str, n: int, page: str
) -> ClassificationProtocol:
    return ClassificationProtocol(
        dataset=dataset,
        family="cosmos",
        source=_SOURCE,
        download=page,
        folder=folder,
        usual_folders=usual_folders,
        class_list=class_list,
        templates="openai-imagenet",
        n_images=n,
    )


def _torchvision(
    dataset: str,
    folder: str,
    templates: str,
    n_classes: int | None,
    n_images: int,
    page: str,
    *,
    class_names: Mapping[str, str] = MappingProxyType({}),
    class_list: str | None = None,
    separators: str = "_",
    remark: str = "",
) -> ClassificationProtocol:
    return ClassificationProtocol(
        dataset=dataset,
        family="cosmos",
        source=_SOURCE,
        download=page,
        folder=folder,
        torchvision=dataset,
        class_names=class_names,
        class_list=class_list,
        separators=separators,
        templates=f"clip-benchmark/{templates}",
        n_classes=n_classes,
        n_images=n_images,
        remark=remark,
    )


_PROTOCOLS = (
    _imagenet(
        "imagenet1k",
        # torchvision.datasets.ImageNet; a parent of it; Kaggle's archive; datasets/README.md of
        # github.com/ExplainableML/cosmos, from three folders; the folder itself.
        "val",
        (
            *("imagenet/val", "ILSVRC/Data/CLS-LOC/val"),
            *("imagenet/data/val_images", "data/val_images", "val_images", "."),
        ),
        "imagenet1k",
        50_000,
        "https://image-net.org/download.php",
    ),
    _imagenet(
        "imagenetv2",
        # As the archive unpacks, and as CLIP Benchmark's imagenetv2.py renames it.
        "imagenetv2-matched-frequency-format-val",
        ("ImageNetV2-matched-frequency",),
        "imagenet1k-numbers",
        10_000,
        "https://huggingface.co/datasets/vaishaal/ImageNetV2",
    ),
    _torchvision(
        "food101",
        "food-101",
        "food101",
        101,
        25_250,
        "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
    ),
    _torchvision(
        "cifar10",
        "cifar-10-batches-py",
        "cifar10",
        10,
        10_000,
        "https://www.cs.toronto.edu/~kriz/cifar.html",
    ),
    _torchvision(
        "cifar100",
        "cifar-100-python",
        "cifar100",
        100,
        10_000,
        "https://www.cs.toronto.edu/~kriz/cifar.html",
    ),
    _torchvision(
        "sun397",
        "SUN397",
        "sun397",
        397,
        108_754,
        "https://vision.princeton.edu/projects/2010/SUN/",
        separators="_/",
        remark="all images, as CLIP Benchmark takes them: the published numbers are over 19,850 "
        "whose choice depended on Python's randomised hash and cannot be made again",
    ),
    _torchvision(
        "stanford_cars",
        "stanford_cars",
        "cars",
        196,
        8_041,
        # The authors' page is gone; torchvision's reader points here for copies (its change 8309).
        "https://github.com/pytorch/vision/issues/7545",
    ),
    _torchvision(
        "fgvc_aircraft",
        "fgvc-aircraft-2013b",
        "fgvc_aircraft",
        100,
        3_333,
        "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
    ),
    _torchvision("dtd", "dtd/dtd", "dtd", 47, 1_880, "https://www.robots.ox.ac.uk/~vgg/data/dtd/"),
    _torchvision(
        "oxford_pets",
        "oxford-iiit-pet",
        "pets",
        37,
        3_669,
        "https://www.robots.ox.ac.uk/~vgg/data/pets/",
        class_names=_PETS_AS_PUBLISHED,
    ),
    _torchvision(
        "caltech101",
        "caltech101/101_ObjectCategories",
        "caltech101",
        None,  # its class list has it
        # The second part of torch.utils.data.random_split(images, [3000, 5677]) by a generator with
        # seed 3072, as in COSMOS's code.
        5_677,
        "https://data.caltech.edu/records/mzrjq-6wc02",
        class_list="caltech101",
    ),
    _torchvision(
        "flowers102",
        "flowers-102",
        "flowers",
        None,
        6_149,
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        class_list="flowers102",
    ),
)

CLASSIFICATION: Mapping[str, ClassificationProtocol] = MappingProxyType(
    {protocol.dataset: protocol for protocol in _PROTOCOLS}
)
