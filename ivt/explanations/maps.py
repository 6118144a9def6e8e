"""Maps on the patch grid, from what an IVT checkpoint records: its attention, its gradients, its tokens.

[CLS] attention is what the paper's figures 4 and 6 show (Shu et al., arXiv 2208.08608), gradient-weighted attention
follows Chefer et al. (arXiv 2103.15679). How often each method points to the right place is measured by
`benchmarks/attention.py`.

Letters: B pictures, Q texts per picture, N image tokens ([CLS] + P patches), L text tokens, H heads, D width. Maps are
(rows, columns) of the patch grid, from the top left corner, down first.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch
from torch.nn.functional import normalize

from ivt.choices import DEFAULT_METHOD, METHODS
from ivt.retrieval.embedding import DualEncoder, evaluating
from ivt.retrieval.encoders import WITH_CLASS_TOKEN, model_type
from ivt.retrieval.exported import ExportedIVTModel

from .texts import Texts, in_full_precision, is_checkpoint

TOKEN_TEMPERATURE = 0.07  # of the softmax over the patches; what `tokenwise_loss` trains with
# chosen on the drawn corpus's validation people (LOG.md):
WORD_TEMPERATURE = 0.02  # of the softmax over the words
GRADIENT_SHARE = 0.4  # of `gradient` in `joint`; the rest is `tokenwise`'s
TEXT_FREE_METHODS = ("cls",)  # the two encoders never meet, so [CLS]'s attention is the same whatever the text
ANY_ENCODER_METHODS = ("occlusion",)  # need embeddings alone
CLASS_TOKEN_METHODS = ("cls", "gradient")  # need attention too; the others read tokens that only IVT trains


@contextmanager
def recording(model: DualEncoder) -> Generator[None]:
    """Let an `IVTModel` record its attention weights: eager attention and eval mode, both as before afterwards."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        with evaluating(model), torch.inference_mode(False):  # gradients are wanted, whoever calls
            yield
    finally:
        model.set_attn_implementation(before)


def _options(model: DualEncoder) -> dict[str, bool]:
    return {"cls_only": True} if is_checkpoint(model) else {}


def cls_map(model: DualEncoder, pixel_values: torch.Tensor, texts: Texts) -> torch.Tensor:
    """Attention of [CLS] in the last block, mean over the heads (the paper's figures)."""
    output = model.get_image_features(pixel_values, output_attentions=True, **_options(model))
    weights = in_full_precision(output.attentions[-1]).mean(dim=1)[:, 0, 1:]  # (B, P)
    return weights[:, None].expand(-1, texts.embeds.shape[1], -1)


def gradient_map(model: DualEncoder, pixel_values: torch.Tensor, texts: Texts) -> torch.Tensor:
    """What the cosine gains by [CLS]'s attention to each patch: weight times gradient where positive, over all blocks.

    To first order, weight times gradient is how much the cosine would lose without this look at the patch.
    """
    with torch.enable_grad():
        # the pixels ask for a gradient so that frozen models have one as well
        output = model.get_image_features(pixel_values.requires_grad_(), output_attentions=True, **_options(model))
        cosines = torch.einsum("bd,bqd->bq", normalize(in_full_precision(output.pooler_output), dim=-1), texts.embeds)
        attentions = output.attentions
        num_texts, maps = cosines.shape[1], []
        for q in range(num_texts):
            gradients = torch.autograd.grad(cosines[:, q].sum(), attentions, retain_graph=q + 1 < num_texts)
            gains = [
                in_full_precision(a.detach() * g)[:, :, 0, 1:] for a, g in zip(attentions, gradients, strict=True)
            ]  # (B, H, P)
            maps.append(sum(gain.clamp(min=0).sum(dim=1) for gain in gains))
    return torch.stack(maps, dim=1)


