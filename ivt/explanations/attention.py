"""Where the model looks in a picture for a sentence or a word, and which words count.

    explanation = explain(model, processor, image, "a man with a red backpack", word="backpack")
    explanation.draw("map.png")

The maps are made in `maps.py` and `occlusion.py`, and brought to pixels in `pixels.py`.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch.nn.functional import avg_pool2d

from ivt.choices import DEFAULT_METHOD
from ivt.retrieval.embedding import DualEncoder

from .colours import in_best_colour, said_colour
from .maps import TEXT_FREE_METHODS
from .pixels import DEFAULT_SHIFTS, grid_of, pixel_maps, strongest_place
from .texts import encode_texts, word_weights

UNITS = {  # method -> what its maps count
    "cls": "share of [CLS]'s attention",
    "gradient": "part in the cosine",
    "tokenwise": "share of the likeness to the words",
    "occlusion": "fall of the cosine when hidden",
    "joint": "share of both, geometric mean",
}


@dataclass(frozen=True)
class Explanation:
    """Where the model looks in one picture, and which words count.

    Attributes:
        image: the picture, as far as the model sees it.
        text: the sentence.
        asked: what the map is for: the sentence, or a word of it, perhaps with the colour that fits best.
        method: one of `ivt.choices.METHODS`.
        score: cosine of picture and sentence, in [-1, 1].
        words: each word of the sentence with its weight, see `word_weights`.
        patch_map: (rows, columns) of the patch grid; for occlusion of the hidden windows.
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
        from .overlays import draw_explanation  # brings matplotlib

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


def as_seen(processor: Any, image: Image.Image) -> Image.Image:
    """The middle of a picture if the processor cuts off its edges, as CLIP's does, else all of it."""
    image_processor: Any = getattr(processor, "image_processor", None)
    if not getattr(image_processor, "do_center_crop", False):
        return image
    crop = image_processor.crop_size
    scale = min(image.width / crop["width"], image.height / crop["height"])
    width, height = round(scale * crop["width"]), round(scale * crop["height"])
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def explain(
    model: DualEncoder,
    processor: Any,
    image: Image.Image,
    text: str,
    word: str | None = None,
    method: str = DEFAULT_METHOD,
    shifts: int = DEFAULT_SHIFTS,
    colours: Sequence[str] = (),
) -> Explanation:
    """Show where the model looks in a picture for a sentence or a word of it.

    Args:
        model: an `IVTModel`; an exported one, or any dual encoder, with those methods that `known_methods` gives.
        processor: its processor.
        image: the picture.
        text: the sentence.
        word: one or several words of the sentence, for a map of them alone.
        method: one of `ivt.choices.METHODS`. The default points best (README) with models trained with the token-wise
            loss; with others, "gradient" does.
        shifts: see `pixel_maps`.
        colours: such as `colours.COLOURS`: ask for a word that names none of them in the one right before it in the
            sentence, or else in the one that fits the picture best. () asks for the word as it is.

    Raises:
        ValueError: if the text is empty, the word is not in it, there is no such method, the model does not record
            what the method reads, or a word is given to a method that does not depend on the text.
    """
    if word is not None and not re.search(rf"(?<!\w)(?=\S){re.escape(word)}(?!\w)", text, re.IGNORECASE):
        raise ValueError(f"the word {word!r} does not stand in the text {text!r}; pass one or several words of it")
    if word is not None and method in TEXT_FREE_METHODS:
        raise ValueError(
            f"the method {method} looks the same whatever the text, so it cannot answer the word {word!r}; leave out "
            f"the word or choose another method, such as {DEFAULT_METHOD}"
        )
    pixel_values = processor(images=[image], return_tensors="pt")["pixel_values"].to(model.device)
    if pixel_values.dim() != 4:
        raise ValueError(
            f"the processor of {type(model).__name__} cuts each picture into patches of its own (NaFlex), and no "
            "method works with these; choose a model of a fixed size"
        )
    asked = word or text
    if word and colours:
        said = said_colour(text, word, colours)
        asked = in_best_colour(model, processor, pixel_values, [[word]], [said] if said else colours)[0][0]
    maps = pixel_maps(model, pixel_values, encode_texts(model, processor, [[asked]]), method, shifts)
    grid = avg_pool2d(maps, *grid_of(model, method, maps.shape[-2]))  # (1, 1, rows, columns)
    score, words = word_weights(model, processor, pixel_values, text)
    return Explanation(
        as_seen(processor, image), text, asked, method, score, words, grid[0, 0].cpu(), maps[0, 0].cpu()
    )
