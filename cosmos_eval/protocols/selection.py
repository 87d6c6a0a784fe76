"""Caption selection data sets: which of some captions, alike but for a detail, fits. No torch.
Counts are part of a protocol: a file with another number of items is another set."""

from collections.abc import Mapping
from functools import partial

from cosmos_eval.protocols.retrieval import COCO_IMAGES, COCO_VAL2017_IMAGES
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

SELECTION: Mapping[str, SelectionProtocol] = {protocol.dataset: protocol for protocol in _PROTOCOLS}
