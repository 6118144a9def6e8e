"""Tokenizers that leave the end of a text open, as that of IVT's authors does: `[CLS] words`, no [SEP]."""

from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast


def without_end_token(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerFast:
    """The same tokenizer without [SEP] behind a text.

    Args:
        tokenizer: a BERT WordPiece tokenizer; it is changed.

    Returns:
        A tokenizer of the general class, which keeps what stands around a text when it is saved: BertTokenizer builds
        `[CLS] words [SEP]` anew whenever it is loaded.
    """
    backend = tokenizer.backend_tokenizer
    cls = tokenizer.cls_token
    backend.post_processor = TemplateProcessing(
        single=f"{cls} $A", pair=f"{cls} $A $B", special_tokens=[(cls, tokenizer.cls_token_id)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=tokenizer.model_max_length,
        **{name: str(token) for name, token in tokenizer.special_tokens_map.items()},
    )
