"""SLIP (arXiv 2112.12750): CLIP on a weakly augmented view, and SimCLR between two strongly
augmented ones. Without a view for captions (`image.caption_scale`, as in the recipes on scenes) the
two meet the caption too. The head has no batch normalisation and reads the joint embedding, not the
tower's last layer."""

import torch.nn.functional as F
from pydantic.dataclasses import dataclass

from cosmos_core.config import STRICT, ImageViewConfig, Positive
from cosmos_core.losses import slip_loss
from cosmos_core.methods.clip import ClipFeatures, ClipMethod, clip_features
from cosmos_core.model.build import Architecture, create_model, model_config
from cosmos_core.model.clip import HEAD, MultiViewCLIP, ProjectionHead
from cosmos_core.types import Gather, LossTerms, ViewCounts, Views


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SlipMethod(ClipMethod):
    """Widths of the head: github.com/facebookresearch/SLIP."""

    name: str = "slip"
    hidden: Positive = 4096
    out: Positive = 256
    counts = ViewCounts(global_images=2, local_images=False, global_texts=1, local_texts=False)
    terms = ("clip", "simclr")
    # github.com/facebookresearch/SLIP: train_transform of main.py, augment of datasets.py.
    image = ImageViewConfig(
        caption_scale=(0.5, 1.0),
        global_scale=(0.08, 1.0),
        jitter=(0.4, 0.4, 0.4, 0.1),
        blur_p=(0.5, 0.5, 0.5),
        solarize_p=0.0,
    )

    def create_student(self, architecture: Architecture) -> MultiViewCLIP:
        student = create_model(architecture, "clip")
        width = model_config(architecture)["embed_dim"]
        student.add_module(HEAD, ProjectionHead(width, self.hidden, self.out))
        return student

    def student_features(self, student: MultiViewCLIP, views: Views) -> ClipFeatures:
        features = clip_features(student, views)
        strong = features.image[-self.counts.global_images :]
        projections = student.get_submodule(HEAD)(strong)
        caption = features.image[: -len(strong)] if len(features.image) > len(strong) else strong
        return features._replace(image=caption, head=F.normalize(projections, dim=-1))

    def loss(self, student: ClipFeatures, teacher: None, gather: Gather) -> LossTerms:
        """Return CLIP plus SimCLR, unweighted as published."""
        assert student.head is not None
        return slip_loss(*student[:3], student.head, gather)
