# A model of your own: cosmos-eval run --model python:examples/two_tower.py --task retrieval
from open_clip import image_transform

import cosmos_core
from cosmos_core.data.scenes.vocabulary import scenes_tokenizer
from cosmos_eval import TwoTower

clip = cosmos_core.load_model(cosmos_core.bundled_models()["scenes-clip"].weights_path)
model = TwoTower(
    encode_image=clip.encode_image,
    encode_text=clip.encode_text,
    transform=image_transform(64, is_train=False),
    tokenize=scenes_tokenizer(),
    name="my-clip",
)
