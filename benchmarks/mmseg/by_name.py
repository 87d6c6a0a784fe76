"""Any segmentation data set that `cosmos-eval list datasets` prints, or a YAML file.

MODEL, DATASET and DATA_ROOT are environment variables; every constant comes from the protocol.
"""

_base_ = ["base.py"]

dataset = "{{$DATASET:voc20}}"

model = {
    "type": "CosmosSegmentor",
    "model": "{{$MODEL:openclip:ViT-B-16/openai}}",
    "dataset": dataset,
}
test_dataloader = {
    "dataset": {
        "type": "CosmosEvalDataset",
        "dataset": dataset,
        "data_root": "{{$DATA_ROOT:data}}",
        "pipeline": {{_base_.pipeline}},
    }
}
