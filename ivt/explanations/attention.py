"""Where the model looks: maps over a picture for a sentence or a word, from the model's own recorded weights.

    explanation = explain(model, processor, image, "a man with a red backpack", word="backpack")
    explanation.draw("map.png")

[CLS] attention is what the paper's figures 4 and 6 show (Shu et al., arXiv 2208.08608); rollout is Abnar & Zuidema's
(arXiv 2005.00928), gradient-weighted attention follows Chefer et al. (arXiv 2103.15679). The two encoders never meet,
so the attention of the picture alone, raw or rolled out, is the same whatever the text: it shows where the model
looks in general and answers no word. How often each method points to the right place is measured by
`benchmarks/attention.py`.

Letters: B pictures, Q texts per picture, N image tokens ([CLS] + P patches), L text tokens, H heads, D width. Maps are
(rows, columns) of the patch grid or (height, width) in pixels of `config.image_size`: both from the top left corner,
down first.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.nn.functional import conv_transpose2d, normalize, pad

from ivt.choices import DEFAULT_METHOD
from ivt.retrieval.exported import ExportedIVTModel

from .overlays import draw_explanation

DEFAULT_SHIFTS = 1
TEXT_FREE_METHODS = ("cls", "rollout")
TOKEN_TEMPERATURE = 0.07  # of the softmax over the patches; what `tokenwise_loss` trains with
# chosen on the embedded corpus's validation people (LOG.md):
WORD_TEMPERATURE = 0.02  # of the softmax over the words
GRADIENT_SHARE = 0.4  # of `gradient` in `joint`; the rest is `tokenwise`'s
# what a bare noun is asked for in, see `in_best_colour`
COLOURS = (
    *("black", "white", "gray", "blue", "red", "green", "yellow", "orange", "pink", "purple", "brown", "beige"),
    "blond",
)
# words that no colour is put in front of: people, where it would be taken for that of the skin, and small words
COLOURLESS = frozenset(
    "woman women lady girl female man men guy boy male gentleman person people pedestrian individual student child "
    "kid worker he she they it his her their the a an and or with without of in on at to from over under by has have "
    "is are wears wear wearing carries carry carrying holds hold holding walks walking stands standing".split()
)


@dataclass(frozen=True)
class Texts:
    """Q texts for each of B pictures, embedded.

    Attributes:
        embeds: (B, Q, D), unit length.
        word_states: (B, Q, L, D), last hidden states of the tokens, unit length.
        word_mask: (B, Q, L), 1 for tokens of words, 0 for [CLS], [SEP] and padding.
    """

    embeds: torch.Tensor
    word_states: torch.Tensor
    word_mask: torch.Tensor


@contextmanager
def recording(model: nn.Module) -> Iterator[None]:
    """Let a model record its attention weights: eager attention and eval mode, both as before afterwards."""
    if isinstance(model, ExportedIVTModel):
        raise ValueError("an exported model records no attention; pass the checkpoint it was made from")
    before, training = model.config._attn_implementation, [module for module in model.modules() if module.training]
    model.set_attn_implementation("eager")
    model.eval()
    try:
        with torch.inference_mode(False):  # gradients are wanted, whoever calls
            yield
    finally:
        model.set_attn_implementation(before)
        for module in training:
            module.training = True


@torch.no_grad()
def encode_texts(model: nn.Module, processor: Any, texts: Sequence[Sequence[str]]) -> Texts:
    """Embed the texts that maps are wanted for.

    Args:
        model: an `IVTModel`.
        processor: its processor.
        texts: for each of B pictures its Q texts; equal ones are embedded once.

    Raises:
        ValueError: if the pictures do not have equally many texts, or a text is empty.
    """
    counts = {len(row) for row in texts}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"pictures have {sorted(counts)} texts, expected equally many, at least one, for each")
    different = sorted({text for row in texts for text in row})
    place = {text: index for index, text in enumerate(different)}
    tokens = processor(text=different, return_tensors="pt").to(model.device)
    with recording(model):
        output = model.get_text_features(tokens["input_ids"], tokens["attention_mask"])
    tokenizer = processor.tokenizer
    around = torch.tensor([tokenizer.cls_token_id, tokenizer.sep_token_id], device=model.device)
    word_mask = tokens["attention_mask"] * ~torch.isin(tokens["input_ids"], around)
    rows = torch.tensor([[place[text] for text in row] for row in texts], device=model.device)  # (B, Q)
    embeds, states = normalize(output.pooler_output, dim=-1), normalize(output.last_hidden_state, dim=-1)
    return Texts(embeds[rows], states[rows], word_mask[rows])


def _cls(model: nn.Module, pixel_values: torch.Tensor, texts: Texts) -> torch.Tensor:
    """Attention of [CLS] in the last block, mean over the heads (the paper's figures)."""
    output = model.get_image_features(pixel_values, output_attentions=True, cls_only=True)
    weights = output.attentions[-1].mean(dim=1)[:, 0, 1:]  # (B, P)
    return weights[:, None].expand(-1, texts.embeds.shape[1], -1)


def _rollout(model: nn.Module, pixel_values: torch.Tensor, texts: Texts) -> torch.Tensor:
    """Attention rollout: the blocks' mean attention multiplied, each mixed half and half with the residual path."""
    output = model.get_image_features(pixel_values, output_attentions=True, cls_only=True)
    flow = nn.functional.one_hot(torch.tensor(0), output.attentions[0].shape[-1]).to(pixel_values.device)  # [CLS]
    # only [CLS]'s row is wanted, so a vector goes from the last block to the first
    for weights in reversed(output.attentions):
        mixed = weights.mean(dim=1)  # (B, N, N), in the last block (B, 1, N)
        flow = 0.5 * flow + 0.5 * (mixed[:, 0] if mixed.shape[1] == 1 else (flow[:, None] @ mixed)[:, 0])  # (B, N)
    return flow[:, None, 1:].expand(-1, texts.embeds.shape[1], -1)


def _gradient(
    model: nn.Module, pixel_values: torch.Tensor, texts: Texts, last_block_only: bool = False
) -> torch.Tensor:
    """What the cosine gains by [CLS]'s attention to each patch: weight times gradient where positive, over all blocks.

    To first order, weight times gradient is how much the cosine would lose without this look at the patch.
    """
    with torch.enable_grad():
        # the pixels ask for a gradient so that frozen models have one as well
        output = model.get_image_features(pixel_values.requires_grad_(), output_attentions=True, cls_only=True)
        cosines = torch.einsum("bd,bqd->bq", normalize(output.pooler_output, dim=-1), texts.embeds)
        attentions = output.attentions[-1:] if last_block_only else output.attentions
        num_texts, maps = cosines.shape[1], []
        for q in range(num_texts):
            gradients = torch.autograd.grad(cosines[:, q].sum(), attentions, retain_graph=q + 1 < num_texts)
            gains = [(a.detach() * g)[:, :, 0, 1:] for a, g in zip(attentions, gradients, strict=True)]  # (B, H, P)
            maps.append(sum(gain.clamp(min=0).sum(dim=1) for gain in gains))
    return torch.stack(maps, dim=1)


def _tokenwise(model: nn.Module, pixel_values: torch.Tensor, texts: Texts) -> torch.Tensor:
    """Softmax over the patches of their cosines with a word: which patch says the same, mean over the words.

    A word counts the more, the further its best patch stands out from the mean of the patches: many nouns stand out
    nowhere, while their colour does.
    """
    patches = normalize(model.get_image_features(pixel_values).last_hidden_state[:, 1:], dim=-1)  # (B, P, D)
    cosines = torch.einsum("bpd,bqld->bqlp", patches, texts.word_states)
    standing_out = (cosines.amax(dim=-1) - cosines.mean(dim=-1)) / WORD_TEMPERATURE  # (B, Q, L)
    weights = standing_out.masked_fill(texts.word_mask == 0, -torch.inf).softmax(dim=-1)
    return torch.einsum("bqlp,bql->bqp", (cosines / TOKEN_TEMPERATURE).softmax(dim=-1), weights)


def _joint(model: nn.Module, pixel_values: torch.Tensor, texts: Texts) -> torch.Tensor:
    """Weighted geometric mean of the shares of `gradient` and `tokenwise`.

    It is high where the cosine rests on a patch that also says the same as the words.
    """
    gradient, tokenwise = (method(model, pixel_values, texts).detach() for method in (_gradient, _tokenwise))
    shares = gradient / gradient.sum(dim=-1, keepdim=True).clamp(min=1e-12)
    return shares**GRADIENT_SHARE * tokenwise ** (1 - GRADIENT_SHARE)


def _window_starts(length: int, side: int, step: int) -> list[int]:
    """Where windows begin that step along a side of the grid; the last one ends with it."""
    last = max(length - side, 0)
    return sorted({*range(0, last, step), last})


def _occlusion(model: nn.Module, pixel_values: torch.Tensor, texts: Texts) -> torch.Tensor:
    """How much the cosine falls, if at all, without a window of patches two patches wide; mean over the windows."""
    rows, columns = model.config.patch_grid
    step = model.config.patch_size // model.config.patch_stride  # patches to the next one that does not overlap
    windows = []
    for top in _window_starts(rows, step + 1, step):
        for left in _window_starts(columns, step + 1, step):
            window = texts.embeds.new_zeros(rows, columns)
            window[top : top + step + 1, left : left + step + 1] = 1
            windows.append(window.flatten())
    hidden = torch.stack(windows)  # (W, P)

    def cosines(keep_positions: torch.Tensor | None) -> torch.Tensor:
        output = model.get_image_features(pixel_values, keep_positions=keep_positions, cls_only=True)
        return torch.einsum("bd,bqd->bq", normalize(output.pooler_output, dim=-1), texts.embeds)

    kept = [pad(1 + (window == 0).nonzero()[:, 0], (1, 0)) for window in windows]  # [CLS], at 0, always
    falls = cosines(None)[..., None] - torch.stack([cosines(positions) for positions in kept], dim=-1)  # (B, Q, W)
    return falls.clamp(min=0) @ hidden / hidden.sum(dim=0)


# method -> function of (model, pixel_values, texts) that gives maps (B, Q, P), nowhere negative
METHODS: dict[str, Callable[[nn.Module, torch.Tensor, Texts], torch.Tensor]] = {
    "cls": _cls,
    "rollout": _rollout,
    "gradient": _gradient,
    "gradient_last": partial(_gradient, last_block_only=True),
    "tokenwise": _tokenwise,
    "occlusion": _occlusion,
    "joint": _joint,
}

UNITS = {
    "cls": "share of [CLS]'s attention",
    "rollout": "share of the attention, rolled out",
    "gradient": "part in the cosine",
    "gradient_last": "part in the cosine, last block",
    "tokenwise": "share of the likeness to the words",
    "occlusion": "fall of the cosine when hidden",
    "joint": "share of both, geometric mean",
}


def spread(values: torch.Tensor, window: tuple[int, int], stride: int, size: tuple[int, int]) -> torch.Tensor:
    """Turn one value per window into one per cell: the mean of the windows that cover it.

    Args:
        values: (B, Q, rows, columns), window (r, c) has its top left corner at cell (r * stride, c * stride).
        window: height and width of a window in cells.
        stride: distance of two windows in cells.
        size: (height, width) in cells.

    Returns:
        (B, Q, height, width); 0 in the cells at the right and lower edge that no window covers.
    """
    kernel = values.new_ones(1, 1, *window)
    sums = conv_transpose2d(values.flatten(0, 1)[:, None], kernel, stride=stride)  # (B * Q, 1, height', width')
    covering = conv_transpose2d(torch.ones_like(values[:1, 0, None]), kernel, stride=stride)
    edge = (0, size[1] - sums.shape[-1], 0, size[0] - sums.shape[-2])
    return pad(sums / covering, edge).view(*values.shape[:2], *size)


def patch_maps(model: nn.Module, pixel_values: torch.Tensor, texts: Texts, method: str) -> torch.Tensor:
    """Compute maps on the patch grid.

    Args:
        model: an `IVTModel`; it is in the same mode and has the same kind of attention afterwards as before.
        pixel_values: (B, C, height, width) of the model's `image_size`.
        texts: Q texts for each picture, see `encode_texts`.
        method: a key of `METHODS`.

    Returns:
        (B, Q, rows, columns), nowhere negative, in the unit that `UNITS` names: parts of the cosine (gradient,
        gradient_last, occlusion) or shares of the whole picture (the others).

    Raises:
        ValueError: if there is no such method.
    """
    if method not in METHODS:
        raise ValueError(f"there is no method {method!r}, choose one of {', '.join(METHODS)}")
    with recording(model), torch.no_grad():
        maps = METHODS[method](model, pixel_values.detach(), texts)
    return maps.unflatten(-1, model.config.patch_grid)


def _move(pixels: torch.Tensor, down: int, right: int, mode: str = "constant") -> torch.Tensor:
    """Move pictures (B, C, height, width) by whole pixels; what comes in is padded by `mode`."""
    height, width = pixels.shape[-2:]
    margin = max(abs(down), abs(right))
    padded = pad(pixels, (margin,) * 4, mode=mode)
    return padded[..., margin - down : margin - down + height, margin - right : margin - right + width]


def pixel_maps(
    model: nn.Module, pixel_values: torch.Tensor, texts: Texts, method: str, shifts: int = DEFAULT_SHIFTS
) -> torch.Tensor:
    """Compute maps in pixels: every pixel is the mean of the patches that cover it.

    With `shifts` above 1 the picture is looked at `shifts` x `shifts` times, moved by parts of a stride and its edge
    repeated, and the maps are moved back and averaged: patches cut the picture in other places each time, so the map
    is finer than the patch grid.

    Args:
        model: as for `patch_maps`.
        pixel_values: (B, C, height, width).
        texts: Q texts for each picture.
        method: a key of `METHODS`.
        shifts: places per axis; 1 looks once at the picture as it is.

    Returns:
        (B, Q, height, width), in the unit of `patch_maps`.

    Raises:
        ValueError: if there is no such method, or `shifts` is below 1 or more than pixels in a stride.
    """
    config = model.config
    if not 1 <= shifts <= config.patch_stride:
        raise ValueError(f"shifts is {shifts}, expected 1 to {config.patch_stride}, the model's patch_stride")
    offsets = [(2 * k + 1 - shifts) * config.patch_stride // (2 * shifts) for k in range(shifts)]
    total = seen = 0.0
    for down in offsets:
        for right in offsets:
            maps = patch_maps(model, _move(pixel_values, down, right, "replicate"), texts, method)
            looks = (maps, torch.ones_like(maps[:1, :1]))
            window, size = (config.patch_size,) * 2, tuple(config.image_size)
            pixels, covered = (_move(spread(look, window, config.patch_stride, size), -down, -right) for look in looks)
            total, seen = total + pixels, seen + covered
    return total / seen.clamp(min=1)  # what no look covers has 0


def strongest_place(maps: torch.Tensor) -> torch.Tensor:
    """The middle of the pixels where each map is largest, for example of the strongest patch.

    Args:
        maps: (…, height, width).

    Returns:
        (…, 2), row and column from the top left corner; whole numbers are the middles of pixels.
    """
    largest = maps.flatten(-2).amax(dim=-1)[..., None, None]
    best = (maps >= largest * (1 - 1e-5)).double()  # (…, height, width); rounding parts what is equal
    rows, columns = (torch.arange(n, device=maps.device, dtype=torch.double) for n in maps.shape[-2:])
    place = torch.stack([(best.sum(dim=-1) * rows).sum(dim=-1), (best.sum(dim=-2) * columns).sum(dim=-1)], dim=-1)
    return place / best.sum(dim=(-2, -1))[..., None]


def _coloured(word: str, colour: str) -> str:
    """A word in a colour; what is not hair is called yellow instead of blond."""
    return f"{'yellow' if colour == 'blond' and 'hair' not in word.lower() else colour} {word}"


@torch.no_grad()
def in_best_colour(
    model: nn.Module,
    processor: Any,
    pixel_values: torch.Tensor,
    words: Sequence[Sequence[str]],
    colours: Sequence[str] = COLOURS,
) -> list[list[str]]:
    """Put the colour in front of each word that makes it fit its picture best: "backpack" -> "pink backpack".

    A model that has learnt from captions hardly knows a noun without its colour. Asked for it in every colour, it
    finds it by the one of the highest cosine.

    Args:
        model: an `IVTModel`.
        processor: its processor.
        pixel_values: (B, C, height, width).
        words: Q words for each of B pictures. Those with a colour or a word of `COLOURLESS` stay as they are.
        colours: to choose from.
    """
    kept = set(colours) | COLOURLESS
    asked = [
        [word if kept & set(word.lower().split()) else _coloured(word, colour) for word in row for colour in colours]
        for row in words
    ]
    embeds = encode_texts(model, processor, asked).embeds
    with recording(model):
        images = model.get_image_features(pixel_values, cls_only=True).pooler_output  # (B, D)
    scores = torch.einsum("bqd,bd->bq", embeds, images).unflatten(1, (-1, len(colours)))
    best = scores.argmax(dim=-1).tolist()  # (B, Q)
    return [[row[q * len(colours) + k] for q, k in enumerate(chosen)] for row, chosen in zip(asked, best, strict=True)]


@torch.no_grad()
def word_weights(
    model: nn.Module, processor: Any, pixel_values: torch.Tensor, text: str
) -> tuple[float, list[tuple[str, float]]]:
    """How much each word of a text counts for a picture: what the cosine loses without the word's tokens.

    Args:
        model: an `IVTModel`.
        processor: its processor.
        pixel_values: (1, C, height, width).
        text: words with spaces between them.

    Returns:
        Cosine of picture and whole text, and per word of the text its weight: positive if the word speaks for the
        picture, negative if against it, 0 for words behind the longest text the model reads.
    """
    words = text.split()
    encoded = processor.tokenizer(
        [word.lower() for word in words], is_split_into_words=True, truncation=True, return_tensors="pt"
    )
    owners = torch.tensor([-1 if owner is None else owner for owner in encoded.word_ids()])  # (L,), -1: [CLS], [SEP]
    without = owners[None] != torch.arange(-1, len(words))[:, None]  # (1 + words, L); the first row is the whole text
    without[0] = True
    input_ids = encoded["input_ids"].expand(len(without), -1).to(model.device)
    with recording(model):
        texts = model.get_text_features(input_ids, without.long().to(model.device), cls_only=True).pooler_output
        image = model.get_image_features(pixel_values, cls_only=True).pooler_output  # (1, D)
    whole, *rest = (normalize(texts, dim=-1) @ normalize(image, dim=-1)[0]).tolist()
    return whole, [(word, whole - score) for word, score in zip(words, rest, strict=True)]


@dataclass(frozen=True)
class Explanation:
    """Where the model looks in one picture, and which words count.

    Attributes:
        image: the picture.
        text: the sentence.
        asked: what the map is for: the sentence, or a word of it, perhaps with the colour that fits best.
        method: key of `METHODS`.
        score: cosine of picture and sentence, in [-1, 1].
        words: each word of the sentence with its weight, see `word_weights`.
        patch_map: (rows, columns) of the patch grid.
        pixel_map: (height, width) of the model's `image_size`.
    """

    image: Image.Image
    text: str
    asked: str
    method: str
    score: float
    words: list[tuple[str, float]]
    patch_map: torch.Tensor
    pixel_map: torch.Tensor

    @property
    def place(self) -> tuple[float, float]:
        """Row and column of the strongest place, in pixels of the picture itself."""
        row, column = strongest_place(self.pixel_map).tolist()
        height, width = self.pixel_map.shape
        return (row + 0.5) * self.image.height / height, (column + 0.5) * self.image.width / width

    def _asked(self) -> str:
        """What the map is for, as a person reads it."""
        if self.method in TEXT_FREE_METHODS:
            return "where the model looks in general, whatever the text"
        return "the whole sentence" if self.asked == self.text else f"“{self.asked}”"

    def __str__(self) -> str:
        """The cosine, the strongest place, and the words by weight."""
        row, column = self.place
        lines = [
            f"cosine with the sentence {self.score:.3f}",
            f"strongest place by {self.method} for {self._asked()}: row {row:.0f} of {self.image.height}, "
            f"column {column:.0f} of {self.image.width}",
            "what the cosine loses without each word:",
        ]
        heaviest = sorted(self.words, key=lambda word: -abs(word[1]))
        return "\n".join(lines + [f"  {weight:+.3f}  {word}" for word, weight in heaviest])

    def draw(self, path: str | os.PathLike[str] | None = None) -> Image.Image:
        """Draw the map over the picture, with a colour bar, and the words coloured by their weight.

        Args:
            path: also write it to this file; the ending chooses the format.
        """
        unit = UNITS[self.method]
        sheet = draw_explanation(self.image, self.pixel_map.numpy(), self._asked(), unit, self.score, self.words)
        if path is not None:
            sheet.save(path)
        return sheet

    def to_dict(self) -> dict[str, Any]:
        """All but the picture, as JSON holds it."""
        return {
            "text": self.text,
            "asked": self.asked,
            "method": self.method,
            "score": self.score,
            "words": [{"word": word, "weight": weight} for word, weight in self.words],
            "place": {"row": self.place[0], "column": self.place[1]},
            "patch_map": self.patch_map.tolist(),
        }


def explain(
    model: nn.Module,
    processor: Any,
    image: Image.Image,
    text: str,
    word: str | None = None,
    method: str = DEFAULT_METHOD,
    shifts: int = DEFAULT_SHIFTS,
    colours: Sequence[str] = COLOURS,
) -> Explanation:
    """Show where the model looks in a picture for a sentence or a word of it.

    Args:
        model: an `IVTModel`.
        processor: its processor.
        image: the picture.
        text: the sentence.
        word: one or several words of the sentence. One that names no colour is asked for in the colour right before it
            in the sentence, or else in the one that fits best, see `in_best_colour`.
        method: a key of `METHODS`. The default points best (README) with models trained with the token-wise loss;
            with others, "gradient" does.
        shifts: see `pixel_maps`.
        colours: to look for in the sentence and to ask for the word in; () asks for it as it is.

    Raises:
        ValueError: if the text is empty, the word does not stand in it, there is no such method, or a word is given
            to a method that does not depend on the text.
    """
    if word is not None and not re.search(rf"(?<!\w)(?=\S){re.escape(word)}(?!\w)", text, re.IGNORECASE):
        raise ValueError(f"the word {word!r} does not stand in the text {text!r}; pass one or several words of it")
    if word is not None and method in TEXT_FREE_METHODS:
        raise ValueError(
            f"the method {method} looks the same whatever the text, so it cannot answer the word {word!r}; leave out "
            f"the word or choose another method, such as {DEFAULT_METHOD}"
        )
    pixel_values = processor(images=[image], return_tensors="pt")["pixel_values"].to(model.device)
    asked = word or text
    if word and colours:
        said = re.search(rf"(?<!\w)({'|'.join(map(re.escape, colours))}) {re.escape(word)}(?!\w)", text, re.IGNORECASE)
        colours = (said[1].lower(),) if said else colours
        asked = in_best_colour(model, processor, pixel_values, [[word]], colours)[0][0]
    texts = encode_texts(model, processor, [[asked]])
    maps = pixel_maps(model, pixel_values, texts, method, shifts)  # (1, 1, height, width)
    score, words = word_weights(model, processor, pixel_values, text)
    patches = nn.functional.avg_pool2d(maps, model.config.patch_size, model.config.patch_stride)
    return Explanation(image, text, asked, method, score, words, patches[0, 0].cpu(), maps[0, 0].cpu())
