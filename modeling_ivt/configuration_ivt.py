"""Configuration of IVT (Shu et al., "See Finer, See More", ECCV Workshops 2022, arXiv 2208.08608)."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .pipeline_ivt import custom_pipelines


@strict
class IVTConfig(PreTrainedConfig):
    r"""Sizes and settings of an [`IVTModel`]; the defaults are the paper's base model (ViT-B/16, BERT vocabulary).

    Args:
        image_size: (height, width) in pixels of the images the position embedding is made for.
        patch_size: side of a square patch in pixels.
        patch_stride: distance of two patches in pixels; smaller than `patch_size` makes patches overlap
            (the paper: 12 on CUHK-PEDES and ICFG-PEDES, 16 on RSTPReid).
        num_channels: colour channels of `pixel_values`.
        hidden_size: width of the transformer and of the embeddings.
        num_hidden_layers: number of blocks.
        num_attention_heads: attention heads per block.
        intermediate_size: inner width of the two feed-forwards of a block.
        hidden_act: activation of the feed-forwards.
        shared_attention: whether attention and norms serve both modalities, which is what IVT is; False gives each
            modality its own, for the ablation.
        qkv_bias: whether queries, keys and values have a bias.
        layer_norm_eps: epsilon of the shared LayerNorms.
        text_layer_norm_eps: epsilon of the LayerNorm inside the text embeddings (BERT's 1e-12).
        vocab_size: number of WordPiece tokens.
        max_position_embeddings: longest text in tokens.
        type_vocab_size: number of BERT token types; captions are type 0.
        pad_token_id: id of [PAD].
        hidden_dropout_prob: dropout after the text embeddings, in [0, 1).
        attention_dropout: dropout on the attention weights, in [0, 1).
        drop_path_rate: stochastic depth of the last block, growing linearly from 0 at the first, in [0, 1).
        bmm_ratio: bidirectional mask modeling: at most this share of the tokens is hidden in training, in [0, 1).
        bmm_per_sample: hide tokens at other positions in every sample; False hides the same ones in the whole
            batch, as the reference does.
        num_fusion_layers: blocks of the fusion encoder of pre-training, whose inner width is `intermediate_size`. This
            and the next three fields are of no importance for an [`IVTModel`].
        fusion_attention_heads: attention heads of each of them; None takes `num_attention_heads`.
        tie_word_embeddings: whether masked language modeling scores words by the word embeddings, as BERT does.
        itc_temperature: what the learned temperature of ITC begins with in pre-training, positive.
        logit_scale: factor on the cosine in `logits_per_image`. A constant, not learned: it sharpens the softmax of
            the zero-shot pipeline and changes no ranking.
        initializer_range: standard deviation of freshly drawn weights.
    """

    model_type = "ivt"

    image_size: list[int] | tuple[int, int] = (384, 128)
    patch_size: int = 16
    patch_stride: int = 12
    num_channels: int = 3
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    shared_attention: bool = True
    qkv_bias: bool = True
    layer_norm_eps: float = 1e-6
    text_layer_norm_eps: float = 1e-12
    vocab_size: int = 30522
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    pad_token_id: int | None = 0
    hidden_dropout_prob: float | int = 0.1
    attention_dropout: float | int = 0.0
    drop_path_rate: float | int = 0.1
    bmm_ratio: float | int = 0.2
    bmm_per_sample: bool = False
    num_fusion_layers: int = 6
    fusion_attention_heads: int | None = None
    tie_word_embeddings: bool = True
    itc_temperature: float | int = 0.07
    logit_scale: float | int = 20.0
    initializer_range: float | int = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        # no field: it belongs to the code and not to the model, and whatever an older config.json says is outdated
        super().__post_init__(**(kwargs | {"custom_pipelines": custom_pipelines()}))

    @property
    def num_fusion_heads(self) -> int:
        """Attention heads of a block of the fusion encoder."""
        return self.fusion_attention_heads or self.num_attention_heads

    @property
    def patch_grid(self) -> tuple[int, int]:
        """(rows, columns) of patches of an image of `image_size`: rows run along the height."""
        return self.patch_grid_for(*self.image_size)

    def patch_grid_for(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of patches of an image of `height` x `width` pixels.

        Raises:
            ValueError: if the image is smaller than one patch.
        """
        if min(height, width) < self.patch_size:
            raise ValueError(
                f"an image of {height} x {width} pixels (height x width) is smaller than one patch of "
                f"{self.patch_size} x {self.patch_size}; use larger images or a smaller patch_size"
            )
        return (
            (height - self.patch_size) // self.patch_stride + 1,
            (width - self.patch_size) // self.patch_stride + 1,
        )

    def validate_architecture(self) -> None:
        """Check the fields against one another; runs whenever a configuration is made.

        Raises:
            ValueError: naming the field, what was found and what fits.
        """
        if len(self.image_size) != 2:
            raise ValueError(f"image_size must be (height, width), got {self.image_size}")
        for name in (
            "patch_size",
            "num_channels",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "vocab_size",
            "max_position_embeddings",
            "type_vocab_size",
            "num_fusion_layers",
            "num_fusion_heads",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("num_attention_heads", "num_fusion_heads"):
            if self.hidden_size % getattr(self, name):
                raise ValueError(
                    f"hidden_size {self.hidden_size} cannot be divided among {getattr(self, name)} attention heads; "
                    f"choose a multiple of {name.replace('num_fusion', 'fusion_attention')}"
                )
        if not self.itc_temperature > 0:
            raise ValueError(f"itc_temperature must be positive, got {self.itc_temperature}")
        if not 1 <= self.patch_stride <= self.patch_size:
            raise ValueError(
                f"patch_stride must be between 1 and patch_size = {self.patch_size}, got {self.patch_stride}; "
                "a larger stride would leave pixels between the patches unseen"
            )
        for name in ("bmm_ratio", "drop_path_rate", "hidden_dropout_prob", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        self.patch_grid_for(*self.image_size)


__all__ = ["IVTConfig"]
