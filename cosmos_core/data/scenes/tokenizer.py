"""A tokenizer that is quick for captions of scenes. It imports torch."""

from open_clip.tokenizer import SimpleTokenizer

from cosmos_core.data.scenes import Version
from cosmos_core.data.scenes.vocabulary import merges_file, words


class ScenesTokenizer(SimpleTokenizer):
    """OpenCLIP's tokenizer, which looks up texts that consist of words of the scenes.

    It gives the same tokens. Byte pair encoding takes ten times as long, and in small trainings as
    long as a step of CLIP.
    """

    def __init__(self, version: Version, context_length: int) -> None:
        """Read the bundled vocabulary of a version of the scenes.

        Args:
            version: The version of the scenes.
            context_length: The number of tokens to which texts are padded or cut.
        """
        super().__init__(bpe_path=str(merges_file(version)), context_length=context_length)
        self._token_by_word: dict[str, int] = {}
        for word in (*words(version.name), "."):
            tokens = super().encode(word)
            if len(tokens) == 1:
                self._token_by_word[word] = tokens[0]

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without the start and the end token."""
        tokens = []
        # Sentences are joined by ". ".
        for word in text.replace(". ", " . ").split(" "):
            token = self._token_by_word.get(word)
            if token is None:
                return list(super().encode(text))
            tokens.append(token)
        return tokens
