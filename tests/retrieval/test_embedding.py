import threading
import time
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers.feature_extraction_utils import BatchFeature

from ivt.retrieval.embedding import embed_images, embed_texts, prefetch


class ColourModel(torch.nn.Module):
    """Embeds an image as its mean colour and a text as the sum of its tokens' vectors."""

    device = property(lambda self: self.words.weight.device)
    dtype = property(lambda self: self.words.weight.dtype)

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(200, 3)
        self.frozen = torch.nn.Dropout()
        self.batches: list[tuple[int, ...]] = []

    def get_image_features(self, pixel_values: torch.Tensor, cls_only: bool) -> SimpleNamespace:
        assert not self.training and pixel_values.dtype == self.dtype
        self.batches.append(tuple(pixel_values.shape))
        return SimpleNamespace(pooler_output=pixel_values.mean(dim=(2, 3)))

    def get_text_features(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, cls_only: bool
    ) -> SimpleNamespace:
        assert not self.training
        self.batches.append(tuple(input_ids.shape))
        return SimpleNamespace(pooler_output=(self.words(input_ids) * attention_mask[..., None]).sum(dim=1))


class LetterProcessor:
    """Tokens are letters; at most 12 of them, or as many as it is told."""

    def __call__(
        self,
        images: list | None = None,
        text: list[str] | None = None,
        max_length: int = 12,
        **kwargs: object,
    ) -> BatchFeature:
        assert kwargs["return_tensors"] == "pt"
        if images is not None:
            pixels = [torch.from_numpy(np.array(image.resize((4, 6)))).permute(2, 0, 1) / 255 for image in images]
            return BatchFeature({"pixel_values": torch.stack(pixels)})
        assert kwargs["padding"] and kwargs["truncation"]
        rows = [[ord(letter) for letter in sentence[:max_length]] for sentence in text]
        longest = max(len(row) for row in rows)
        return BatchFeature(
            {
                "input_ids": torch.tensor([row + [0] * (longest - len(row)) for row in rows]),
                "attention_mask": torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows]),
            }
        )


@pytest.fixture
def model() -> ColourModel:
    torch.manual_seed(0)
    return ColourModel()


COLOURS = [(200, 10, 10), (10, 200, 10), (10, 10, 200), (90, 90, 10), (0, 90, 250), (255, 255, 255), (1, 0, 0)]
IMAGES = [Image.new("RGB", (5 + index, 9), colour) for index, colour in enumerate(COLOURS)]
EXPECTED = torch.nn.functional.normalize(torch.tensor(COLOURS).float(), dim=-1)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 64])
def test_image_embeds_are_unit_length_and_in_the_order_of_the_images(model: ColourModel, batch_size: int) -> None:
    embeds = embed_images(model, LetterProcessor(), IMAGES, batch_size=batch_size, progress=False)
    torch.testing.assert_close(embeds, EXPECTED)
    assert embeds.dtype == torch.float32 and not embeds.is_inference()
    assert max(shape[0] for shape in model.batches) == min(batch_size, 7)


def test_files_are_opened_and_one_that_cannot_be_read_is_named(model: ColourModel, tmp_path: Path) -> None:
    files = [tmp_path / f"{index}.png" for index in range(3)]
    for file, image in zip(files, IMAGES, strict=False):
        image.save(file)
    for paths in (files, list(map(str, files))):
        torch.testing.assert_close(embed_images(model, LetterProcessor(), paths, progress=False), EXPECTED[:3])
    files[1].write_bytes(b"no picture")
    with pytest.raises(ValueError, match="1.png' cannot be read: "):
        embed_images(model, LetterProcessor(), files, progress=False)


@pytest.mark.parametrize(
    "make",
    [
        iter,
        tuple,
        lambda images: datasets.Dataset.from_dict(
            {"image": images}, features=datasets.Features({"image": datasets.Image()})
        )["image"],
    ],
)
def test_iterators_sequences_and_dataset_columns_embed_alike(model: ColourModel, make: object) -> None:
    embeds = embed_images(model, LetterProcessor(), make(IMAGES), batch_size=3, progress=False)
    torch.testing.assert_close(embeds, EXPECTED)


