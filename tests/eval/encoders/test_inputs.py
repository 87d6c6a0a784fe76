"""Descriptions of an encoder's inputs: equal in every process, different for other inputs."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import pytest
import transformers
from open_clip.tokenizer import HFTokenizer, SigLipTokenizer, SimpleTokenizer
from support.encoders import load, save_cosmos

from cosmos_core.data.scenes.vocabulary import MERGES_FILE
from cosmos_eval.models.clip import describe_tokenizer
from cosmos_eval.models.specs import BUNDLED


@pytest.fixture(scope="module")
def other_merges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scenes' vocabulary with two merges exchanged: the same tokens, other ids."""
    with gzip.open(MERGES_FILE, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    lines[1], lines[2] = lines[2], lines[1]
    path = tmp_path_factory.mktemp("merges") / "merges.txt.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("\n".join(lines))
    return path


def described(tokenizer: Any) -> str:
    return json.dumps(describe_tokenizer(tokenizer), sort_keys=True)


def test_every_option_of_a_simple_tokenizer_changes_its_description(other_merges):
    make = partial(SimpleTokenizer, bpe_path=str(MERGES_FILE), context_length=20)
    tokenizers = [
        make(),
        make(context_length=77),
        make(bpe_path=str(other_merges)),
        make(additional_special_tokens=["<mask>"]),
        make(clean="canonicalize"),
        make(reduction_mask="simple"),
        make(reduction_mask="random"),
        make(reduction_mask="shuffle"),
    ]
    assert describe_tokenizer(make()) == describe_tokenizer(tokenizers[0])
    assert len({described(tokenizer) for tokenizer in tokenizers}) == len(tokenizers)


def test_every_option_of_a_hugging_face_tokenizer_changes_its_description(
    siglip_tokenizer, bert_tokenizer, save_siglip_tokenizer, tmp_path
):
    other_words = save_siglip_tokenizer(tmp_path / "words", ("a", "photo"))
    # The same tokens and ids, but cut from a text by other rules.
    other_rules = save_siglip_tokenizer(tmp_path / "rules")
    definition = json.loads((other_rules / "tokenizer.json").read_text())
    definition["normalizer"] = {"type": "Lowercase"}
    (other_rules / "tokenizer.json").write_text(json.dumps(definition))
    # Read from a folder with another name, with nothing else changed.
    same = save_siglip_tokenizer(tmp_path / "same")

    make = partial(HFTokenizer, siglip_tokenizer, context_length=8)
    tokenizers = [
        make(),
        make(context_length=9),
        make(clean="canonicalize"),
        make(strip_sep_token=True),
        make(tokenizer_mode="clips"),
        HFTokenizer(other_words, context_length=8),
        HFTokenizer(other_rules, context_length=8),
        HFTokenizer(bert_tokenizer, context_length=8),
    ]
    if open_clip.__version__ < "4":  # later versions ignore the option and pad on the right
        tokenizers.append(make(padding_side="left"))
    assert len({described(tokenizer) for tokenizer in tokenizers}) == len(tokenizers)
    copy = HFTokenizer(same, context_length=8)
    assert describe_tokenizer(copy) == describe_tokenizer(tokenizers[0])
    copy(["a dog"])  # sets how the tokenizer pads and cuts
    assert describe_tokenizer(copy) == describe_tokenizer(tokenizers[0])


def test_a_tokenizer_that_is_not_fast_is_described_by_its_files(siglip_tokenizer, tmp_path):
    """Characters, tokenized by the Python code of transformers."""
    tokenizer = HFTokenizer(siglip_tokenizer, context_length=8)
    descriptions = []
    for words in (["<unk>", "<pad>", "a"], ["<unk>", "<pad>", "b"]):
        folder = tmp_path / words[-1]
        folder.mkdir()
        (folder / "vocab.txt").write_text("\n".join(words))
        tokenizer.tokenizer = transformers.EsmTokenizer(str(folder / "vocab.txt"))
        descriptions.append(describe_tokenizer(tokenizer))
    assert descriptions[0]["rules_sha256"] != descriptions[1]["rules_sha256"]


def test_siglips_tokenizer_class_is_described(siglip_tokenizer):
    tokenizer = SigLipTokenizer.__new__(SigLipTokenizer)  # its constructor downloads
    tokenizer.tokenizer = HFTokenizer(siglip_tokenizer).tokenizer
    tokenizer.context_length = 64
    description = describe_tokenizer(tokenizer)
    assert (description["class"], description["context_length"]) == ("SigLipTokenizer", 64)


PROGRAM = """
import json, sys
from cosmos_eval.models import load_encoder
from cosmos_eval.models.specs import parse_model_spec
encoder = load_encoder(parse_model_spec(sys.argv[1]))
print(json.dumps([dict(encoder.preprocessing), dict(encoder.tokenizer)]))
"""


def test_another_process_describes_the_same():
    completed = subprocess.run(
        [sys.executable, "-c", PROGRAM, BUNDLED[0]], capture_output=True, text=True, check=True
    )
    encoder = load(BUNDLED[0])
    assert json.loads(completed.stdout) == [dict(encoder.preprocessing), dict(encoder.tokenizer)]


def test_models_of_both_loaders_are_described_alike(tiny_encoder, tmp_path):
    assert tiny_encoder.preprocessing == {
        "size": [32, 32],
        "mode": "RGB",
        "mean": [*open_clip.OPENAI_DATASET_MEAN],
        "std": [*open_clip.OPENAI_DATASET_STD],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "fill_color": 0,
    }
    assert tiny_encoder.tokenizer["context_length"] == 20
    mean_and_std = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    save_cosmos(tmp_path / "own.safetensors", preprocess=mean_and_std)
    encoder = load(f"cosmos:{tmp_path / 'own.safetensors'}")
    assert encoder.tokenizer == tiny_encoder.tokenizer
    assert encoder.preprocessing == {**tiny_encoder.preprocessing, **mean_and_std}
    assert encoder.image_mean == (0.5,) * 3
