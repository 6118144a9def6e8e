"""IVT: one transformer for images and captions (Shu et al., "See Finer, See More", ECCV Workshops 2022, 2208.08608).

Written from the paper's formulas. In every block LayerNorm 1, the attention and LayerNorm 2 serve both modalities and
each modality has a feed-forward of its own:

    X' = MSA(LN1(X)) + X
    Y  = FFN_modality(LN2(X')) + X'

Batch sizes are read as `x.shape[0]`: `len(x)` would be a constant in an exported graph.

Letters: B batch, I images, T texts, N image tokens ([CLS] + patches), L text tokens, S tokens of either modality,
K tokens kept, D width, H heads. Patch grids are (rows, columns) = (height, width); image token 1 + row * columns +
column is the patch at (row, column).
"""

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, ModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from .configuration_ivt import IVTConfig
from .losses_ivt import cmpm_loss

MODALITIES = ("image", "text")


@dataclass
class IVTEncoderOutput(BaseModelOutputWithPooling):
    """What one modality's encoding returns.

    Attributes:
        last_hidden_state: (B, S, D) after the last LayerNorm.
        pooler_output: (B, D), the [CLS] outputs: the embeddings, not normalised.
        keep_positions: (K,) or (B, K) token positions that were not hidden, 0 = [CLS] first; None if none was hidden.
    """

    keep_positions: torch.Tensor | None = None


@dataclass
class IVTOutput(ModelOutput):
    """What [`IVTModel`] returns; what belongs to a modality that was not given is None.

    Attributes:
        loss: scalar CMPM loss, if `return_loss=True`.
        logits_per_image: (I, T), cosine of image and text times `config.logit_scale`.
        logits_per_text: (T, I), its transpose.
        image_embeds: (I, D), the [CLS] outputs, not normalised (CMPM reads their length).
        text_embeds: (T, D), likewise.
        image_model_output: hidden states and attentions of the images.
        text_model_output: hidden states and attentions of the texts.
    """

    loss: torch.Tensor | None = None
    logits_per_image: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    image_model_output: IVTEncoderOutput | None = None
    text_model_output: IVTEncoderOutput | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are not None, model outputs as tuples too."""
        return tuple(v.to_tuple() if isinstance(v, ModelOutput) else v for v in self.values())


def sample_keep_positions(
    num_tokens: int, bmm_ratio: float, batch_size: int | None = None, device: torch.device | None = None
) -> torch.Tensor:
    """Bidirectional mask modeling ("see more"): draw the token positions that stay visible.

    The number of hidden tokens is uniform in 0 … floor(bmm_ratio * num_tokens); position 0, [CLS], is never hidden.

    Args:
        num_tokens: length S of the sequence with [CLS].
        bmm_ratio: largest share of hidden tokens, in [0, 1).
        batch_size: B draws other positions for every sample, None the same for the whole batch (the reference).
        device: where the result lies; the drawing itself is on the CPU, so no device is waited for.

    Returns:
        Ascending positions, (K,) or (B, K) int64.
    """
    num_hidden = int(torch.randint(int(bmm_ratio * num_tokens) + 1, ()))
    # the patches and words with the smallest random numbers are hidden, [CLS] stands in front of the rest
    order = torch.rand(batch_size or 1, num_tokens - 1).argsort(dim=-1)[:, num_hidden:].sort(dim=-1).values + 1
    keep = nn.functional.pad(order, (1, 0))
    return (keep[0] if batch_size is None else keep).to(device)


def gather_tokens(tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Keep the tokens at `positions` (K,) or (B, K) of `tokens` (B, S) or (B, S, D)."""
    if positions.ndim == 1:
        return tokens.index_select(1, positions)
    return tokens[torch.arange(tokens.shape[0], device=tokens.device)[:, None], positions]


