"""The phrase and word levels of IVT's authors, which are other texts in every epoch.

Written from a description of what their code does. A phrase is the longest piece between commas of a random sentence,
or the rest of that sentence. For the word level they take a random subset of a caption's attributes (CUHK-PEDES), or a
random clause (ICFG-PEDES, RSTPReid).
"""

import numpy as np

LEAST_LETTERS = 5  # shorter pieces ("and", "shoes") are no phrases


def _random(pieces: list[str], rng: np.random.Generator) -> str:
    return pieces[rng.integers(len(pieces))]


def _sentence_and_clauses(caption: str, rng: np.random.Generator) -> tuple[str, list[str]]:
    """A random sentence of a caption, and its pieces between commas."""
    sentences = [sentence.strip() for sentence in caption.split(".") if sentence.strip(" ,")] or [caption]
    sentence = _random(sentences, rng)
    return sentence, [clause.strip() for clause in sentence.split(",") if clause.strip()]


def longest_piece(caption: str, rng: np.random.Generator) -> str:
    """The longest piece between commas of a random sentence, or as often the rest of it.

    Args:
        caption: free text, not blank.
        rng: the only source of randomness.

    Returns:
        A piece of more than `LEAST_LETTERS` letters; where there is none, the sentence itself.
    """
    sentence, clauses = _sentence_and_clauses(caption, rng)
    longest = max(range(len(clauses)), key=lambda i: len(clauses[i]), default=0)
    rest = ", ".join(clause for i, clause in enumerate(clauses) if i != longest)
    pieces = [piece for piece in (*clauses[longest : longest + 1], rest) if len(piece) > LEAST_LETTERS]
    return _random(pieces, rng) if pieces else sentence


def random_clause(caption: str, rng: np.random.Generator) -> str:
    """A random piece between commas of a random sentence; of more than `LEAST_LETTERS` letters where there is one."""
    sentence, clauses = _sentence_and_clauses(caption, rng)
    return _random([clause for clause in clauses if len(clause) > LEAST_LETTERS] or [sentence], rng)


def some_words(words: list[str], rng: np.random.Generator) -> str:
    """A random subset of the words in their order; each size from one word to all is equally likely."""
    size = int(rng.integers(1, len(words) + 1))
    return " ".join(words[i] for i in sorted(rng.permutation(len(words))[:size]))
