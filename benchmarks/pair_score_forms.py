"""`python benchmarks/pair_score_forms.py [--five]`: scores that COSMOS's cross-modal features give.

R@1 in percent of the bundled COSMOS on 500 scenes of the training stream that no model was trained
on, for every sum of cosines: of image and text (i, t), and of their cross-modal features (I, T),
which have attended to the tokens of the other. From these the score of pairs was chosen; the test
scenes were not used. `--five` takes all five captions of a scene instead of the joined one.
"""

from __future__ import annotations

import sys
from itertools import chain, combinations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cosmos_core.data.scenes import TRAIN
from cosmos_core.data.scenes.layouts import image_captions, joined_caption
from cosmos_core.data.scenes.scene import split_scenes
from cosmos_core.recipes.scenes import TRAIN_SCENES
from cosmos_eval.models import load_encoder
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.stats.retrieval import Candidates, RetrievalRanks, ranks_of_pairs

COUNT = 500


def cosines(model: torch.nn.Module, pixels: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    """The cosines (N, M) of all images with all texts, by the features compared."""
    image, patches = model.image_parts(pixels)
    text, words = model.text_parts(tokens)
    found = {
        name: torch.empty(len(image), len(text)) for name in ("it", "Ii", "It", "Ti", "Tt", "IT")
    }
    for t in range(len(text)):
        of_image = image + model.text_attn_cross_pool.pool(image[None], words[t : t + 1])[0]
        own = text[t].expand(len(image), 1, -1)
        of_text = text[t] + model.visual.attn_cross_pool.pool(own, patches)[:, 0]
        features = {"i": image, "t": text[t][None], "I": of_image, "T": of_text}
        for name, matrix in found.items():
            matrix[:, t] = F.cosine_similarity(*(features[letter] for letter in name), dim=-1)
    return found


def recalls(scores: np.ndarray, owner: np.ndarray) -> str:
    """Image to text and text to image R@1."""
    n, m = scores.shape
    every = Candidates(np.tile(np.arange(m), (n, 1)), np.tile(np.arange(n), (m, 1)))
    unused = RetrievalRanks(np.zeros(n, int), np.zeros(m, int))
    ranks = ranks_of_pairs(every, lambda i, t: scores[i, t], owner, unused)
    return " | ".join(f"{100 * np.mean(rank == 1):.1f}" for rank in ranks)


def main(*, five: bool) -> None:
    encoder = load_encoder(parse_model_spec("scenes-cosmos"))
    scenes = [*split_scenes(TRAIN, COUNT, start=TRAIN_SCENES)]
    captions = [image_captions(s) if five else [joined_caption(s)] for s in scenes]
    owner = np.repeat(np.arange(COUNT), [*map(len, captions)])
    pixels = torch.stack([encoder.transform(Image.fromarray(scene.image)) for scene in scenes])
    with torch.inference_mode():
        found = cosines(encoder.model, pixels, encoder.tokenize([*chain(*captions)]))
    print("| sum of cosines | image to text | text to image |\n| --- | --: | --: |")
    single = [(name,) for name in found]
    sums = [("Ii", "Tt"), ("It", "Ti"), ("it", "Ii", "Tt"), ("it", "It", "Ti")]
    sums += [pair for pair in combinations(found, 2) if "it" in pair]
    for names in (*single, *sums):
        total = sum(found[name] for name in names).numpy()
        print(f"| {' + '.join('·'.join(name) for name in names)} | {recalls(total, owner)} |")


if __name__ == "__main__":
    main(five="--five" in sys.argv[1:])