def draw_branch_scales(rate: float, batch_size: int, device: torch.device) -> torch.Tensor:
    """Stochastic depth (Huang et al. 2016): what a block's two residual branches are multiplied by in training.

    A branch is skipped for a share `rate` of the samples, and longer for the others, so that the mean stays. Drawn
    outside of the block, so that one compiled graph serves all blocks.

    Returns:
        (2, B, 1, 1), zeros and 1 / (1 - rate).
    """
    if rate == 0.0:
        return torch.ones(2, batch_size, 1, 1, device=device)
    return (torch.rand(2, batch_size, 1, 1, device=device) >= rate) / (1.0 - rate)


def resize_grid(embeddings: torch.Tensor, grid: tuple[int, int], new_grid: tuple[int, int]) -> torch.Tensor:
    """Resize the patch part of (1, 1 + rows * columns, D) bilinearly to another (rows, columns)."""
    cls, patches = embeddings[:, :1], embeddings[:, 1:]
    patches = patches.unflatten(1, grid).permute(0, 3, 1, 2)  # (1, D, rows, columns)
    patches = nn.functional.interpolate(patches.float(), size=new_grid, mode="bilinear", align_corners=False)
    return torch.cat([cls, patches.to(cls.dtype).flatten(2).transpose(1, 2)], dim=1)


class IVTPatchEmbeddings(nn.Conv2d):
    """A convolution, computed as one matrix product of all patches: with few channels GPUs are faster in it."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(B, C, height, width) to (B, rows * columns, D)."""
        patches = input
        for dim, (size, step) in enumerate(zip(self.kernel_size, self.stride, strict=True), start=2):
            patches = patches.unfold(dim, size, step)  # in the end (B, C, rows, columns, size, size)
        patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
        return nn.functional.linear(patches, self.weight.flatten(1), self.bias)


class IVTImageEmbeddings(nn.Module):
    """Pixels to image tokens: patches by a convolution, [CLS] in front, plus position and type embeddings."""

    def __init__(self, config: IVTConfig):
        super().__init__()
        self.config = config
        rows, columns = config.patch_grid
        self.patch_embeddings = IVTPatchEmbeddings(
            config.num_channels, config.hidden_size, kernel_size=config.patch_size, stride=config.patch_stride
        )
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.position_embeddings = nn.Parameter(torch.empty(1, 1 + rows * columns, config.hidden_size))
        self.type_embeddings = nn.Parameter(torch.empty(1, 1 + rows * columns, config.hidden_size))

    @torch.no_grad()
    def resize(self, height: int, width: int, patch_stride: int) -> None:
        """Make `height` x `width` pixels and the stride those that position and type embeddings are made for."""
        old_grid, config = self.config.patch_grid, copy.copy(self.config)
        config.image_size, config.patch_stride = (height, width), patch_stride
        config.validate_architecture()
        new_grid = config.patch_grid
        for name in ("position_embeddings", "type_embeddings"):
            old = getattr(self, name)
            new = nn.Parameter(resize_grid(old, old_grid, new_grid), requires_grad=old.requires_grad)
            setattr(self, name, new)
        self.config.image_size, self.config.patch_stride = (height, width), patch_stride
        self.patch_embeddings.stride = (patch_stride, patch_stride)

    def forward(self, pixel_values: torch.Tensor, interpolate_pos_encoding: bool = False) -> torch.Tensor:
        """(B, C, height, width) to (B, N, D)."""
        height, width = pixel_values.shape[-2:]
        added = self.position_embeddings + self.type_embeddings
        if (height, width) != tuple(self.config.image_size):
            if not interpolate_pos_encoding:
                expected = " x ".join(map(str, self.config.image_size))
                raise ValueError(
                    f"images are {height} x {width} pixels (height x width), the model is made for {expected}; "
                    "resize them with the image processor or pass interpolate_pos_encoding=True"
                )
            added = resize_grid(added, self.config.patch_grid, self.config.patch_grid_for(height, width))
        patches = self.patch_embeddings(pixel_values.to(self.patch_embeddings.weight.dtype))
        return torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1) + added


