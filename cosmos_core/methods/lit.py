"""LiT (arXiv 2111.07991): CLIP with a locked image tower, which `model.init` names, so that a text
tower learns to read its features. As in OpenCLIP the tower's projection is locked too."""

from pydantic.dataclasses import dataclass

from cosmos_core.config import STRICT
from cosmos_core.methods.clip import ClipMethod
from cosmos_core.model.build import Architecture
from cosmos_core.model.clip import MultiViewCLIP


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LitMethod(ClipMethod):
    """Nothing is kept of the image tower for backward."""

    name: str = "lit"

    def create_student(self, architecture: Architecture) -> MultiViewCLIP:
        student = super().create_student(architecture)
        student.visual.requires_grad_(False)
        return student
