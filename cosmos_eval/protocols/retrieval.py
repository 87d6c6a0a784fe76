"""Image-text retrieval data sets. Imports no torch. Every set has several annotation files with the
same images and captions, in the layouts of those who publish them: whichever is there first is
read, and its counts must be the set's."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from cosmos_eval.types import RetrievalProtocol, family_of_sentences


def _below(folders: Sequence[str], parts: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(PurePosixPath(folder, part)) for folder in folders for part in parts)


_known = partial(RetrievalProtocol, bare_names=True)
# Its ranks are those of OpenCLIP's training code: numpy.floor(numpy.median(ranks from 0)) + 1.
_cosmos = partial(
    _known, family="cosmos", source="github.com/ExplainableML/cosmos", floor_median=True
)
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


def negbench_files(name: str) -> tuple[str, ...]:
    """Return where a file of NegBench may lie: in a clone of its repository, or in negbench/."""
    return _below(("negbench/data/images", "negbench/images", "negbench"), (name,))


# Alhamoud et al. 2025, arXiv 2501.09425. Issue 2 of the repository has recalls of both files that
# are 6 and 5 of 25,014 captions, all of COCO's val2017.
_negbench = partial(
    _known,
    family="negbench",
    source="github.com/m1k2zoo/negbench, datasets.md and benchmarks/src/training/data.py",
    download="https://github.com/m1k2zoo/negbench/blob/main/datasets.md",
    images=COCO_VAL2017_IMAGES,
    listed_captions=True,
    n_images=5000,
    n_captions=25014,
)

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
    _negbench(
        dataset="negbench-coco-retrieval",
        annotations=negbench_files("COCO_val_retrieval.csv"),
    ),
    _negbench(
        dataset="negbench-coco-negated",
        annotations=negbench_files("COCO_val_negated_retrieval_llama3.1_rephrased_affneg_true.csv"),
    ),
)


# Long captions. Layouts are those of the sets' own downloads, of EVAL_DATASETS.md of
# github.com/wuw2019/LoTLIP and of datasets/EVAL_DATASETS.md of github.com/ExplainableML/flair.
def _long(dataset: str, n: int, **fields: Any) -> RetrievalProtocol:
    """Return a set of n images with a caption each."""
    return _known(dataset=dataset, family="long", n_images=n, **{"n_captions": n, **fields})


_DCI_FOLDERS = ("dci/densely_captioned_images", "densely_captioned_images")
_DOCCI_FOLDERS = ("docci", ".")
_IIW_FOLDERS = ("imageinwords/datasets", "imageinwords")
_IIW_PARTS = ("DOCCI_Test/data.jsonl", "IIW-400/data.jsonl", "DCI_Test/data.jsonl")
# 100 images of DOCCI, 400 of DOCCI-AAR and 112 of DCI (datasets/README.md of the source), whose
# images LoTLIP copies to folders beside the lists.
_iiw = partial(
    _long,
    source="github.com/google/imageinwords, github.com/wuw2019/LoTLIP",
    download="https://github.com/google/imageinwords/tree/main/datasets, and images of docci "
    "(DOCCI and AAR) and dci",
    images=(
        *_below(("imageinwords",), ("docci", "docci_aar", "dci")),
        *("docci/images", "docci/images_aar", *_below(_DCI_FOLDERS, ("photos",))),
    ),
    image_suffix=".jpg",
    caption_key="IIW",
)
_sharegpt4v = partial(
    _long,
    n_captions=None,
    source="github.com/beichenzbc/Long-CLIP train/sharegpt4v.py, github.com/wuw2019/LoTLIP",
    download="https://huggingface.co/datasets/Lin-Chen/ShareGPT4V (captions), "
    "https://ai.meta.com/datasets/segment-anything-downloads (images)",
    images=("share4v", "sharegpt4v/data"),
    annotations=(
        "share4v/share4v_sam_10k.json",
        "sharegpt4v/data/share-captioner_coco_lcs_sam_1246k_1107.json",
    ),
)

_LONG = (
    # The test split (google.github.io/docci, arXiv 2404.19753).
    _long(
        "docci",
        5000,
        source="https://google.github.io/docci",
        download="https://google.github.io/docci/#downloads",
        images=_below(_DOCCI_FOLDERS, ("images",)),
        annotations=_below(_DOCCI_FOLDERS, ("docci_descriptions.jsonlines",)),
        image_key="image_file",
        caption_key="description",
        split_key="split",
    ),
    # All splits, as LoTLIP and FLAIR measure them; arXiv 2312.08578.
    _long(
        "dci",
        7805,
        source="github.com/facebookresearch/DCI, github.com/wuw2019/LoTLIP",
        download="https://github.com/facebookresearch/DCI#setup",
        images=_below(_DCI_FOLDERS, ("photos",)),
        annotations=_below(_DCI_FOLDERS, ("splits.json",)),
    ),
    _iiw("iiw", 612, annotations=_IIW_FOLDERS, parts=_IIW_PARTS),
    _iiw("iiw-400", 400, annotations=_below(_IIW_FOLDERS, _IIW_PARTS[1:2])),
    # Of each text the first line, as eval/retrieval/Urban1k.py of Long-CLIP reads it.
    _long(
        "urban1k",
        1000,
        source="github.com/beichenzbc/Long-CLIP",
        download="https://huggingface.co/datasets/BeichenZhang/Urban1k",
        images=_below(("Urban1k", "urban1k"), ("image", "images")),
        annotations=_below(("Urban1k", "urban1k"), ("caption", "annotations/annotations.json")),
        image_suffix=".jpg",
        captions_per_image=1,
        n_captions=None,
    ),
    # The first images of the file, all of SA-1B.
    _sharegpt4v("sharegpt4v-1k", 1000, first=1000),
    _sharegpt4v("sharegpt4v-10k", 10_000, first=10_000),
)

RETRIEVAL: Mapping[str, RetrievalProtocol] = {p.dataset: p for p in (*_PROTOCOLS, *_LONG)}

RETRIEVAL_FAMILIES: Mapping[str, Mapping[str, RetrievalProtocol]] = {
    family_of_sentences("long", sentences): {
        protocol.dataset: replace(
            protocol, family=family_of_sentences("long", sentences), sentences=sentences
        )
        for protocol in _LONG
    }
    for sentences in ("joined", "each")
}
"""Protocols of captions in sentences by family, then by data set."""
