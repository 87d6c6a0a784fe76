"""Tokenizers as the Hugging Face hub has them, with a vocabulary of a dozen words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = ("a", "dog", "cat", "two", "dogs", "on", "sofa", "red", "blue", "photo", "of", "the")


def save_siglip_tokenizer(folder: Path, words: tuple[str, ...] = WORDS) -> Path:
    """Save a tokenizer like SigLIP's.

    It has pieces of words, no start, and an end of text that is also the padding (1).
    """
    pieces = [("<unk>", 0.0), ("</s>", 0.0), *((f"▁{word}", -1.0) for word in words)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", None, [("</s>", 1)])
    special = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return folder


def save_bert_tokenizer(folder: Path) -> Path:
    """Save a tokenizer like BERT's: whole words between [CLS] and [SEP], padded with 0."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    ids = {word: i for i, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "pad", "cls", "sep")}
    special |= {"bos_token": "[CLS]", "eos_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vocabulary of sentencepiece, with the special pieces of SigLIP's and of XLM-R's."""
    import sentencepiece

    path = tmp_path_factory.mktemp("pieces") / "spiece.model"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(WORDS)] * 20),
        model_prefix=str(path.with_suffix("")),
        vocab_size=25,
        minloglevel=2,
        bos_id=0,
        eos_id=1,
        unk_id=2,
    )
    return path


@pytest.fixture(scope="session")
def siglip_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_siglip_tokenizer(tmp_path_factory.mktemp("siglip"))


@pytest.fixture(scope="session")
def bert_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert_tokenizer(tmp_path_factory.mktemp("bert"))


@pytest.fixture(name="save_siglip_tokenizer")
def save_siglip_tokenizer_fixture() -> Callable[..., Path]:
    return save_siglip_tokenizer
