r"""A model that scores an image and a text together: text-conditioned attention pooling as FLAIR
does it (Xiao et al., arXiv 2412.03561, section 3.2). The text is the query that pools the patches
of the image, and the score is the cosine of what it pools with the text itself.

    cosmos-eval run --model python:examples/pair_scorer.py --dataset scenes-retrieval \
        --protocol scenes --protocol scenes-pairs100

FLAIR learns the projections of the pooling, as `visual_proj.*` of its checkpoints. Here they are
identities on top of the bundled CLIP, which was trained without them.
"""

import torch
import torch.nn.functional as F
from open_clip import image_transform
from torch import Tensor, nn

import cosmos_core
from cosmos_core.data.scenes.vocabulary import scenes_tokenizer
from cosmos_eval import TwoTower


class TextConditionedPooling(nn.Module):
    """Pool the patches of B images once for each of T texts. A text may also attend to nothing:
    `add_zero_attn` adds an empty token."""

    def __init__(self, embed_dim: int, heads: int = 8) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(embed_dim, heads, batch_first=True, add_zero_attn=True)
        self.ln_q, self.ln_k, self.ln_v = (nn.LayerNorm(embed_dim) for _ in range(3))
        with torch.no_grad():
            self.attn.in_proj_weight.copy_(torch.eye(embed_dim).repeat(3, 1))
            self.attn.out_proj.weight.copy_(torch.eye(embed_dim))

    def forward(self, texts: Tensor, patches: Tensor) -> Tensor:
        """Texts (T, D) over patches (B, N, D) -> (B, T, D)."""
        queries = self.ln_q(texts).expand(len(patches), -1, -1)
        return self.attn(queries, self.ln_k(patches), self.ln_v(patches), need_weights=False)[0]


clip = cosmos_core.load_model(cosmos_core.bundled_models()["scenes-clip"].weights_path)
pooling = TextConditionedPooling(clip.visual.output_dim)


def patches(images: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, N, D) projected patches."""
    return clip.image_tokens([images], keep=len(images)).tokens @ clip.visual.proj


def text_conditioned(patches: Tensor, texts: Tensor) -> Tensor:
    """Patches (B, N, D) and texts (T, D) -> scores (B, T)."""
    return F.cosine_similarity(pooling(texts, patches), texts, dim=-1)


model = TwoTower(
    encode_image=clip.encode_image,
    encode_text=clip.encode_text,
    transform=image_transform(64, is_train=False),
    tokenize=scenes_tokenizer(),
    name="clip-with-pooling",
    image_parts=patches,
    text_parts=clip.encode_text,
    pair_scores=text_conditioned,
)
