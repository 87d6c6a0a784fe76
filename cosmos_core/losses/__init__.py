"""Losses, one a file."""

from cosmos_core.losses.contrastive import contrastive_loss
from cosmos_core.losses.cosmos import clip_loss, cosmos_loss

__all__ = ["clip_loss", "contrastive_loss", "cosmos_loss"]
