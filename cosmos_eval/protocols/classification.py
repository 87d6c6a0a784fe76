"""Zero-shot classification sets as published: families `cosmos` and `clip-benchmark`.

Sizes are those of the test splits: github.com/mlfoundations/datacomp, tasklist.yml, but for
caltech101; numbers of classes are those of the sets' own pages. Templates:
clip_benchmark/datasets/en_zeroshot_classification_templates.json, for ImageNet OpenCLIP's
OPENAI_IMAGENET_TEMPLATES. Names of classes are torchvision's with underscores as spaces, where
nothing else is stated. Imports no torch.

`cosmos`: templates of all sets but imagenetv2 are those of templates.json in
github.com/ExplainableML/cosmos, and the names of imagenet1k, flowers102, caltech101, food101,
stanford_cars and oxford_pets are those of its class lists.

`clip-benchmark`: clip_benchmark 1.6 (github.com/LAION-AI/CLIP_benchmark), datasets/builder.py.
OpenCLIP's published table takes dtd, oxford_pets, flowers102 and caltech101 from VTAB's copies: for
caltech101 that is another split (6,085 images), elsewhere the same images."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from cosmos_eval.types import ClassificationProtocol


class ClassList(NamedTuple):
    """Prompt names in the order of a set's classes. `names` is the key of clip_benchmark's list
    (en_classnames.json), whose first `skipped` are left out. `classes` says what the classes are
    called on the disk, `numeric` that they are sorted as numbers; `classes_sha256` is the hash of
    their names in that order, joined by newlines (None: only their number is checked)."""

    names: str
    classes: str
    n_classes: int
    classes_sha256: str | None = None
    numeric: bool = False
    skipped: int = 0


CLASS_LISTS: Mapping[str, ClassList] = {
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

# Of each set that torchvision reads: the folder that holds it below the root, the key of its
# templates (`=`: the set's name), the numbers of its classes (`-`: its class list has it) and of
# its test images, and the page that it comes from. The page of stanford_cars' authors is gone;
# torchvision's reader points to this issue for copies. Of caltech101 it is the second part of
# torch.utils.data.random_split(images, [3000, 5677]) by a generator with seed 3072, as in COSMOS's
# code.
_TORCHVISION = """
food101 food-101 = 101 25250 data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/
cifar10 cifar-10-batches-py = 10 10000 www.cs.toronto.edu/~kriz/cifar.html
cifar100 cifar-100-python = 100 10000 www.cs.toronto.edu/~kriz/cifar.html
sun397 SUN397 = 397 108754 vision.princeton.edu/projects/2010/SUN/
stanford_cars stanford_cars cars 196 8041 github.com/pytorch/vision/issues/7545
fgvc_aircraft fgvc-aircraft-2013b = 100 3333 www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/
dtd dtd/dtd = 47 1880 www.robots.ox.ac.uk/~vgg/data/dtd/
oxford_pets oxford-iiit-pet pets 37 3669 www.robots.ox.ac.uk/~vgg/data/pets/
caltech101 caltech101/101_ObjectCategories = - 5677 data.caltech.edu/records/mzrjq-6wc02
flowers102 flowers-102 flowers - 6149 www.robots.ox.ac.uk/~vgg/data/flowers/102/
"""

# What else `cosmos` has of them.
_OF_COSMOS: Mapping[str, Mapping[str, Any]] = {
    "sun397": {
        "separators": "_/",
        "remark": "all images, as CLIP Benchmark takes them: the published numbers are over 19,850 "
        "whose choice depended on Python's randomised hash and cannot be made again",
    },
    # Typing errors of the published list of names; those of clip_benchmark and torchvision have
    # none.
    "oxford_pets": {
        "class_names": {"Persian": "Persian'", "Yorkshire Terrier": "Yorkshire Terrie"}
    },
    "caltech101": {"class_list": "caltech101"},
    "flowers102": {"class_list": "flowers102"},
}

# What differs from `cosmos` in `clip-benchmark`.
_OF_CLIP_BENCHMARK: Mapping[str, Mapping[str, Any]] = {
    # torchvision's names as they are: "aquarium_fish".
    "cifar100": {"separators": ""},
    "sun397": {"remark": ""},
    # torchvision's names as they are, without typing errors.
    "oxford_pets": {"class_names": {}},
    # datasets/caltech101.py keeps the background as a class and has no split: 8,677 images and
    # 467 of the background.
    "caltech101": {
        "torchvision": "caltech101-with-background",
        "class_list": "caltech101-with-background",
        "n_images": 9_144,
    },
}


_cosmos = partial(ClassificationProtocol, family="cosmos", source="github.com/ExplainableML/cosmos")


def _torchvision(line: str) -> ClassificationProtocol:
    dataset, folder, templates, n_classes, n_images, page = line.split()
    return _cosmos(
        dataset=dataset,
        download=f"https://{page}",
        folder=folder,
        torchvision=dataset,
        templates=f"clip-benchmark/{dataset if templates == '=' else templates}",
        n_classes=None if n_classes == "-" else int(n_classes),
        n_images=int(n_images),
        **_OF_COSMOS.get(dataset, {}),
    )


_PROTOCOLS = (
    _cosmos(
        dataset="imagenet1k",
        download="https://image-net.org/download.php",
        # torchvision.datasets.ImageNet; a parent of it; Kaggle's archive; datasets/README.md of
        # github.com/ExplainableML/cosmos, from three folders; the folder itself.
        folder="val",
        usual_folders=(
            *("imagenet/val", "ILSVRC/Data/CLS-LOC/val"),
            *("imagenet/data/val_images", "data/val_images", "val_images", "."),
        ),
        class_list="imagenet1k",
        templates="openai-imagenet",
        n_images=50_000,
    ),
    _cosmos(
        dataset="imagenetv2",
        download="https://huggingface.co/datasets/vaishaal/ImageNetV2",
        # As the archive unpacks, and as CLIP Benchmark's imagenetv2.py renames it.
        folder="imagenetv2-matched-frequency-format-val",
        usual_folders=("ImageNetV2-matched-frequency",),
        class_list="imagenet1k-numbers",
        templates="openai-imagenet",
        n_images=10_000,
    ),
    *map(_torchvision, _TORCHVISION.strip().splitlines()),
)

CLASSIFICATION: Mapping[str, ClassificationProtocol] = {p.dataset: p for p in _PROTOCOLS}

CLASSIFICATION_FAMILIES: Mapping[str, Mapping[str, ClassificationProtocol]] = {
    "cosmos": CLASSIFICATION,
    "clip-benchmark": {
        name: replace(
            protocol,
            family="clip-benchmark",
            source="https://github.com/LAION-AI/CLIP_benchmark (datasets/builder.py)",
            **_OF_CLIP_BENCHMARK.get(name, {}),
        )
        for name, protocol in CLASSIFICATION.items()
    },
}
"""Protocols of every set by family, then by data set."""