class IVTTextEmbeddings(nn.Module):
    """WordPiece ids to text tokens, as BERT does: word + position + token type, LayerNorm, dropout."""

    def __init__(self, config: IVTConfig):
        super().__init__()
        self.config = config
        self.word_embeddings: nn.Module = nn.Embedding(
            config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id
        )
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.text_layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: torch.Tensor, token_type_ids: torch.Tensor | None = None) -> torch.Tensor:
        """(B, L) to (B, L, D)."""
        length, longest = input_ids.shape[1], self.config.max_position_embeddings
        if length > longest:
            raise ValueError(
                f"text has {length} tokens, the model holds {longest}; pass truncation=True to the processor"
            )
        positions = torch.arange(length, device=input_ids.device)
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        embeds = self.word_embeddings(input_ids) + self.position_embeddings(positions)
        return self.dropout(self.layernorm(embeds + self.token_type_embeddings(types)))


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Plain attention that also returns its weights: (B, S, H, D / H) and (B, H, S, S).

    The mask (B, 1, S, S) says with True which tokens are seen, as sdpa's does, or is a number to add to the scores.
    """
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2), weights


class IVTAttention(nn.Module):
    """Multi-head self-attention, shared by the modalities."""

    is_causal = False  # read by transformers' attention functions

    def __init__(self, config: IVTConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=config.qkv_bias)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def _attention_function(self, output_attentions: bool) -> Callable:
        """The configured attention; where weights are asked for and it is sdpa, which has none, the eager one."""
        implementation = self.config._attn_implementation
        if not output_attentions:
            return ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        if implementation not in ("eager", "sdpa"):
            raise ValueError(
                f"attention weights are not computed by attn_implementation={implementation!r}; "
                "call model.set_attn_implementation('sdpa') first"
            )
        return eager_attention_forward

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, cls_only: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B, S, D) to outputs (B, Q, D) and their weights (B, H, Q, S) or None; Q is S, or 1 with `cls_only`."""
        qkv = self.qkv(hidden_states).unflatten(-1, (3, -1, self.head_dim))  # (B, S, 3, H, D / H)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, H, S, D / H)
        if cls_only:
            query = query[:, :, :1]
            if attention_mask is not None and attention_mask.ndim == 4:
                attention_mask = attention_mask[:, :, :1]
        attend = self._attention_function(kwargs.get("output_attentions", self.config.output_attentions))
        context, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            scaling=self.head_dim**-0.5,
            dropout=self.config.attention_dropout if self.training else 0.0,
            **kwargs,
        )
        return self.proj(context.flatten(2)), weights


