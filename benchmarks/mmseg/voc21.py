"""PASCAL VOC 2012 with its background, read by MMSegmentation's own data set class."""

_base_ = ["base.py"]

model = {"type": "CosmosSegmentor", "model": "openclip:ViT-B-16/openai", "dataset": "voc21"}
test_dataloader = {
    "dataset": {
        "type": "PascalVOCDataset",
        "data_root": "data/VOCdevkit/VOC2012",
        "data_prefix": {"img_path": "JPEGImages", "seg_map_path": "SegmentationClass"},
        "ann_file": "ImageSets/Segmentation/val.txt",
        "pipeline": {{_base_.pipeline}},
    }
}
