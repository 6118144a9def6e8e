"""What `explain` and `ivt explain` show: the strongest place, the words that count, the colour of a word."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize
from typer.testing import CliRunner

from ivt import DEFAULT_MODEL, cli, explain
from ivt.choices import METHODS
from ivt.corpora.drawn.drawing import draw_sighting
from ivt.corpora.drawn.people import sample_person, sample_sighting
from ivt.explanations.colours import COLOURS, in_best_colour
from ivt.explanations.texts import encode_texts, word_weights
from ivt.retrieval.checkpoints import load_embedder
from ivt.retrieval.models import load_processor
from modeling_ivt import IVTModel
from processing import IVTProcessor

ROWS, COLUMNS = 7, 3
SENTENCE = "A man with a red backpack, and a hat."


def test_word_weights_are_what_the_cosine_loses_without_the_words_tokens(
    tiny_model: IVTModel, processor: IVTProcessor, pixel_values: torch.Tensor
) -> None:
    score, words = word_weights(tiny_model, processor, pixel_values[:1], SENTENCE)
    assert [word for word, _ in words] == SENTENCE.split()
    tokens = processor(text=SENTENCE, return_tensors="pt")["input_ids"]
    image = tiny_model.get_image_features(pixel_values[:1]).pooler_output[0]
    positions = list(range(tokens.shape[1]))
    owned = [[1], [2], [3], [4], [5], [6, 7, 8], [9], [10], [11, 12]]  # "backpack," is back ##pack ,

    def cosine(keep: list[int]) -> float:
        text = tiny_model.get_text_features(tokens, keep_positions=torch.tensor(keep)).pooler_output[0]
        return torch.cosine_similarity(image, text, dim=0).item()

    assert score == pytest.approx(cosine(positions), abs=1e-6)
    for (_, weight), own in zip(words, owned, strict=True):
        assert weight == pytest.approx(score - cosine([p for p in positions if p not in own]), abs=1e-6)


def test_word_weights_ask_the_model_for_no_states_of_tokens(
    tiny_model: IVTModel, processor: IVTProcessor, pixel_values: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes, get_text_features = [], tiny_model.get_text_features

    def recording(*arguments: object, **options: object) -> object:
        output = get_text_features(*arguments, **options)
        shapes.append(output.last_hidden_state.shape)
        return output

    monkeypatch.setattr(tiny_model, "get_text_features", recording)
    word_weights(tiny_model, processor, pixel_values[:1], SENTENCE)
    assert shapes == [(1 + len(SENTENCE.split()), 1, 32)]  # [CLS] alone, of the sentence and without each word


def test_words_behind_the_longest_text_weigh_nothing(
    tiny_model: IVTModel, processor: IVTProcessor, pixel_values: torch.Tensor
) -> None:
    _, words = word_weights(tiny_model, processor, pixel_values[:1], "red " * 20)
    assert len(words) == 20
    weights = [abs(weight) for _, weight in words]
    assert min(weights[:14]) > 1e-5 and max(weights[14:]) < 1e-6  # but for rounding


def test_explanation_is_in_the_pictures_own_pixels(
    tiny_model: IVTModel, processor: IVTProcessor, picture: Image.Image, brightness: str
) -> None:
    picture.paste("black", (0, 0, 60, 180))
    picture.paste("white", (40, 30, 50, 45))  # left, top, right, bottom
    explanation = explain(tiny_model, processor, picture, SENTENCE, "red backpack", brightness)
    row, column = explanation.place
    assert 28 <= row <= 47 and 38 <= column <= 52  # to the pixel of the model's size
    assert explanation.patch_map.shape == (ROWS, COLUMNS) and explanation.pixel_map.shape == (48, 24)
    assert explanation.words[5][0] == "backpack,"


def test_word_is_looked_for_as_a_text_of_its_own(
    tiny_model: IVTModel, processor: IVTProcessor, picture: Image.Image
) -> None:
    maps = [
        explain(tiny_model, processor, picture, text, word).pixel_map
        for text, word in ((SENTENCE, "Backpack"), ("backpack", None), (SENTENCE, None))
    ]
    assert torch.equal(maps[0], maps[1]) and not torch.equal(maps[0], maps[2])


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (SENTENCE, {"word": "pack"}, "'pack' does not stand in the text"),
        (SENTENCE, {"word": ""}, "pass one or several words of it"),
        (SENTENCE, {"word": "hat", "method": "cls"}, "looks the same whatever the text.*'hat'"),
        (SENTENCE, {"method": "saliency"}, "no method 'saliency', choose one of cls"),
        (SENTENCE, {"shifts": 0}, "shifts is 0, expected 1 to 6"),
        (SENTENCE, {"shifts": 7}, "shifts is 7, expected 1 to 6"),
        (" ", {}, "text 0 is ' ', expected a sentence"),
    ],
)
def test_what_cannot_be_explained_is_said(
    tiny_model: IVTModel, processor: IVTProcessor, picture: Image.Image, text: str, options: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        explain(tiny_model, processor, picture, text, **options)


def test_bare_words_get_the_colour_of_the_highest_cosine(
    tiny_model: IVTModel, processor: IVTProcessor, pixel_values: torch.Tensor
) -> None:
    words = [["hat", "backpack"], ["coat", "red coat"]]
    found = in_best_colour(tiny_model, processor, pixel_values, words, ("red", "blue", "a"))
    for row, chosen, pixels in zip(words, found, pixel_values, strict=True):
        for word, best in zip(row, chosen, strict=True):
            texts = encode_texts(tiny_model, processor, [[f"{colour} {word}" for colour in ("red", "blue", "a")]])
            image = tiny_model.get_image_features(pixels[None]).pooler_output
            expected = ("red", "blue", "a")[int((normalize(image, dim=-1) @ texts.embeds[0].T).argmax())]
            assert best == (word if word == "red coat" else f"{expected} {word}")


def test_explanation_says_in_which_colour_a_word_was_asked_for_and_gives_none_to_people(
    tiny_model: IVTModel, processor: IVTProcessor, picture: Image.Image
) -> None:
    asked = [
        explain(tiny_model, processor, picture, SENTENCE, word, colours=COLOURS).asked
        for word in ("hat", "red backpack", "man", "and")
    ]
    assert asked[0].removesuffix(" hat") in COLOURS and asked[1:] == ["red backpack", "man", "and"]


def test_only_hair_is_called_blond(tiny_model: IVTModel, processor: IVTProcessor, pixel_values: torch.Tensor) -> None:
    words = [["hat", "hair", "blond hat"]]
    found = in_best_colour(tiny_model, processor, pixel_values[:1], words, ("blond",))
    assert found == [["yellow hat", "blond hair", "blond hat"]]


def test_a_word_is_asked_for_in_the_colour_the_sentence_gives_it(
    tiny_model: IVTModel, processor: IVTProcessor, picture: Image.Image
) -> None:
    sentence = "a black man with a Blue hat and a red backpack"
    asked = [
        explain(tiny_model, processor, picture, sentence, word, colours=COLOURS).asked
        for word in ("hat", "backpack", "man")
    ]
    assert asked == ["blue hat", "red backpack", "man"]


@pytest.fixture
def ivt(tiny_model: IVTModel, processor: IVTProcessor, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """The command line with the tiny model."""
    monkeypatch.setattr("ivt.retrieval.models.find_version", lambda name: name)
    monkeypatch.setattr("ivt.retrieval.models.load_model", lambda version, device: (tiny_model, processor))
    return lambda *arguments: CliRunner().invoke(cli.app, ["explain", *map(str, arguments)])


def test_command_draws_prints_and_gives_json(ivt: Callable, picture: Image.Image, tmp_path: Path) -> None:
    picture.save(tmp_path / "crop.png")
    done = ivt(tmp_path / "crop.png", SENTENCE, "--word", "hat", "--save", tmp_path / "map.png")
    assert done.exit_code == 0, done.output
    assert "strongest place by joint for “" in done.output and "backpack," in done.output
    with Image.open(tmp_path / "map.png") as drawn:
        assert drawn.width > 2 * picture.width

    printed = json.loads(ivt(tmp_path / "crop.png", SENTENCE, "--json", "--method", "tokenwise").output)
    assert printed["method"] == "tokenwise" and np.shape(printed["patch_map"]) == (ROWS, COLUMNS)
    assert [entry["word"] for entry in printed["words"]] == SENTENCE.split()


def test_command_refuses_what_the_function_refuses(ivt: Callable, picture: Image.Image, tmp_path: Path) -> None:
    picture.save(tmp_path / "crop.png")
    done = ivt(tmp_path / "crop.png", SENTENCE, "--word", "coat")
    assert isinstance(done.exception, ValueError)
    assert "there is no such file" in str(ivt(tmp_path / "none.png", SENTENCE).exception)


def test_help_names_every_method(ivt: Callable) -> None:
    shown = " ".join(ivt("--help").output.split())
    assert f"How the map is made: {', '.join(METHODS)}." in shown


def test_half_a_character_is_named(tiny_model: IVTModel, processor: IVTProcessor) -> None:
    with pytest.raises(ValueError, match=r"text 0 is 'a hat \\ud83c', with half a character"):
        encode_texts(tiny_model, processor, [["a hat \ud83c"]])


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_looks_at_the_same_places(method: str) -> None:
    processor, maps = load_processor(DEFAULT_MODEL), []
    picture = draw_sighting(sample_person(0, "test", 0), sample_sighting(0, "test", 0, 0)).image
    for dtype in (torch.float32, torch.bfloat16):
        model = load_embedder(DEFAULT_MODEL, dtype)
        maps.append(explain(model, processor, picture, "A woman in a red coat.", method=method).pixel_map.flatten())
    assert np.corrcoef(*map(np.asarray, maps))[0, 1] > 0.99