def test_text_embeds_keep_their_order_whatever_the_batches(model: ColourModel) -> None:
    texts = ["mid one", "a", "long sentence", "b", "the longest sentence of all", "cc"]
    expected = torch.stack([model.words(torch.tensor([ord(letter) for letter in text[:12]])).sum(0) for text in texts])
    for batch_size in (1, 2, 64):
        embeds = embed_texts(model, LetterProcessor(), texts, batch_size=batch_size, progress=False)
        torch.testing.assert_close(embeds, torch.nn.functional.normalize(expected, dim=-1).detach())
        assert embeds.dtype == torch.float32 and not embeds.is_inference()


def test_texts_are_cut_off_where_it_is_asked(model: ColourModel) -> None:
    embeds = embed_texts(model, LetterProcessor(), ["abcdef", "abc"], progress=False, max_length=3)
    torch.testing.assert_close(embeds[0], embeds[1])
    embeds = embed_texts(model, LetterProcessor(), ["abcdef", "abc"], progress=False)
    assert (embeds[0] - embeds[1]).abs().max() > 0.01


def test_texts_of_similar_length_share_a_batch(model: ColourModel) -> None:
    embed_texts(model, LetterProcessor(), ["a", "bbbbbbbb", "c", "dddddddd"], batch_size=2, progress=False)
    assert model.batches == [(2, 8), (2, 1)]


def test_every_module_returns_to_its_mode(model: ColourModel) -> None:
    model.train()
    model.frozen.eval()
    embed_images(model, LetterProcessor(), IMAGES, progress=False)
    assert model.training and model.words.training and not model.frozen.training
    with pytest.raises(TypeError):
        embed_images(model, lambda **kwargs: {}, IMAGES, progress=False)
    assert model.training and model.words.training and not model.frozen.training


def test_bfloat16_model_gets_bfloat16_pixels_and_gives_float32(model: ColourModel) -> None:
    embeds = embed_images(model.to(torch.bfloat16), LetterProcessor(), IMAGES, progress=False)
    assert embeds.dtype == torch.float32
    torch.testing.assert_close(embeds, EXPECTED, atol=2e-2, rtol=0)


def test_progress_bar_counts_every_image_and_text(model: ColourModel, capsys: pytest.CaptureFixture[str]) -> None:
    embed_images(model, LetterProcessor(), iter(IMAGES), batch_size=2)
    embed_texts(model, LetterProcessor(), ["a", "b"])
    shown = capsys.readouterr().err
    assert "7image" in shown and "2/2" in shown and "text/s" in shown


@pytest.mark.parametrize("images", [[], iter([])])
def test_nothing_to_embed_is_an_error(model: ColourModel, images: object) -> None:
    with pytest.raises(ValueError, match="0 images"):
        embed_images(model, LetterProcessor(), images, progress=False)
    with pytest.raises(ValueError, match="0 texts"):
        embed_texts(model, LetterProcessor(), [], progress=False)


@pytest.mark.parametrize(
    ("texts", "message"), [("a man", r"pass \[text\]"), (["a", " "], "text 1 is ' '"), (["a", None], "text 1 is None")]
)
def test_what_is_no_sentence_is_named(model: ColourModel, texts: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        embed_texts(model, LetterProcessor(), texts, progress=False)


def test_prefetch_keeps_order_and_never_runs_far_ahead() -> None:
    started, lock = [], threading.Lock()

    def slow_for_even_numbers(number: int) -> int:
        with lock:
            started.append(number)
        time.sleep(0.01 * (number % 2 == 0))
        return number

    for taken, number in enumerate(prefetch(slow_for_even_numbers, range(20), num_threads=3), start=1):
        assert number == taken - 1
        assert len(started) <= taken + 3


def test_half_a_character_is_named():
    with pytest.raises(ValueError, match=r"text 1 is 'a man \\ud83c', with half a character"):
        embed_texts(SimpleNamespace(), None, ["a man", "a man \ud83c"], progress=False)
