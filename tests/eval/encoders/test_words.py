"""Words of texts and the positions of their tokens, by hand and against the tokenizer itself."""

from __future__ import annotations

import pytest
from open_clip.tokenizer import SimpleTokenizer

from cosmos_core.data.scenes.vocabulary import scenes_tokenizer
from cosmos_eval.models.cosmos import split_words

OPENCLIP, SCENES = SimpleTokenizer(), scenes_tokenizer()


def cut_up(tokenizer: SimpleTokenizer, text: str) -> list[tuple[str, int]]:
    """Words and their numbers of tokens."""
    return [(word.text, word.stop - word.start) for word in split_words(tokenizer, text)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        # A dal|matian</w> is two tokens of OpenCLIP's vocabulary.
        ("A Dalmatian runs", [("A", 1), ("Dalmatian", 2), ("runs", 1)]),
        ("a dog, running.", [("a", 1), ("dog", 1), (",", 1), ("running", 1), (".", 1)]),
        ("don't", [("don't", 2)]),
        ("in 2024", [("in", 1), ("2024", 4)]),
        ("a t-shirt", [("a", 1), ("t-shirt", 3)]),
        ("U.S.A.", [("U.S.A", 5), (".", 1)]),
        ("red/blue --x-", [("red", 1), ("/", 1), ("blue", 1), ("--", 1), ("x", 1), ("-", 1)]),
        ("<b>dog</b>", [("<", 1), ("b", 1), (">", 1), ("dog", 1), ("</", 1), ("b", 1), (">", 1)]),
        ("(red) ...", [("(", 1), ("red", 1), (")", 1), ("...", 1)]),
        ("?!", [("?!", 1)]),
        ("  two\n lines ", [("two", 1), ("lines", 1)]),
        ("a &lt;b&gt; tag", [("a", 1), ("<", 1), ("b", 1), (">", 1), ("tag", 1)]),
        ("“So”", [('"', 1), ("So", 1), ('"', 1)]),
        ("   ", []),
    ],
)
def test_words_by_hand(text: str, words: list[tuple[str, int]]) -> None:
    assert cut_up(OPENCLIP, text) == words


def test_a_vocabulary_without_the_word() -> None:
    assert cut_up(SCENES, "a red zebra") == [("a", 1), ("red", 1), ("zebra", 4)]
    assert cut_up(OPENCLIP, "a red zebra") == [("a", 1), ("red", 1), ("zebra", 1)]


def test_vowel_signs_belong_to_words() -> None:
    """The tokenizer takes them for marks: five pieces in the first of these words."""
    assert [word for word, _ in cut_up(OPENCLIP, "हिन्दी में")] == ["हिन्दी", "में"]


def test_capitals_that_cannot_be_put_back() -> None:
    """The dotted I is two characters in lower case."""
    assert [word for word, _ in cut_up(OPENCLIP, "İzmir Café")] == ["i̇zmir", "café"]


def test_white_space_before_words() -> None:
    spaced = [(word.text, word.spaced) for word in split_words(OPENCLIP, "Oh, a dog!")]
    assert spaced == [("Oh", False), (",", False), ("a", True), ("dog", True), ("!", False)]


TEXTS = (
    "A photo of a Dalmatian, running.",
    "U.S.A. 3D t-shirts: 50% off!!! #dogs @home",
    "日本 naïve 🐕🐕 l'oiseau ΣΑΣ",
    "<start_of_text> nested <end_of_text>",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
)


@pytest.mark.parametrize("tokenizer", [OPENCLIP, SCENES], ids=["openclip", "scenes"])
@pytest.mark.parametrize("text", TEXTS)
def test_words_cover_the_tokens(tokenizer: SimpleTokenizer, text: str) -> None:
    """Each word's tokens spell it: decoded apart, they are the word in lower case."""
    tokens = tokenizer.encode(text)
    words = split_words(tokenizer, text)
    assert [word.start for word in words] == [1, *(word.stop for word in words[:-1])]
    assert words[-1].stop == len(tokens) + 1
    for word in words:
        decoded = tokenizer.decode(tokens[word.start - 1 : word.stop - 1])
        assert decoded.replace(" ", "") == word.text.lower()
