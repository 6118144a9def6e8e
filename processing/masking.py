"""Masked language modeling: which words of a text are hidden, and what is written in their place.

That of IVT's pre-training (Shu et al., arXiv 2208.08608): a quarter of the tokens, whole words, sometimes a run of two
or three tokens; of the hidden tokens 80 % become [MASK], 10 % another token, and 10 % stay (Devlin et al., "BERT",
2019, section 3.1). [CLS], [SEP] and other special tokens are never hidden.

Letters: B pairs, T texts per pair, L text tokens, N tokens of one text that are not special, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .batches import PairCollator
from .processing_ivt import IVTProcessor

NOT_MASKED = -100  # label of the tokens that are not to be predicted, as everywhere in transformers


@dataclass(frozen=True)
class WordMasking:
    """Draws the tokens of a text to hide.

    Attributes:
        share: of the tokens, in (0, 1); rounded, and at least one token.
        run: probability that a run of two or three tokens is hidden together, in [0, 1].
        masked: share of the hidden tokens that become [MASK].
        replaced: share of them that become another token; the rest stays as it is.
    """

    share: float = 0.25
    run: float = 0.2
    masked: float = 0.8
    replaced: float = 0.1

    def choose(self, words: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Choose whole words.

        Tokens are gone through in random order, each with the rest of its word and, in a run, with the words of the
        next tokens. What would exceed the share is passed over; if every word would, the first one drawn is hidden.

        Args:
            words: (N,) number of the word each token belongs to, ascending.
            rng: the only source of randomness.

        Returns:
            (N,) bool, True for the tokens to hide; none of none.
        """
        budget = max(1, round(self.share * len(words)))
        chosen = np.zeros(len(words), bool)
        order = rng.permutation(len(words))
        for first in order:
            if chosen.sum() == budget:
                break
            length = rng.integers(2, 4) if rng.random() < self.run else 1
            last = min(first + length, len(words)) - 1
            wanted = chosen | ((words >= words[first]) & (words <= words[last]))
            if wanted.sum() <= budget:
                chosen = wanted
        if len(order) and not chosen.any():
            chosen = words == words[order[0]]
        return chosen

    def write(
        self, tokens: np.ndarray, chosen: np.ndarray, mask_token: int, others: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Write something else in the place of chosen tokens.

        Args:
            tokens: (N,) ids.
            chosen: (N,) bool.
            mask_token: id of [MASK].
            others: ids that a token may be replaced by.
            rng: the only source of randomness.

        Returns:
            (N,) ids.
        """
        fate = rng.random(len(tokens))
        replacements = rng.choice(others, len(tokens))
        masked = np.where(fate < self.masked, mask_token, tokens)
        masked = np.where((fate >= self.masked) & (fate < self.masked + self.replaced), replacements, masked)
        return np.where(chosen, masked, tokens)


class MaskedPairCollator(PairCollator):
    """Stack pairs into a batch of pre-training: that of `PairCollator`, and its texts with words hidden.

    Args:
        processor: its tokenizer has to be a WordPiece one with a [MASK], as BERT's.
        masking: how words are hidden; None takes `WordMasking()`.

    Raises:
        ValueError: if the tokenizer has no [MASK].
    """

    def __init__(self, processor: IVTProcessor, masking: WordMasking | None = None) -> None:
        super().__init__(processor)
        tokenizer = processor.tokenizer
        if tokenizer.mask_token_id is None:
            raise ValueError("the tokenizer has no mask token, expected one such as [MASK]; take that of a BERT")
        self.masking, self.mask_token = masking or WordMasking(), tokenizer.mask_token_id
        names = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        self.continues = np.array([name.startswith("##") for name in names])  # (V,)
        self.special = np.isin(np.arange(len(names)), tokenizer.all_special_ids)
        self.others = np.flatnonzero(~self.special)

    def __call__(self, pairs: list[dict[str, Any]]) -> dict[str, Any]:
        """Make a batch.

        Args:
            pairs: B items of `TrainingPairs`; what is hidden depends on the `seed` of each alone.

        Returns:
            What `PairCollator` returns, and `masked_input_ids` and `mlm_labels` (T*B, L): the ids to predict, -100
            elsewhere.
        """
        batch = super().__call__(pairs)
        input_ids = batch["input_ids"].numpy()
        masked, labels = input_ids.copy(), np.full_like(input_ids, NOT_MASKED)
        for row, ids in enumerate(input_ids):
            text, pair = divmod(row, len(pairs))
            rng = np.random.default_rng((pairs[pair]["seed"], text))
            places = np.flatnonzero(~self.special[ids])
            tokens = ids[places]
            chosen = self.masking.choose((~self.continues[tokens]).cumsum(), rng)
            masked[row, places] = self.masking.write(tokens, chosen, self.mask_token, self.others, rng)
            labels[row, places[chosen]] = tokens[chosen]
        return batch | {"masked_input_ids": torch.from_numpy(masked), "mlm_labels": torch.from_numpy(labels)}
