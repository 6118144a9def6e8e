"""Pre-training of IVT: pictures and captions matched by three tasks at once (Shu et al., arXiv 2208.08608).

Written from the formulas of that stage. Its fusion encoder has BERT's blocks with cross-attention between, as in ALBEF
(Li et al., "Align before Fuse", NeurIPS 2021, section 3): text tokens look at the image tokens. The tasks:

    ITC   image-text contrastive learning, on the embeddings: `product_itc_loss`
    ITM   image-text matching: from the fused [CLS], whether a text belongs to an image; negatives are hard ones
    MLM   masked language modeling: the hidden words, from the rest of the text and the image

`AutoModel` reads the encoder of such a checkpoint alone, which is all that fine-tuning and search need.

Letters: B pairs, N image tokens, L text tokens, S tokens that are looked at, D width, H heads, V vocabulary.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple

from .configuration_ivt import IVTConfig
from .losses_ivt import LEAST_TEMPERATURE, product_itc_loss, product_scores
from .modeling_ivt import IVTFeedForward, IVTModel, IVTOutput, eager_attention_forward

NEGATIVE_FLOOR = 1e-4  # added to the probability of every negative
HASH_BASE = 6364136223846793005  # odd, so that no position is lost in the products modulo 2^64
NOT_MASKED = -100  # label of the tokens that are not to be predicted, as everywhere in transformers


@dataclass
class IVTForPreTrainingOutput(IVTOutput):
    """What [`IVTForPreTraining`] returns, beside the fields of [`IVTOutput`].

    Attributes:
        loss: scalar, the sum of the three below, if `return_loss=True`.
        itc_loss: scalar.
        itm_loss: scalar.
        mlm_loss: scalar; None without `masked_input_ids`.
        matching_logits: (B, 2) of image b and text b: that they do not belong together, and that they do.
    """

    itc_loss: torch.Tensor | None = None
    itm_loss: torch.Tensor | None = None
    mlm_loss: torch.Tensor | None = None
    matching_logits: torch.Tensor | None = None


def fingerprint_texts(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """A number per text, (B, L) to (B,) int64: equal for equal texts, on whichever side they are padded."""
    positions = attention_mask.long().cumsum(dim=1)  # 1, 2, … of the tokens that are no padding
    powers = torch.full_like(positions, HASH_BASE).cumprod(dim=1)  # modulo 2^64
    return ((input_ids + 1) * powers.gather(1, (positions - 1).clamp(min=0)) * attention_mask).sum(dim=1)


def find_positives(
    person_ids: torch.Tensor | None, input_ids: torch.Tensor, attention_mask: torch.Tensor
) -> torch.Tensor:
    """Which text of a batch may describe which image, (B, B) bool.

    Args:
        person_ids: (B,) the person of each pair; where none is known, a number of the picture. None: all differ.
        input_ids: (B, L).
        attention_mask: (B, L).

    Returns:
        True at (i, j) where image i and text j are of one pair, person or picture, or have the same caption.
    """
    captions = fingerprint_texts(input_ids, attention_mask)
    if person_ids is None:
        person_ids = torch.arange(len(captions), device=captions.device)
    return match_pairs(person_ids, captions)


def match_pairs(person_ids: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
    """(B, B) bool: True for pairs of one person or of one caption; `captions` (B,) are from `fingerprint_texts`."""
    return (person_ids[:, None] == person_ids) | (captions[:, None] == captions)


def draw_negatives(scores: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
    """Draw a hard negative for every row: never a positive, and the likelier the more similar.

    Args:
        scores: (B, B); columns are drawn in proportion to the softmax of a row plus `NEGATIVE_FLOOR`.
        positives: (B, B) bool, columns that are not to be drawn.

    Returns:
        (B,) columns; -1 for a row of positives only.
    """
    weights = (scores.float().softmax(dim=1) + NEGATIVE_FLOOR).masked_fill(positives, 0.0)
    has_none = positives.all(dim=1)
    drawn = weights.masked_fill(has_none[:, None], 1.0).multinomial(1)[:, 0]
    return drawn.masked_fill(has_none, -1)


class IVTFusionAttention(nn.Module):
    """Multi-head attention of text tokens, to themselves or to image tokens, with BERT's norm after the residual."""

    is_causal = False  # read by transformers' attention functions

    def __init__(self, config: IVTConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_fusion_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.text_layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        hidden_states: torch.Tensor,
        seen_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        seen_rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(B, L, D) that look at (B, S, D) to (B, L, D); the mask tells which of the S are seen, None: all.

        With `seen_rows` (B,), row b looks at row `seen_rows[b]` of any number of `seen_states`.
        """
        query, key, value = (
            states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, H, L or S, D / H)
            for states in (self.query(hidden_states), self.key(seen_states), self.value(seen_states))
        )
        if seen_rows is not None:  # now, since keys and values are the same for all that look at them
            key, value = key.index_select(0, seen_rows), value.index_select(0, seen_rows)
        implementation = self.config._attn_implementation
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        context, _ = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            scaling=self.head_dim**-0.5,
            dropout=self.config.attention_dropout if self.training else 0.0,
        )
        return self.layernorm(hidden_states + self.dropout(self.output(context.flatten(2))))


class IVTFusionLayer(GradientCheckpointingLayer):
    """A block of BERT, with cross-attention to the image between its self-attention and its feed-forward."""

    def __init__(self, config: IVTConfig):
        super().__init__()
        self.self_attention = IVTFusionAttention(config)
        self.cross_attention = IVTFusionAttention(config)
        self.feed_forward = IVTFeedForward(config)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.text_layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        hidden_states: torch.Tensor,
        image_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        image_rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Text tokens (B, L, D) and image tokens (B, N, D) to text tokens (B, L, D); `image_rows` as in `fuse`."""
        hidden_states = self.self_attention(hidden_states, hidden_states, attention_mask)
        hidden_states = self.cross_attention(hidden_states, image_states, None, image_rows)
        return self.layernorm(hidden_states + self.dropout(self.feed_forward(hidden_states)))


class IVTMaskedLanguageHead(nn.Module):
    """BERT's head: from the state of a token to scores of all words, by the word embeddings."""

    def __init__(self, config: IVTConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.text_layer_norm_eps)
        self.decoder: nn.Module = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(…, D) to (…, V)."""
        return self.decoder(self.layernorm(self.activation(self.dense(hidden_states))))


class IVTForPreTraining(IVTModel):
    """IVT with the fusion encoder and the heads of its pre-training; they are not needed afterwards.

    Tokens are hidden by masked language modeling alone: `config.bmm_ratio` is for fine-tuning.
    """

    _tied_weights_keys = {"mlm_head.decoder.weight": "text_embeddings.word_embeddings.weight"}
    _no_split_modules = ["IVTBlock", "IVTFusionLayer", "IVTImageEmbeddings", "IVTTextEmbeddings"]
    _auto_classes = IVTModel._auto_classes | {"AutoModelForPreTraining": "pretraining_ivt.IVTForPreTraining"}

    def _add_modules(self, config: IVTConfig) -> None:
        super()._add_modules(config)
        self.fusion_layers = nn.ModuleList([IVTFusionLayer(config) for _ in range(config.num_fusion_layers)])
        self.itm_head = nn.Linear(config.hidden_size, 2)
        self.mlm_head = IVTMaskedLanguageHead(config)
        # one element and not a scalar, which FSDP cannot shard
        self.log_temperature = nn.Parameter(torch.empty(1))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As for [`IVTModel`], and the temperature that the configuration says."""
        super()._init_weights(module)
        if isinstance(module, IVTForPreTraining):
            init.constant_(module.log_temperature, math.log(self.config.itc_temperature))

    def get_output_embeddings(self) -> nn.Module:
        """The last matrix of masked language modeling, which is that of the word embeddings."""
        return self.mlm_head.decoder

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace it."""
        self.mlm_head.decoder = new_embeddings

    @property
    def temperature(self) -> torch.Tensor:
        """(1,) the learned temperature of ITC."""
        return self.log_temperature.exp().clamp(min=LEAST_TEMPERATURE)

    def _sample_keep_positions(self, batch_size: int, num_tokens: int, device: torch.device) -> None:
        """None: all tokens stay, since words to predict are told apart by their positions."""

    def fuse(
        self,
        text_states: torch.Tensor,
        image_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Let each text look at its image.

        Args:
            text_states: (B, L, D) last hidden states of texts.
            image_states: (B, N, D) last hidden states of images.
            attention_mask: (B, L), 1 for tokens and 0 for padding; None means no padding.
            image_rows: (B,) where several texts look at one image: the row of `image_states` of each; of these rows
                there may then be any number. Its keys and values are computed once.

        Returns:
            (B, L, D); [CLS], the first, is of the pair.
        """
        mask = create_bidirectional_mask(self.config, text_states, attention_mask)
        for layer in self.fusion_layers:
            text_states = layer(text_states, image_states, mask, image_rows)
        return text_states

    def get_itm_loss(
        self,
        text_states: torch.Tensor,
        image_states: torch.Tensor,
        attention_mask: torch.Tensor,
        positives: torch.Tensor,
    ) -> torch.Tensor:
        """Image-text matching: every pair, its image with a wrong text, and its text with a wrong image.

        Wrong ones are drawn by `draw_negatives` from the scores of ITC; a pair that has none in its batch counts as
        a match alone.

        Args:
            text_states: (B, L, D) last hidden states of texts.
            image_states: (B, N, D) last hidden states of images.
            attention_mask: (B, L).
            positives: (B, B) bool, images by texts, from `find_positives`.

        Returns:
            Scalar: the mean cross-entropy of all fused pairs, up to 3 B.
        """
        with torch.no_grad():
            scores = product_scores(image_states[:, 0], text_states[:, 0], self.temperature)  # (B, B)
        texts, images = draw_negatives(scores, positives), draw_negatives(scores.T, positives.T)
        rows = torch.arange(len(scores), device=scores.device)
        text_rows = torch.cat([rows, texts.clamp(min=0), rows])  # (3 B,)
        image_rows = torch.cat([rows, rows, images.clamp(min=0)])
        # not text_states[text_rows]: the gradient of that adds up in no fixed order on several threads
        texts_of = text_states.index_select(0, text_rows)  # (3 B, L, D)
        fused = self.fuse(texts_of, image_states, attention_mask[text_rows], image_rows)
        wrong = torch.cat([texts, images])
        labels = torch.cat([torch.ones_like(rows), torch.zeros_like(wrong).masked_fill(wrong < 0, NOT_MASKED)])
        return nn.functional.cross_entropy(self.itm_head(fused[:, 0]).float(), labels, ignore_index=NOT_MASKED)

    def get_mlm_loss(
        self,
        masked_input_ids: torch.Tensor,
        mlm_labels: torch.Tensor,
        image_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Masked language modeling: the hidden words of a text, from the others and the image.

        Args:
            masked_input_ids: (B, L) WordPiece ids, some replaced.
            mlm_labels: (B, L) ids to predict, -100 elsewhere.
            image_states: (B, N, D) last hidden states of images.
            attention_mask: (B, L).
            token_type_ids: (B, L).

        Returns:
            Scalar: the mean cross-entropy of the tokens to predict, 0 if there are none.
        """
        texts = self.get_text_features(masked_input_ids, attention_mask, token_type_ids)
        predicted = mlm_labels != NOT_MASKED
        fused = self.fuse(texts.last_hidden_state, image_states, attention_mask)[predicted]  # (tokens, D)
        labels = mlm_labels[predicted]
        losses = nn.functional.cross_entropy(self.mlm_head(fused).float(), labels, reduction="sum")
        return losses / max(len(labels), 1)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        person_ids: torch.Tensor | None = None,
        masked_input_ids: torch.Tensor | None = None,
        mlm_labels: torch.Tensor | None = None,
        return_loss: bool = False,
        interpolate_pos_encoding: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> IVTForPreTrainingOutput:
        """Embed and fuse pairs of image and text, and compute the losses of pre-training.

        Args:
            input_ids: (B, L), see `get_text_features`.
            pixel_values: (B, C, height, width), see `get_image_features`.
            attention_mask: (B, L).
            token_type_ids: (B, L).
            person_ids: (B,) the person of each pair; where none is known, a number of the picture. None: all differ.
            masked_input_ids: (B, L) `input_ids` with some words hidden.
            mlm_labels: (B, L) the ids at hidden places, -100 elsewhere.
            return_loss: compute the losses; MLM's only with `masked_input_ids`.
            interpolate_pos_encoding: accept images of another size.
            **kwargs: `output_hidden_states`, `output_attentions`, `return_dict`.

        Returns:
            [`IVTForPreTrainingOutput`].

        Raises:
            ValueError: if images and texts are not pairs, or only one of `masked_input_ids` and `mlm_labels` is given.
        """
        if input_ids is None or pixel_values is None or len(input_ids) != len(pixel_values):
            found = [0 if given is None else len(given) for given in (pixel_values, input_ids)]
            raise ValueError(
                f"got {found[0]} pixel_values and {found[1]} input_ids, expected as many of both: pairs; use "
                "get_image_features or get_text_features for one alone"
            )
        if (masked_input_ids is None) != (mlm_labels is None):
            raise ValueError("masked_input_ids and mlm_labels belong together; pass both or none")
        options = {"cls_only": False, "interpolate_pos_encoding": interpolate_pos_encoding}
        output = super().forward(
            input_ids, pixel_values, attention_mask, token_type_ids, return_dict=True, **options, **kwargs
        )
        text_states = output.text_model_output.last_hidden_state
        image_states = output.image_model_output.last_hidden_state
        fused = self.fuse(text_states, image_states, attention_mask)
        output = IVTForPreTrainingOutput(**output, matching_logits=self.itm_head(fused[:, 0]))
        if return_loss:
            if attention_mask is None:
                attention_mask = torch.ones_like(input_ids)
            positives = find_positives(person_ids, input_ids, attention_mask)
            output.itc_loss = product_itc_loss(image_states[:, 0], text_states[:, 0], positives, self.temperature)
            output.itm_loss = self.get_itm_loss(text_states, image_states, attention_mask, positives)
            output.loss = output.itc_loss + output.itm_loss
            if masked_input_ids is not None and mlm_labels is not None:
                output.mlm_loss = self.get_mlm_loss(
                    masked_input_ids, mlm_labels, image_states, attention_mask, token_type_ids
                )
                output.loss = output.loss + output.mlm_loss
        return output


__all__ = ["IVTForPreTraining", "IVTForPreTrainingOutput"]
