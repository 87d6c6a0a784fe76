"""The settings that all configs of this folder share.

Images keep their size: the model resizes them itself.
"""

custom_imports = {"imports": ["cosmos_eval.tasks.segmentation.mmseg_model"]}
default_scope = "mmseg"
work_dir = "runs/mmseg"

pipeline = [
    {"type": "LoadImageFromFile"},
    {"type": "LoadAnnotations"},
    {"type": "PackSegInputs"},
]
test_dataloader = {
    "batch_size": 4,
    "num_workers": 2,
    "sampler": {"type": "DefaultSampler", "shuffle": False},
}
test_evaluator = {"type": "IoUMetric", "iou_metrics": ["mIoU"]}
test_cfg = {"type": "TestLoop"}