def tokenwise_map(model: DualEncoder, pixel_values: torch.Tensor, texts: Texts) -> torch.Tensor:
    """Softmax over the patches of their cosines with a word: which patch says the same, mean over the words.

    A word counts the more, the further its best patch stands out from the mean of the patches: many nouns stand out
    nowhere, while their colour does.
    """
    assert texts.word_states is not None and texts.word_mask is not None  # an IVT checkpoint gives them
    states = in_full_precision(model.get_image_features(pixel_values).last_hidden_state)
    patches = normalize(states[:, 1:], dim=-1)  # (B, P, D)
    cosines = torch.einsum("bpd,bqld->bqlp", patches, texts.word_states)
    standing_out = (cosines.amax(dim=-1) - cosines.mean(dim=-1)) / WORD_TEMPERATURE  # (B, Q, L)
    weights = standing_out.masked_fill(texts.word_mask == 0, -torch.inf).softmax(dim=-1)
    return torch.einsum("bqlp,bql->bqp", (cosines / TOKEN_TEMPERATURE).softmax(dim=-1), weights)


def joint_map(model: DualEncoder, pixel_values: torch.Tensor, texts: Texts) -> torch.Tensor:
    """Weighted geometric mean of the shares of `gradient_map` and `tokenwise_map`.

    It is high where the cosine rests on a patch that also says the same as the words.
    """
    gradient, tokenwise = (make(model, pixel_values, texts).detach() for make in (gradient_map, tokenwise_map))
    shares = gradient / gradient.sum(dim=-1, keepdim=True).clamp(min=1e-12)
    return shares**GRADIENT_SHARE * tokenwise ** (1 - GRADIENT_SHARE)


# method -> function of (model, pixel_values, texts) that gives maps (B, Q, P), nowhere negative
PATCH_MAPS: dict[str, Callable[[DualEncoder, torch.Tensor, Texts], torch.Tensor]] = {
    "cls": cls_map,
    "gradient": gradient_map,
    "tokenwise": tokenwise_map,
    "joint": joint_map,
}


def patch_grid(model: DualEncoder) -> tuple[int, int]:
    """(rows, columns) of the patches of an IVT checkpoint or of an encoder with a class token."""
    if is_checkpoint(model):
        return model.config.patch_grid
    vision = model.config.vision_config
    return (vision.image_size // vision.patch_size,) * 2


def patch_stride(model: DualEncoder) -> tuple[int, int]:
    """Side of a patch and distance to the next one, in pixels."""
    if is_checkpoint(model):
        return model.config.patch_size, model.config.patch_stride
    return (model.config.vision_config.patch_size,) * 2


def known_methods(model: DualEncoder) -> tuple[str, ...]:
    """The methods that work with a model, the one to take by default first."""
    if is_checkpoint(model):
        return (DEFAULT_METHOD, *(method for method in METHODS if method != DEFAULT_METHOD))
    if model_type(model) in WITH_CLASS_TOKEN:
        return (*ANY_ENCODER_METHODS, *CLASS_TOKEN_METHODS)
    return ANY_ENCODER_METHODS


def check_method(model: DualEncoder, method: str) -> None:
    """Raise ValueError if there is no such method, or the model does not record what it reads."""
    if method not in PATCH_MAPS and method not in METHODS:
        raise ValueError(f"there is no method {method!r}, choose one of {', '.join(METHODS)}")
    known = known_methods(model)
    if is_checkpoint(model) or method in known:
        return
    if isinstance(model, ExportedIVTModel):
        raise ValueError(
            "an exported model records no attention; pass the checkpoint it was made from, or choose the method "
            f"{' or '.join(known)} instead of {method}"
        )
    lacking = "does not record what it reads" if len(known) > 1 else "records no attention"
    raise ValueError(f"{type(model).__name__} {lacking}; choose the method {' or '.join(known)} instead of {method}")


def patch_maps(model: DualEncoder, pixel_values: torch.Tensor, texts: Texts, method: str) -> torch.Tensor:
    """Compute maps on the patch grid.

    Args:
        model: one that the method works with (`known_methods`); afterwards it is in the same mode and has the
            same kind of attention as before.
        pixel_values: (B, C, height, width) of the model's `image_size`.
        texts: Q texts for each picture, see `encode_texts`.
        method: a key of `PATCH_MAPS`.

    Returns:
        (B, Q, rows, columns), nowhere negative: parts of the cosine (gradient) or shares of the whole picture (the
        others).

    Raises:
        ValueError: if there is no such method, or the model records no attention.
    """
    check_method(model, method)
    with recording(model), torch.no_grad():
        maps = PATCH_MAPS[method](model, pixel_values.detach(), texts)
    return maps.unflatten(-1, patch_grid(model))
