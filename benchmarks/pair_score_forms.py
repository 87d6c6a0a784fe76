"""`python benchmarks/pair_score_forms.py [--five]`: scores that COSMOS's cross-modal features give.

R@1 in percent of the bundled COSMOS on 500 scenes of the training stream that no model was trained
on, for sums of cosines: of image and text (i, t), and of their cross-modal features (I, T), which
have attended to the tokens of the other. The score of pairs was chosen by these figures; the test
scenes were not used. `--five` takes all five captions of a scene instead of the joined one.
"""

from __future__ import annotations

import sys
from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cosmos_core.data.scenes import TRAIN
from cosmos_core.data.scenes.layouts import image_captions, joined_caption
from cosmos_core.data.scenes.scene import split_scenes
from cosmos_core.model.cosmos import Cosmos
from cosmos_core.recipes.scenes import TRAIN_SCENES
from cosmos_eval.models import cosmos
from cosmos_eval.models.specs import parse_model_spec

N_SCENES = 500
# The two features of each cosine: of image and text (i, t), and cross-modal ones (I, T).
COSINES = ("it", "Ii", "It", "Ti", "Tt", "IT")
# Sums of cosines beside the single cosines, and beside i·t plus any other cosine.
SUMS = (("Ii", "Tt"), ("It", "Ti"), ("it", "Ii", "Tt"), ("it", "It", "Ti"))


def compute_cosines(model: Cosmos, pixels: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    """Return the cosines (N, M) of N images with M texts, by the letters of the two features.

    Args:
        model: The model.
        pixels: The images (N, 3, H, W).
        tokens: Token ids of the texts (M, S).
    """
    image_features, patch_keys = model.image_parts(pixels)  # (N, D), (N, P, 2D)
    text_features, token_keys = model.text_parts(tokens)  # (M, D), (M, S, 2D)
    n_images, n_texts = len(image_features), len(text_features)
    cosines = {letters: torch.empty(n_images, n_texts) for letters in COSINES}
    for index in range(n_texts):
        text_feature = text_features[index]
        # Each image pools the tokens of the text, and the text pools the patches of each image.
        image_pooled = model.text_attn_cross_pool.pool(
            image_features[None], token_keys[index : index + 1]
        )[0]
        text_queries = text_feature.expand(n_images, 1, -1)
        text_pooled = model.visual.attn_cross_pool.pool(text_queries, patch_keys)[:, 0]
        features = {
            "i": image_features,
            "t": text_feature[None],
            "I": image_features + image_pooled,
            "T": text_feature + text_pooled,
        }
        for letters, cosine in cosines.items():
            first, second = (features[letter] for letter in letters)
            cosine[:, index] = F.cosine_similarity(first, second, dim=-1)
    return cosines


def recall_at_1(scores: NDArray[np.float32], is_positive: NDArray[np.bool_]) -> float:
    """Return the percentage of queries for which a positive has the highest score.

    A query does not count if another item has the same score as its best positive.

    Args:
        scores: (queries, items), the scores.
        is_positive: (queries, items), whether an item is right for a query.
    """
    best_positive = np.where(is_positive, scores, -np.inf).max(axis=1)
    best_other = np.where(is_positive, -np.inf, scores).max(axis=1)
    return 100 * float(np.mean(best_positive > best_other))


def summed_cosines() -> list[tuple[str, ...]]:
    """Return the cosines that each row of the table sums."""
    single = [(letters,) for letters in COSINES]
    with_features = [letters for letters in combinations(COSINES, 2) if "it" in letters]
    return [*single, *SUMS, *with_features]


def main(*, all_captions: bool) -> None:
    """Print a table of the recall that each sum of cosines gives.

    Args:
        all_captions: True if all five captions of a scene are texts, False for the joined one.
    """
    encoder = cosmos.load(parse_model_spec("scenes-cosmos"), "cpu", "fp32")
    images: list[Tensor] = []
    captions: list[str] = []
    image_of_text: list[int] = []
    for index, scene in enumerate(split_scenes(TRAIN, N_SCENES, start=TRAIN_SCENES)):
        images.append(encoder.transform(Image.fromarray(scene.image)))
        scene_captions = image_captions(scene) if all_captions else [joined_caption(scene)]
        captions += scene_captions
        image_of_text += [index] * len(scene_captions)
    with torch.inference_mode():
        cosines = compute_cosines(encoder.model, torch.stack(images), encoder.tokenize(captions))

    is_positive = np.arange(N_SCENES)[:, None] == np.array(image_of_text)  # (images, texts)
    print("| sum of cosines | image to text | text to image |\n| --- | --: | --: |")
    for names in summed_cosines():
        total = cosines[names[0]]
        for name in names[1:]:
            total = total + cosines[name]
        scores = total.numpy()
        image_to_text = recall_at_1(scores, is_positive)
        text_to_image = recall_at_1(scores.T, is_positive.T)
        title = " + ".join("·".join(name) for name in names)
        print(f"| {title} | {image_to_text:.1f} | {text_to_image:.1f} |")


if __name__ == "__main__":
    main(all_captions="--five" in sys.argv[1:])
