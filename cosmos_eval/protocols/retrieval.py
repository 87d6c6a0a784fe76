"""Image-text retrieval data sets. Imports no torch. Every set has several annotation files with the
same images and captions, in the layouts of those who publish them: whichever is there first is
read, and its counts must be the set's."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import PurePosixPath

from cosmos_eval.types import RetrievalProtocol


def _below(folders: Sequence[str], parts: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(PurePosixPath(folder, part)) for folder in folders for part in parts)


_known = partial(RetrievalProtocol, bare_names=True)
_cosmos = partial(_known, family="cosmos", source="github.com/ExplainableML/cosmos")
_karpathy = partial(_known, family="karpathy", source="github.com/LAION-AI/CLIP_benchmark")

COCO_IMAGES = "https://cocodataset.org/#download"
"""The page that the images of COCO come from."""

_FLICKR_IMAGES = "https://shannon.cs.illinois.edu/DenotationGraph/"
# What clip_benchmark/datasets/builder.py downloads.
_KARPATHY_LISTS = "https://github.com/mehdidc/retrieval_annotations/releases/tag/1.0.0"
# lavis/configs/datasets/flickr30k/defaults.yaml of github.com/salesforce/LAVIS; the same addresses
# stand in the configurations of ALBEF and BLIP.
_BLIP_LISTS = "https://storage.googleapis.com/sfr-vision-language-research/datasets"

# Where cocodataset.org's archives may be unpacked: in the data root; in coco/, with the images
# below coco/images in LAVIS (lavis/configs/datasets/coco/defaults_ret.yaml); below CLIP Benchmark's
# name of the set. coco_stuff164k, MMSegmentation's name of COCO-Stuff, has the same images.
_COCO_FOLDERS = (".", "coco", "mscoco_captions")

COCO_VAL2017_IMAGES = _below((*_COCO_FOLDERS[:2], "coco_stuff164k"), ("images/val2017", "val2017"))
"""Where the images of COCO val2017 may lie."""

# Names that the folder of Flickr30k's images has: in flickr30k-images.tar.gz, in Kaggle's archive
# (which has it twice), and as CLIP Benchmark moves it (clip_benchmark/datasets/builder.py: images
# beside the list); `Images` is InternVL's (github.com/OpenGVLab/InternVL).
_FLICKR_FOLDERS = (".", "flickr30k")
_FLICKR_IMAGE_FOLDERS = _below(
    _FLICKR_FOLDERS,
    (
        *("flickr30k-images", "flickr30k_images", "flickr30k_images/flickr30k_images"),
        *("images/flickr30k-images", "images", "Images", "."),
    ),
)
# The list lies among the images in datasets/README.md of github.com/ExplainableML/cosmos.
_FLICKR_LIST_FOLDERS = _below(_FLICKR_FOLDERS, (".", "annotations", "flickr30k-images"))

_PROTOCOLS = (
    # The published COSMOS evaluation keeps all captions of COCO val2017 (5,000 images, 25,014
    # captions; some images have more than five).
    _cosmos(
        dataset="coco-val2017",
        download=COCO_IMAGES,
        images=COCO_VAL2017_IMAGES,
        annotations=_below(_COCO_FOLDERS[:2], ("annotations/captions_val2017.json",)),
        n_images=5000,
        n_captions=25014,
    ),
    # The test split of Karpathy and Fei-Fei (arXiv 1412.2306) with all its captions, as
    # clip_benchmark/datasets/builder.py measures it: 5,000 images of val2014. The files are CLIP
    # Benchmark's, Karpathy's, and BLIP's.
    _karpathy(
        dataset="coco-karpathy",
        download=f"{COCO_IMAGES} (2014 Val images), {_KARPATHY_LISTS} (coco_test_karpathy.json)",
        images=_below(_COCO_FOLDERS, ("val2014", "images/val2014")),
        annotations=_below(
            _below(_COCO_FOLDERS, (".", "annotations")),
            ("coco_test_karpathy.json", "dataset_coco.json", "coco_karpathy_test.json"),
        ),
        n_images=5000,
        n_captions=25010,
    ),
    # The test split of Karpathy and Fei-Fei, five captions an image, as CLIP Benchmark measures it.
    _karpathy(
        dataset="flickr30k-karpathy",
        download=f"{_FLICKR_IMAGES} (images), {_KARPATHY_LISTS} (flickr30k_test_karpathy.txt)",
        images=_FLICKR_IMAGE_FOLDERS,
        annotations=_below(
            _FLICKR_LIST_FOLDERS,
            ("flickr30k_test_karpathy.txt", "dataset_flickr30k.json", "flickr30k_test.json"),
        ),
        n_images=1000,
        n_captions=5000,
    ),
    # What the published COSMOS script reads for Flickr30k: the validation split.
    _cosmos(
        dataset="flickr30k-val",
        download=f"{_FLICKR_IMAGES} (images), {_BLIP_LISTS}/flickr30k_val.json",
        images=_FLICKR_IMAGE_FOLDERS,
        annotations=_below(_FLICKR_LIST_FOLDERS, ("flickr30k_val.json",)),
        n_images=1014,
        n_captions=5070,
    ),
)

RETRIEVAL: Mapping[str, RetrievalProtocol] = {protocol.dataset: protocol for protocol in _PROTOCOLS}
