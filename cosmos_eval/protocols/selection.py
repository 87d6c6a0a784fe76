"""Caption selection data sets: which of some captions, alike but for a detail, fits. No torch.
Counts are part of a protocol: a file with another number of items is another set."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from cosmos_eval.protocols.retrieval import COCO_IMAGES, COCO_VAL2017_IMAGES, negbench_files
from cosmos_eval.types import SelectionProtocol

# Relations that ARO's notebook ("Replicate ARO! VG-Relation, VG-Attribution.ipynb") leaves out of
# its mean, since most hold both ways round.
_SYMMETRIC = tuple(
    """
    adjusting|attached to|between|bigger than|biting|boarding|brushing|chewing|cleaning|climbing|
    close to|coming from|coming out of|contain|crossing|dragging|draped over|drinking|drinking from|
    driving|driving down|driving on|eating from|eating in|enclosing|exiting|facing|filled with|
    floating in|floating on|flying|flying above|flying in|flying over|flying through|full of|
    going down|going into|going through|grazing in|growing in|growing on|guiding|hanging from|
    hanging in|hanging off|hanging over|higher than|holding onto|hugging|in between|jumping off|
    jumping on|jumping over|kept in|larger than|leading|leaning over|leaving|licking|longer than|
    looking in|looking into|looking out|looking over|looking through|lying next to|lying on top of|
    making|mixed with|mounted on|moving|on the back of|on the edge of|on the front of|
    on the other side of|opening|painted on|parked at|parked beside|parked by|parked in|
    parked in front of|parked near|parked next to|perched on|petting|piled on|playing|playing in|
    playing on|playing with|pouring|reaching for|reading|reflected on|riding on|running in|
    running on|running through|seen through|sitting behind|sitting beside|sitting by|
    sitting in front of|sitting near|sitting next to|sitting under|skiing down|skiing on|
    sleeping in|sleeping on|smiling at|sniffing|splashing|sprinkled on|stacked on|standing against|
    standing around|standing behind|standing beside|standing in front of|standing near|
    standing next to|staring at|stuck in|surrounding|swimming in|swinging|talking to|topped with|
    touching|traveling down|traveling on|tying|typing on|underneath|wading in|waiting for|
    walking across|walking by|walking down|walking next to|walking through|working in|working on|
    worn on|wrapped around|wrapped in|by|of|near|next to|with|beside|on the side of|around
    """.replace("\n    ", "").split("|")
)

# The halves of ARO whose captions are in its files (Yuksekgonul et al. 2023, arXiv 2210.01936); the
# captions of the others are drawn anew by a program each time and are no fixed set. Files, boxes
# and subsets as in dataset_zoo/aro_datasets.py. Numbers of items: the paper.
_aro = partial(
    SelectionProtocol,
    family="aro",
    source="github.com/mertyg/vision-language-models-are-bows, dataset_zoo/aro_datasets.py",
    download="https://github.com/mertyg/vision-language-models-are-bows",
    images="aro/images",
    layout="aro",
)


def _of_github(dataset: str, repository: str, file: str, **fields: Any) -> SelectionProtocol:
    """Return a set whose files and rule are those of a file of a repository."""
    page = f"https://github.com/{repository}"
    known = {"family": dataset, "download": page, "source": f"github.com/{repository}, {file}"}
    return SelectionProtocol(dataset=dataset, **{**known, **fields})


# Numbers of items: Kamath et al. 2023, arXiv 2310.19785. Read at commit 7c1f255.
_whatsup = partial(
    _of_github,
    repository="amitakamath/whatsup_vlms",
    file="dataset_zoo/aro_datasets.py",
    family="whatsup",
)


def _in_whatsup(name: str) -> tuple[str, ...]:
    return tuple(f"{folder}/{name}" for folder in ("whatsup_vlms/data", "whatsup/data", "whatsup"))


# Alhamoud et al. 2025, arXiv 2501.09425.
_negbench = partial(
    _of_github,
    repository="m1k2zoo/negbench",
    file="datasets.md and benchmarks/src/training/data.py",
    family="negbench",
    layout="negbench",
)

_PROTOCOLS = (
    # Hsieh et al. 2023, arXiv 2306.14610. Files, and images as main_eval.py of
    # github.com/RAIVNLab/sugar-crepe reads them: data/SUBSET.json beside COCO's val2017. Numbers
    # are those of the released files (commit 0047054). The paper has 246 of swap_obj; of the
    # indices 0 to 245 the file leaves 108 out.
    SelectionProtocol(
        dataset="sugarcrepe",
        family="sugarcrepe",
        source="github.com/RAIVNLab/sugar-crepe, main_eval.py",
        download=f"{COCO_IMAGES} (images: COCO val2017), "
        "https://github.com/RAIVNLab/sugar-crepe/tree/main/data (items)",
        images=COCO_VAL2017_IMAGES,
        annotations=("sugar-crepe/data", "sugar_crepe", "sugarcrepe"),
        layout="sugarcrepe",
        n_items=7511,
        subset_items={
            **{"add_att": 692, "add_obj": 2062, "replace_att": 788, "replace_obj": 1652},
            **{"replace_rel": 1406, "swap_att": 666, "swap_obj": 245},
        },
    ),
    # Thrush et al. 2022, arXiv 2204.03162: 400 pairs. Files as the data set's page on Hugging Face
    # has them (images.zip unpacked): records name images without their suffix.
    SelectionProtocol(
        dataset="winoground",
        family="winoground",
        source="huggingface.co/datasets/facebook/winoground",
        download="https://huggingface.co/datasets/facebook/winoground",
        images=("winoground/data/images", "winoground/images"),
        annotations=("winoground/data/examples.jsonl", "winoground/examples.jsonl"),
        layout="pairs",
        image_suffix=".png",
        subset_key="collapsed_tag",
        n_items=400,
    ),
    # Tong et al. 2024, arXiv 2401.06209: nine visual patterns of 15 pairs each (README.md of
    # github.com/tsb0601/MMVP). Folder names, prompt and rule by its scripts/evaluate_vlm.py: a pair
    # is right when both statements choose their image.
    SelectionProtocol(
        dataset="mmvp-vlm",
        family="mmvp",
        source="github.com/tsb0601/MMVP, scripts/evaluate_vlm.py",
        download="https://huggingface.co/datasets/MMVP/MMVP_VLM",
        images="MMVP_VLM/MLLM_VLM Images",
        annotations="MMVP_VLM/Questions.csv",
        layout="mmvp",
        template="a photo of {}",
        pair_accuracy="image",
        n_items=135,
    ),
    _aro(
        dataset="aro-relation",
        annotations="aro/visual_genome_relation.json",
        n_items=23_937,
        left_out=_SYMMETRIC,
    ),
    _aro(
        dataset="aro-attribution",
        annotations="aro/visual_genome_attribution.json",
        n_items=28_748,
        smallest=25,  # evaluate_scores leaves attributes of fewer items out
    ),
)

# Numbers of items that no source states are None. Commits are those that were read.
_COMPOSITIONALITY = (
    # Dumpala et al. 2024, arXiv 2406.11171. Numbers are those of the files (cfdcd82, a70a831).
    _of_github(
        "sugarcrepe-pp",
        "Sri-Harsha/scpp",
        "VLMs/test_Variants_CLIP.py",
        images=COCO_VAL2017_IMAGES,
        annotations=("scpp/data", "scpp/VLMs/data", "sugarcrepe-pp"),
        layout="sugarcrepe",
        n_items=4757,
        subset_items={
            **{"replace_att": 788, "replace_obj": 1652, "replace_rel": 1406},
            **{"swap_att": 666, "swap_obj": 245},
        },
    ),
    # Hendricks and Nematzadeh 2021, arXiv 2106.09141 (206219e).
    _of_github(
        "svo-probes",
        "google-deepmind/svo_probes",
        "probing_image_text_models.ipynb",
        images="svo_probes/images",
        annotations="svo_probes/svo_probes.csv",
        layout="svo",
        image_suffix=".jpg",
    ),
    # Parcalabescu et al. 2022, arXiv 2112.07566 (3526a09).
    _of_github(
        "valse",
        "Heidelberg-NLP/VALSE",
        "README.md",
        images=("VALSE/images", "VALSE/data/images", "valse/images"),
        annotations=("VALSE/data", "valse/data"),
        layout="valse",
    ),
    *(
        _whatsup(
            f"whatsup-{letter}",
            images=_in_whatsup(f"controlled_{kind}"),
            annotations=_in_whatsup(f"controlled_{kind}_dataset.json"),
            layout="whatsup",
            n_items=n_items,
        )
        for letter, kind, n_items in (("a", "images", 412), ("b", "clevr", 408))
    ),
    _whatsup(
        "coco-spatial",
        images=(*_in_whatsup("val2017"), *COCO_VAL2017_IMAGES),
        annotations=_in_whatsup("coco_qa_one_obj.json"),
        layout="coco-spatial",
    ),
    _whatsup(
        "gqa-spatial",
        images=_in_whatsup("vg_images"),
        annotations=_in_whatsup("vg_qa_one_obj.json"),
        layout="gqa-spatial",
    ),
    _negbench(
        "negbench-coco",
        images=COCO_VAL2017_IMAGES,
        annotations=negbench_files("COCO_val_mcq_llama3.1_rephrased.csv"),
    ),
    _negbench(
        "negbench-voc2007",
        images=("VOCdevkit/VOC2007/JPEGImages", "VOC2007/JPEGImages"),
        annotations=negbench_files("VOC2007_mcq_llama3.1_rephrased.csv"),
    ),
    # Burapacheep et al. 2024, arXiv 2402.04492 (2d7d10a): the test split.
    _of_github(
        "colorswap",
        "Top34051/colorswap",
        "README.md",
        images=("colorswap/data", "colorswap"),
        annotations=("colorswap/data/test.json", "colorswap/test.json"),
        layout="pairs",
    ),
    # Miranda et al. 2024, arXiv 2406.09952 (0e09346). docs/caption-selection.md writes the hub's
    # Parquet files as pairs.
    _of_github(
        "bivlc",
        "IMirandaM/BiVLC",
        "README.md",
        download="https://huggingface.co/datasets/imirandam/BiVLC",
        images="bivlc/images",
        annotations="bivlc/items.jsonl",
        layout="pairs",
        subset_key="type",
        n_items=2933,
    ),
    # Wang et al. 2023, arXiv 2303.14465 (128ac8a): the tenth with public labels.
    _of_github(
        "eqben-subset",
        "Wangt-CN/EqBen",
        "src/eqben/eqben_utils.py",
        family="eqben",
        images=("eqben/image_subset", "eqben/images"),
        annotations="eqben/eqben_subset_10percent_final.json",
        layout="eqben",
    ),
)

SELECTION: Mapping[str, SelectionProtocol] = {
    protocol.dataset: protocol for protocol in (*_PROTOCOLS, *_COMPOSITIONALITY)
}