class IVTFeedForward(nn.Module):
    """The feed-forward of one modality."""

    def __init__(self, config: IVTConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(B, S, D) to (B, S, D)."""
        return self.fc2(self.activation(self.fc1(hidden_states)))


def per_modality(build: Callable[[], nn.Module]) -> nn.ModuleDict:
    """A module of its own for each modality."""
    return nn.ModuleDict({modality: build() for modality in MODALITIES})


def shared(config: IVTConfig, build: Callable[[], nn.Module]) -> nn.Module:
    """One module for both modalities, or one for each where `config.shared_attention` is off."""
    return build() if config.shared_attention else per_modality(build)


def for_modality(module: nn.Module, modality: str) -> nn.Module:
    """The modality's own of the `per_modality` modules, or the one that both share."""
    return module[modality] if isinstance(module, nn.ModuleDict) else module


class IVTBlock(GradientCheckpointingLayer):
    """Pre-norm transformer block: norms and attention shared, a feed-forward per modality (paper sec. 3.1).

    Where `config.shared_attention` is off, norms and attention are per modality as well.
    """

    def __init__(self, config: IVTConfig):
        super().__init__()
        layernorm = partial(nn.LayerNorm, config.hidden_size, eps=config.layer_norm_eps)
        self.layernorm_before = shared(config, layernorm)
        self.attention = shared(config, partial(IVTAttention, config))
        self.layernorm_after = shared(config, layernorm)
        self.feed_forward = per_modality(partial(IVTFeedForward, config))

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        modality: str,
        cls_only: bool = False,
        branch_scales: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """(B, S, D) to the block's output (B, S, D), or (B, 1, D) with `cls_only`; see `draw_branch_scales`."""
        attention, normed = (
            for_modality(self.attention, modality),
            for_modality(self.layernorm_before, modality)(hidden_states),
        )
        attended, _ = attention(normed, attention_mask, cls_only, **kwargs)
        if cls_only:
            hidden_states = hidden_states[:, :1]
        if branch_scales is not None:
            attended = attended * branch_scales[0].to(attended.dtype)
        hidden_states = hidden_states + attended
        branch = for_modality(self.feed_forward, modality)(for_modality(self.layernorm_after, modality)(hidden_states))
        if branch_scales is not None:
            branch = branch * branch_scales[1].to(branch.dtype)
        return hidden_states + branch


class IVTPreTrainedModel(PreTrainedModel):
    """Weight initialisation and the abilities `transformers` asks a model class about."""

    config: IVTConfig
    config_class = IVTConfig
    base_model_prefix = ""
    input_modalities = ["image", "text"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["IVTBlock", "IVTImageEmbeddings", "IVTTextEmbeddings"]
    _input_embed_layer = "word_embeddings"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": IVTBlock, "attentions": IVTAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Normal with `initializer_range` everywhere, LayerNorms 1 and 0, biases 0."""
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, nn.Conv2d):
            init.normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, IVTImageEmbeddings):
            for parameter in (module.cls_token, module.position_embeddings, module.type_embeddings):
                init.normal_(parameter, std=std)


