"""Image-text retrieval data sets. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

from cosmos_eval.types import Protocol, RetrievalProtocol

# The published COSMOS evaluation keeps all captions of COCO val2017 (5,000 images, 25,014
# captions; some images have more than five): github.com/ExplainableML/cosmos. The layout is that
# of cocodataset.org's downloads.
_COCO_VAL2017 = RetrievalProtocol(
    dataset="coco-val2017",
    family="cosmos",
    source="github.com/ExplainableML/cosmos",
    download="https://cocodataset.org/#download",
    images="images/val2017",
    annotations="annotations/captions_val2017.json",
)

RETRIEVAL: Mapping[str, Protocol] = {protocol.dataset: protocol for protocol in (_COCO_VAL2017,)}
