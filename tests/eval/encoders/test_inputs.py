"""What decides an encoder's inputs: the same in every process, different when anything differs."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import transformers
from open_clip.tokenizer import HFTokenizer, SigLipTokenizer, SimpleTokenizer
from open_clip.transform import PreprocessCfg

import cosmos_core
from cosmos_core.data.scenes.vocabulary import MERGES_FILE
from cosmos_core.model.checkpoint import save_checkpoint
from cosmos_eval.models import load_encoder
from cosmos_eval.models.clip import ClipEncoder, describe_preprocessing, describe_tokenizer
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.models.specs import BUNDLED, parse_model_spec

USUAL = PreprocessCfg()
OTHERS = {
    "size": 336,
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "interpolation": "bilinear",
    "resize_mode": "squash",
    "fill_color": 127,
}


def test_preprocessing_in_full() -> None:
    half = (0.5, 0.5, 0.5)
    config = PreprocessCfg((64, 32), "RGB", half, half, "bicubic", "squash", 0)
    assert describe_preprocessing(config) == {
        "size": [64, 32],
        "mode": "RGB",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize_mode": "squash",
        "fill_color": 0,
    }


@pytest.mark.parametrize("name", OTHERS)
def test_another_transform_has_another_description(name: str) -> None:
    other = replace(USUAL, **{name: OTHERS[name]})
    assert describe_preprocessing(other) != describe_preprocessing(USUAL)


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


def test_other_simple_tokenizers(other_merges: Path) -> None:
    make = partial(SimpleTokenizer, bpe_path=str(MERGES_FILE), context_length=20)
    descriptions = [
        describe_tokenizer(tokenizer)
        for tokenizer in (
            make(),
            make(context_length=77),
            make(bpe_path=str(other_merges)),
            make(additional_special_tokens=["<mask>"]),
            make(clean="canonicalize"),
            make(reduction_mask="simple"),
            make(reduction_mask="random"),
            make(reduction_mask="shuffle"),
        )
    ]
    assert describe_tokenizer(make()) == descriptions[0]
    assert len({json.dumps(one, sort_keys=True) for one in descriptions}) == len(descriptions)


def test_other_hugging_face_tokenizers(
    siglip_tokenizer: Path,
    bert_tokenizer: Path,
    save_siglip_tokenizer: Callable[..., Path],
    tmp_path: Path,
) -> None:
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
        make(padding_side="left"),
        HFTokenizer(other_words, context_length=8),
        HFTokenizer(other_rules, context_length=8),
        HFTokenizer(bert_tokenizer, context_length=8),
    ]
    descriptions = [json.dumps(describe_tokenizer(one), sort_keys=True) for one in tokenizers]
    assert len(set(descriptions)) == len(descriptions)
    copy = HFTokenizer(same, context_length=8)
    assert describe_tokenizer(copy) == describe_tokenizer(tokenizers[0])
    copy(["a dog"])  # sets how the tokenizer pads and cuts
    assert describe_tokenizer(copy) == describe_tokenizer(tokenizers[0])


def test_a_tokenizer_that_is_not_fast(siglip_tokenizer: Path, tmp_path: Path) -> None:
    """Characters, as transformers' own Python has them; only its files can be described."""
    tokenizer = HFTokenizer(siglip_tokenizer, context_length=8)
    found = []
    for words in (["<unk>", "<pad>", "a"], ["<unk>", "<pad>", "b"]):
        folder = tmp_path / words[-1]
        folder.mkdir()
        (folder / "vocab.txt").write_text("\n".join(words))
        tokenizer.tokenizer = transformers.EsmTokenizer(str(folder / "vocab.txt"))
        found.append(describe_tokenizer(tokenizer))
    assert found[0]["rules_sha256"] != found[1]["rules_sha256"]


def test_siglips_own_tokenizer_class(siglip_tokenizer: Path) -> None:
    tokenizer = SigLipTokenizer.__new__(SigLipTokenizer)  # its constructor downloads
    tokenizer.tokenizer = HFTokenizer(siglip_tokenizer).tokenizer
    tokenizer.context_length = 64
    found = describe_tokenizer(tokenizer)
    assert (found["class"], found["context_length"]) == ("SigLipTokenizer", 64)


def of(encoder: Encoder) -> str:
    return json.dumps([dict(encoder.preprocessing), dict(encoder.tokenizer)], sort_keys=True)


PROGRAM = """
import json, sys
from cosmos_eval.models import load_encoder
from cosmos_eval.models.specs import parse_model_spec
encoder = load_encoder(parse_model_spec(sys.argv[1]))
print(json.dumps([dict(encoder.preprocessing), dict(encoder.tokenizer)], sort_keys=True))
"""


def test_another_process_describes_the_same() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, BUNDLED[0]], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == of(load_encoder(parse_model_spec(BUNDLED[0])))


def test_models_of_both_loaders(tiny_encoder: ClipEncoder, tmp_path: Path) -> None:
    assert tiny_encoder.preprocessing["size"] == [32, 32]
    assert tiny_encoder.tokenizer["context_length"] == 20
    config = {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 32,
            "layers": 1,
            "width": 32,
            "head_width": 16,
            "patch_size": 8,
        },
        "text_cfg": {"context_length": 20, "width": 16, "heads": 2, "layers": 1},
        "preprocess": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    }
    path = tmp_path / "own.safetensors"
    save_checkpoint(path, {"teacher": cosmos_core.create_model(config)}, "cosmos", config, {})
    encoder = load_encoder(parse_model_spec(f"cosmos:{path}"))
    assert encoder.tokenizer == tiny_encoder.tokenizer
    assert encoder.preprocessing == {
        **tiny_encoder.preprocessing,
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
    }
    assert encoder.image_mean == (0.5,) * 3