class IVTModel(IVTPreTrainedModel):
    """Images and captions into one space: the cosine of two embeddings says how well a sentence fits a person.

    The embedding of an image or a caption is its [CLS] output after the last, shared LayerNorm: `hidden_size` numbers,
    no projection. In training a random share of the tokens is hidden (`bmm_ratio`), never [CLS].
    """

    # A class registers for one Auto class; config.json names those for all that read its checkpoints.
    _auto_classes = {
        "AutoConfig": "configuration_ivt.IVTConfig",
        "AutoModel": "modeling_ivt.IVTModel",
        "AutoModelForZeroShotImageClassification": "modeling_ivt.IVTModel",
    }

    def __init__(self, config: IVTConfig):
        super().__init__(config)
        self._add_modules(config)
        self.post_init()

    def _add_modules(self, config: IVTConfig) -> None:
        self.image_embeddings = IVTImageEmbeddings(config)
        self.text_embeddings = IVTTextEmbeddings(config)
        self.layers = nn.ModuleList([IVTBlock(config) for _ in range(config.num_hidden_layers)])
        self.layernorm = shared(config, partial(nn.LayerNorm, config.hidden_size, eps=config.layer_norm_eps))

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings."""
        return self.text_embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embeddings."""
        self.text_embeddings.word_embeddings = value

    def get_position_embeddings(self) -> nn.Embedding:
        """The position embeddings of texts."""
        return self.text_embeddings.position_embeddings

    @torch.no_grad()
    def resize_position_embeddings(self, new_num_position_embeddings: int) -> None:
        """Change the longest text the model holds.

        Args:
            new_num_position_embeddings: tokens; positions beyond the old ones are drawn afresh and need training. The
                tokenizer's `model_max_length` has to follow.

        Raises:
            ValueError: if it is smaller than 1.
        """
        if new_num_position_embeddings < 1:
            raise ValueError(f"new_num_position_embeddings must be at least 1, got {new_num_position_embeddings}")
        old = self.get_position_embeddings().weight
        new = nn.Embedding(new_num_position_embeddings, old.shape[1], device=old.device, dtype=old.dtype)
        self._init_weights(new)
        num_kept = min(len(old), len(new.weight))
        new.weight[:num_kept] = old[:num_kept]
        new.weight.requires_grad_(old.requires_grad)
        self.text_embeddings.position_embeddings = new
        self.config.max_position_embeddings = new_num_position_embeddings

    def resize_image_embeddings(self, height: int, width: int, patch_stride: int | None = None) -> None:
        """Change the size of the images the model is made for, position and type embeddings resized bilinearly.

        Args:
            height: in pixels.
            width: in pixels; the image processor's `size` has to follow.
            patch_stride: distance of two patches in pixels; None leaves it as it is.

        Raises:
            ValueError: if such an image is smaller than one patch, or the stride is not from 1 to `patch_size`.
        """
        stride = self.config.patch_stride if patch_stride is None else patch_stride
        self.image_embeddings.resize(height, width, stride)

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Save weights, config and code files as [`PreTrainedModel.save_pretrained`] does, arguments included."""
        self.config.auto_map = dict(self._auto_classes)  # anew: code of other classes is not copied
        super().save_pretrained(save_directory, *args, **kwargs)

    def _sample_keep_positions(self, batch_size: int, num_tokens: int, device: torch.device) -> torch.Tensor | None:
        """Positions that stay visible in this training step, None for all: hiding is for training only."""
        if not self.training or self.config.bmm_ratio == 0:
            return None
        drawn_for = batch_size if self.config.bmm_per_sample else None
        return sample_keep_positions(num_tokens, self.config.bmm_ratio, drawn_for, device)

    def _encode(
        self,
        hidden_states: torch.Tensor,
        attention_mask: Any,  # as `create_bidirectional_mask` makes it
        modality: str,
        cls_only: bool,
        keep_positions: torch.Tensor | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> IVTEncoderOutput:
        """Pass (B, S, D) tokens through the blocks and the last LayerNorm."""
        if hidden_states.shape[0] == 0:
            raise ValueError(f"the batch has no {modality}s, expected at least one; leave empty batches out")
        last, rate, scales = len(self.layers) - 1, self.config.drop_path_rate, None
        for i, layer in enumerate(self.layers):
            if self.training and rate:
                scales = draw_branch_scales(rate * i / max(last, 1), hidden_states.shape[0], hidden_states.device)
            hidden_states = layer(hidden_states, attention_mask, modality, cls_only and i == last, scales, **kwargs)
        hidden_states = for_modality(self.layernorm, modality)(hidden_states)
        return IVTEncoderOutput(
            last_hidden_state=hidden_states, pooler_output=hidden_states[:, 0], keep_positions=keep_positions
        )

    @capture_outputs(tie_last_hidden_states=False)
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        keep_positions: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        cls_only: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> IVTEncoderOutput:
        """Embed images.

        Args:
            pixel_values: (B, C, height, width), normalised by [`IVTImageProcessor`].
            keep_positions: (K,) or (B, K) token positions to see, ascending, 0 = [CLS] first; None: all of them, or in
                training those that `config.bmm_ratio` leaves.
            interpolate_pos_encoding: accept images of another size, with the position grid resized bilinearly.
            cls_only: compute only [CLS] in the last block: same embedding, less work, `last_hidden_state` (B, 1, D).
            **kwargs: `output_hidden_states`, `output_attentions`, `return_dict`.

        Returns:
            [`IVTEncoderOutput`]; its `last_hidden_state` is (B, N, D).

        Raises:
            ValueError: if the images are of another size than the model's and `interpolate_pos_encoding` is False.
        """
        tokens = self.image_embeddings(pixel_values, interpolate_pos_encoding)
        if keep_positions is None:
            keep_positions = self._sample_keep_positions(*tokens.shape[:2], tokens.device)
        if keep_positions is not None:
            tokens = gather_tokens(tokens, keep_positions)
        return self._encode(tokens, None, "image", cls_only, keep_positions, **kwargs)

    @capture_outputs(tie_last_hidden_states=False)
    def get_text_features(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        keep_positions: torch.Tensor | None = None,
        cls_only: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> IVTEncoderOutput:
        """Embed captions.

        Args:
            input_ids: (B, L) WordPiece ids, [CLS] first.
            attention_mask: (B, L), 1 for tokens and 0 for padding; None means no padding.
            token_type_ids: (B, L) BERT token types, all 0 if left out.
            keep_positions: (K,) or (B, K) token positions to see, ascending, 0 = [CLS] first; None: all of them, or in
                training those that `config.bmm_ratio` leaves.
            cls_only: compute only [CLS] in the last block: same embedding, less work, `last_hidden_state` (B, 1, D).
            **kwargs: `output_hidden_states`, `output_attentions`, `return_dict`.

        Returns:
            [`IVTEncoderOutput`]; its `last_hidden_state` is (B, L, D).

        Raises:
            ValueError: if a text is longer than `config.max_position_embeddings`.
        """
        if keep_positions is None:
            keep_positions = self._sample_keep_positions(*input_ids.shape, input_ids.device)
        tokens = self.text_embeddings(input_ids, token_type_ids)
        if keep_positions is not None:
            tokens = gather_tokens(tokens, keep_positions)
            attention_mask = None if attention_mask is None else gather_tokens(attention_mask, keep_positions)
        mask = create_bidirectional_mask(self.config, tokens, attention_mask)
        return self._encode(tokens, mask, "text", cls_only, keep_positions, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        person_ids: torch.Tensor | None = None,
        text_person_ids: torch.Tensor | None = None,
        return_loss: bool = False,
        interpolate_pos_encoding: bool = False,
        cls_only: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> IVTOutput:
        """Embed images, texts or both, and compare them.

        Args:
            input_ids: (T, L), see `get_text_features`.
            pixel_values: (I, C, height, width), see `get_image_features`.
            attention_mask: (T, L).
            token_type_ids: (T, L).
            person_ids: (I,) integers, the person on each image; needed for the loss.
            text_person_ids: (T,) integers, the person each text describes; needed for the loss where T != I.
            return_loss: compute the CMPM loss.
            interpolate_pos_encoding: accept images of another size.
            cls_only: compute only [CLS] in the last block.
            **kwargs: `output_hidden_states`, `output_attentions`, `return_dict`.

        Returns:
            [`IVTOutput`].

        Raises:
            ValueError: if neither modality is given, or the loss is asked for without both or without `person_ids`.
        """
        if pixel_values is None and input_ids is None:
            raise ValueError("nothing to embed: pass pixel_values, input_ids or both")
        images = texts = logits = loss = None
        if pixel_values is not None:
            images = self.get_image_features(
                pixel_values,
                interpolate_pos_encoding=interpolate_pos_encoding,
                cls_only=cls_only,
                return_dict=True,
                **kwargs,
            )
        if input_ids is not None:
            texts = self.get_text_features(
                input_ids,
                attention_mask,
                token_type_ids,
                cls_only=cls_only,
                return_dict=True,
                **kwargs,
            )
        if images is not None and texts is not None:
            directions = [nn.functional.normalize(output.pooler_output, dim=-1) for output in (images, texts)]
            logits = self.config.logit_scale * directions[0] @ directions[1].T  # (I, T)
        if return_loss:
            if images is None or texts is None or person_ids is None:
                raise ValueError("return_loss=True needs pixel_values, input_ids and person_ids")
            loss = cmpm_loss(images.pooler_output, texts.pooler_output, person_ids, text_person_ids)
        return IVTOutput(
            loss=loss,
            logits_per_image=logits,
            logits_per_text=None if logits is None else logits.T,
            image_embeds=None if images is None else images.pooler_output,
            text_embeds=None if texts is None else texts.pooler_output,
            image_model_output=images,
            text_model_output=texts,
        )


__all__ = ["IVTEncoderOutput", "IVTModel", "IVTOutput", "IVTPreTrainedModel"]
