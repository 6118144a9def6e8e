"""Train the WordPiece vocabulary of the demo from the drawn corpus's train captions.

    python -m ivt.corpora.drawn.train_tokenizer OUTPUT_DIR

A vocabulary of about a thousand pieces instead of BERT's 30,522 keeps the demo's model small. Every letter, digit and
punctuation mark is a piece of its own, so a free-text query never becomes [UNK]. Training is not deterministic (pieces
of equal score come in any order), so `ivt/recipes/tokenizer-synthetic` was made once and is kept in the repository.
"""

import argparse
import string
from collections.abc import Iterable
from pathlib import Path

from tokenizers import BertWordPieceTokenizer
from transformers import BertTokenizer

from .synthetic import sample_rows

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]  # in this order: [PAD] is id 0
CHARACTERS = string.ascii_lowercase + string.digits + string.punctuation
MAX_TOKENS = 128  # the longest caption has 60 words


def train_vocabulary(captions: Iterable[str], vocab_size: int = 1500) -> dict[str, int]:
    """Train a lower-casing WordPiece vocabulary that also holds every single character of CHARACTERS.

    Returns:
        Token to id, ids 0 … n - 1, special tokens first; fewer than `vocab_size` where the captions have no more.
    """
    pieces = SPECIAL_TOKENS + list(CHARACTERS) + [f"##{character}" for character in CHARACTERS]
    trained = BertWordPieceTokenizer(lowercase=True)
    trained.train_from_iterator(
        captions,
        vocab_size=vocab_size,
        min_frequency=5,  # every word of the grammar is a token, and a typo falls into pieces that occur elsewhere
        special_tokens=pieces,
        show_progress=False,
    )
    return trained.get_vocab()


def main() -> None:
    """Read the command line, train, save, and say how long captions become."""
    parser = argparse.ArgumentParser(description="Train the WordPiece vocabulary of the demo.")
    parser.add_argument("output_dir", type=Path)
    arguments = parser.parse_args()

    captions = [caption for *_, captions in sample_rows("train") for caption in captions]
    tokenizer = BertTokenizer(vocab=train_vocabulary(captions), model_max_length=MAX_TOKENS)
    tokenizer.save_pretrained(arguments.output_dir)
    tokens = sum(len(tokenizer.tokenize(caption)) for caption in captions) / len(captions)
    words = sum(len(caption.split()) for caption in captions) / len(captions)
    print(f"{len(tokenizer)} entries in {arguments.output_dir}")
    print(f"a train caption has {words:.1f} words and {tokens:.1f} tokens on average")


if __name__ == "__main__":
    main()
