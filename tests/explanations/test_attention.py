"""Maps against naive loops over the model's own weights, and what `ivt explain` shows of them.

The tiny model looks at 48 x 24 pixels in 7 rows x 3 columns of overlapping patches; 8 pixels, stride 6.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import avg_pool2d, normalize
from transformers import BertTokenizer
from typer.testing import CliRunner

from ivt import cli, explain
from ivt.explanations.attention import (
    COLOURS,
    METHODS,
    TEXT_FREE_METHODS,
    TOKEN_TEMPERATURE,
    WORD_TEMPERATURE,
    Texts,
    _window_starts,
    encode_texts,
    in_best_colour,
    patch_maps,
    pixel_maps,
    recording,
    spread,
    strongest_place,
    word_weights,
)
from modeling_ivt import IVTConfig, IVTModel, modeling_ivt
from processing import IVTImageProcessor, IVTProcessor

ROWS, COLUMNS = 7, 3
VOCABULARY = "[PAD] [UNK] [CLS] [SEP] [MASK] a man with red back ##pack , . coat and hat the on blue".split()
SENTENCE = "A man with a red backpack, and a hat."


@pytest.fixture
def processor() -> IVTProcessor:
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(VOCABULARY)}, model_max_length=16)
    return IVTProcessor(IVTImageProcessor(size={"height": 48, "width": 24}), tokenizer)


@pytest.fixture
def texts(tiny_model: IVTModel, processor: IVTProcessor) -> Texts:
    return encode_texts(tiny_model, processor, [["a red backpack", "hat"], ["blue coat", "hat"]])


@pytest.fixture
def pixel_values() -> torch.Tensor:
    return torch.randn(2, 3, 48, 24)


def recorded(model: IVTModel, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    model.set_attn_implementation("eager")
    return model.get_image_features(pixel_values, output_attentions=True).attentions


def cosines(model: IVTModel, pixel_values: torch.Tensor, texts: Texts, keep: list[int] | None = None) -> torch.Tensor:
    positions = None if keep is None else torch.tensor(keep)
    embeds = model.get_image_features(pixel_values, keep_positions=positions).pooler_output
    return (normalize(embeds, dim=-1)[:, None] * texts.embeds).sum(dim=-1)  # (B, Q)


@pytest.mark.parametrize("method", METHODS)
def test_maps_have_the_patch_grid_and_are_nowhere_negative(
    tiny_model: IVTModel, pixel_values: torch.Tensor, texts: Texts, method: str
) -> None:
    maps = patch_maps(tiny_model, pixel_values, texts, method)
    assert maps.shape == (2, 2, ROWS, COLUMNS)
    assert maps.min() >= 0 and maps.max() > 0 and not maps.requires_grad
    same = torch.equal(maps[:, 0], maps[:, 1])
    assert same == (method in TEXT_FREE_METHODS)


def test_a_map_is_that_of_its_own_picture_and_text(tiny_model: IVTModel, pixel_values: torch.Tensor, texts: Texts):
    for method in METHODS:
        maps = patch_maps(tiny_model, pixel_values, texts, method)
        alone = Texts(*(field[1:, 1:] for field in (texts.embeds, texts.word_states, texts.word_mask)))
        torch.testing.assert_close(patch_maps(tiny_model, pixel_values[1:], alone, method), maps[1:, 1:])


def test_cls_is_the_mean_over_heads_of_the_recorded_weights(
    tiny_model: IVTModel, pixel_values: torch.Tensor, texts: Texts
) -> None:
    maps = patch_maps(tiny_model, pixel_values, texts, "cls")
    weights = recorded(tiny_model, pixel_values)[-1]  # (B, H, N, N)
    for row in range(ROWS):
        for column in range(COLUMNS):
            expected = sum(weights[:, head, 0, 1 + row * COLUMNS + column] for head in range(4)) / 4
            torch.testing.assert_close(maps[:, 0, row, column], expected)


def test_rollout_is_the_product_of_the_blocks(tiny_model: IVTModel, pixel_values: torch.Tensor, texts: Texts) -> None:
    maps = patch_maps(tiny_model, pixel_values, texts, "rollout")
    product = torch.eye(1 + ROWS * COLUMNS)
    for weights in recorded(tiny_model, pixel_values):
        product = (0.5 * weights.mean(dim=1) + 0.5 * torch.eye(1 + ROWS * COLUMNS)) @ product
    torch.testing.assert_close(maps[:, 1].flatten(1), product[:, 0, 1:])


def test_gradient_is_what_the_cosine_gains_by_scaling_a_weight(
    tiny_model: IVTModel, pixel_values: torch.Tensor, texts: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, pixel_values = tiny_model.double(), pixel_values[:1].double()
    texts = Texts(texts.embeds[:1].double(), texts.word_states, texts.word_mask)
    maps = {name: patch_maps(model, pixel_values, texts, name) for name in ("gradient", "gradient_last")}
    model.set_attn_implementation("eager")
    plain = modeling_ivt.eager_attention_forward
    calls = iter(())

    def scaled(module, query, key, value, mask, **kwargs):
        """The plain attention; at one block, head and patch [CLS]'s weight is `factor` times as large."""
        context, weights = plain(module, query, key, value, mask, **kwargs)
        if next(calls) == block:
            changed = weights.clone()
            changed[:, head, 0, 1 + patch] *= factor
            context = (changed @ value).transpose(1, 2)
        return context, weights

    monkeypatch.setattr(modeling_ivt, "eager_attention_forward", scaled)
    patch, step = 11, 3e-3
    gains = torch.zeros(2, 4, 2, dtype=torch.double)  # block, head, text
    for block in range(2):
        for head in range(4):
            for sign in (1, -1):
                factor, calls = 1 + sign * step, iter(range(2))
                gains[block, head] += sign * cosines(model, pixel_values, texts)[0].detach() / (2 * step)
    expected = gains.clamp(min=0).sum(dim=1)  # (blocks, Q)
    torch.testing.assert_close(maps["gradient"][0].flatten(1)[:, patch], expected.sum(dim=0), rtol=1e-3, atol=1e-8)
    torch.testing.assert_close(maps["gradient_last"][0].flatten(1)[:, patch], expected[1], rtol=1e-3, atol=1e-8)
    assert (expected > 0).any()


def test_tokenwise_is_a_mean_over_words_that_stand_out_of_a_softmax_over_patches(
    tiny_model: IVTModel, processor: IVTProcessor, pixel_values: torch.Tensor, texts: Texts
) -> None:
    maps = patch_maps(tiny_model, pixel_values, texts, "tokenwise")
    patches = tiny_model.get_image_features(pixel_values).last_hidden_state[0, 1:]
    tokens = processor(text="a red backpack", return_tensors="pt")["input_ids"]  # [CLS] a red back ##pack [SEP]
    words = tiny_model.get_text_features(tokens).last_hidden_state[0, 1:-1]
    assert len(words) == 4
    total, weights = torch.zeros(ROWS * COLUMNS), 0.0
    for word in words:
        similar = torch.cosine_similarity(patches, word[None])
        powers = torch.exp(similar / TOKEN_TEMPERATURE)
        weight = math.exp((similar.max().item() - similar.mean().item()) / WORD_TEMPERATURE)
        total, weights = total + weight * powers / powers.sum(), weights + weight
    torch.testing.assert_close(maps[0, 0].flatten(), total / weights, rtol=1e-4, atol=1e-7)


def test_unknown_words_have_a_map_too(
    tiny_model: IVTModel, processor: IVTProcessor, pixel_values: torch.Tensor
) -> None:
    texts = encode_texts(tiny_model, processor, [["xyz"], ["hat"]])
    assert patch_maps(tiny_model, pixel_values, texts, "tokenwise").isfinite().all()


@pytest.mark.parametrize("stride", [6, 4])
def test_occlusion_is_the_mean_fall_over_the_windows_that_hide_a_patch(
    tiny_config: IVTConfig, pixel_values: torch.Tensor, stride: int
) -> None:
    tiny_config.patch_stride = stride
    model, (rows, columns) = IVTModel(tiny_config).eval(), tiny_config.patch_grid
    texts = Texts(normalize(torch.randn(2, 3, 32), dim=-1), torch.zeros(2, 3, 1, 32), torch.ones(2, 3, 1))
    # two patches' width is 16 pixels: 2 patches of stride 6 (7 x 3 of them), 3 of stride 4 (11 x 5)
    side, tops, lefts = {6: (2, range(6), range(2)), 4: (3, (0, 2, 4, 6, 8), (0, 2))}[stride]
    falls = {}
    for top in tops:
        for left in lefts:
            hidden = [1 + r * columns + c for r in range(top, top + side) for c in range(left, left + side)]
            keep = [p for p in range(1 + rows * columns) if p not in hidden]
            fall = cosines(model, pixel_values, texts) - cosines(model, pixel_values, texts, keep)
            falls[top, left] = fall.clamp(min=0)
    maps = patch_maps(model, pixel_values, texts, "occlusion")
    for row in range(rows):
        for column in range(columns):
            over = [f for (t, left), f in falls.items() if t <= row < t + side and left <= column < left + side]
            torch.testing.assert_close(maps[:, :, row, column], sum(over) / len(over), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("length", "starts"), [(23, [*range(0, 21, 2)]), (24, [*range(0, 21, 2), 21]), (3, [0]), (1, [0])]
)
def test_windows_reach_both_ends(length: int, starts: list[int]) -> None:
    assert _window_starts(length, 3, 2) == starts


def test_joint_is_the_weighted_geometric_mean_of_both_shares(
    tiny_model: IVTModel, pixel_values: torch.Tensor, texts: Texts
) -> None:
    gradient, tokenwise, joint = (
        patch_maps(tiny_model, pixel_values, texts, method) for method in ("gradient", "tokenwise", "joint")
    )
    shares = gradient / gradient.sum(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(joint.log(), 0.4 * shares.log() + 0.6 * tokenwise.log())
    torch.testing.assert_close(tokenwise.sum(dim=(2, 3)), torch.ones(2, 2))


@pytest.mark.parametrize(
    ("window", "stride", "size"), [((8, 8), 6, (48, 24)), ((4, 4), 4, (28, 12)), ((2, 3), 1, (8, 5))]
)
def test_every_cell_is_the_mean_of_the_windows_that_cover_it(window, stride, size) -> None:
    values = torch.rand(2, 1, ROWS, COLUMNS)
    cells = spread(values, window, stride, size)
    assert cells.shape == (2, 1, *size)
    for y in range(size[0]):
        for x in range(size[1]):
            covering = [
                values[:, 0, r, c]
                for r in range(ROWS)
                for c in range(COLUMNS)
                if r * stride <= y < r * stride + window[0] and c * stride <= x < c * stride + window[1]
            ]
            expected = sum(covering) / len(covering) if covering else torch.zeros(2)
            torch.testing.assert_close(cells[:, 0, y, x], expected)


def brightness(model: object, pixel_values: torch.Tensor, texts: Texts) -> torch.Tensor:
    """Stands in for a method: the mean brightness of each patch, pixels being -1 to 1."""
    return 1 + avg_pool2d(pixel_values, 8, 6).mean(dim=1)[:, None].flatten(2)


def test_shifted_looks_are_moved_back_and_find_places_smaller_than_a_patch(
    tiny_model: IVTModel, texts: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "brightness", brightness)
    distances = {1: 0.0, 6: 0.0}
    for row, column in ((10, 10), (23, 11), (33, 12), (17, 9)):
        picture = torch.zeros(1, 3, 48, 24)
        picture[:, :, row, column] = 1
        for shifts in distances:
            place = strongest_place(pixel_maps(tiny_model, picture, texts, "brightness", shifts)[0, 0])
            distances[shifts] += torch.dist(place, torch.tensor([row, column]).double()).item() / 4
    assert distances[6] < 0.5 < 1 < distances[1]


def test_one_look_is_the_patch_map_in_pixels(tiny_model: IVTModel, pixel_values: torch.Tensor, texts: Texts) -> None:
    patches = patch_maps(tiny_model, pixel_values, texts, "cls")
    pixels = pixel_maps(tiny_model, pixel_values, texts, "cls", shifts=1)
    torch.testing.assert_close(pixels, spread(patches, (8, 8), 6, (48, 24)))


@pytest.mark.parametrize("shifts", [1, 2, 3])
def test_equal_patches_give_equal_pixels_however_often_looked(
    tiny_model: IVTModel, texts: Texts, monkeypatch: pytest.MonkeyPatch, shifts: int
) -> None:
    monkeypatch.setitem(METHODS, "equal", lambda model, pixels, texts: torch.full((2, 2, ROWS * COLUMNS), 0.25))
    maps = pixel_maps(tiny_model, torch.zeros(2, 3, 48, 24), texts, "equal", shifts)
    torch.testing.assert_close(maps[..., :44, :20], torch.full((2, 2, 44, 20), 0.25))
    assert set(maps.unique().tolist()) <= {0.0, 0.25}  # 7 patches reach 44 pixels down, 3 reach 20 across


def test_strongest_place_is_the_middle_of_the_largest_row_first() -> None:
    maps = torch.zeros(3, 6, 4)
    maps[0, 4, 1] = 2.0
    maps[1, 2:4, 0:3] = 1e-7  # a patch of 2 x 3 pixels
    places = strongest_place(maps)
    assert places.tolist() == [[4.0, 1.0], [2.5, 1.0], [2.5, 1.5]]  # a map of equal numbers: the middle


def test_model_is_afterwards_as_before(tiny_model: IVTModel, pixel_values: torch.Tensor, texts: Texts) -> None:
    tiny_model.set_attn_implementation("sdpa")
    tiny_model.train()
    tiny_model.layers[0].eval()
    patch_maps(tiny_model, pixel_values, texts, "gradient")
    with pytest.raises(RuntimeError, match="on the way"), recording(tiny_model):
        assert tiny_model.config._attn_implementation == "eager" and not tiny_model.training
        raise RuntimeError("on the way")
    assert tiny_model.config._attn_implementation == "sdpa"
    assert tiny_model.training and tiny_model.layers[1].training and not tiny_model.layers[0].training
    assert all(parameter.grad is None for parameter in tiny_model.parameters())


def test_gradient_maps_need_no_gradients_of_the_caller(
    tiny_model: IVTModel, pixel_values: torch.Tensor, texts: Texts
) -> None:
    expected = patch_maps(tiny_model, pixel_values, texts, "gradient")
    tiny_model.requires_grad_(False)
    with torch.no_grad():
        torch.testing.assert_close(patch_maps(tiny_model, pixel_values, texts, "gradient"), expected)
    assert not pixel_values.requires_grad


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


def test_words_behind_the_longest_text_weigh_nothing(
    tiny_model: IVTModel, processor: IVTProcessor, pixel_values: torch.Tensor
) -> None:
    _, words = word_weights(tiny_model, processor, pixel_values[:1], "red " * 20)
    assert len(words) == 20
    assert all(weight != 0 for _, weight in words[:14]) and not any(weight for _, weight in words[14:])


@pytest.fixture
def picture() -> Image.Image:
    return Image.effect_noise((60, 180), 90).convert("RGB")


def test_explanation_is_in_the_pictures_own_pixels(
    tiny_model: IVTModel, processor: IVTProcessor, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "brightness", brightness)
    picture.paste("black", (0, 0, 60, 180))
    picture.paste("white", (40, 30, 50, 45))  # left, top, right, bottom
    explanation = explain(tiny_model, processor, picture, SENTENCE, "red backpack", "brightness")
    row, column = explanation.place
    assert 28 <= row <= 47 and 38 <= column <= 52  # to the pixel of the model's size
    assert explanation.patch_map.shape == (ROWS, COLUMNS) and explanation.pixel_map.shape == (48, 24)
    assert explanation.words[5][0] == "backpack,"


def test_word_is_looked_for_as_a_text_of_its_own(
    tiny_model: IVTModel, processor: IVTProcessor, picture: Image.Image
) -> None:
    maps = [
        explain(tiny_model, processor, picture, text, word, colours=()).pixel_map
        for text, word in ((SENTENCE, "Backpack"), ("backpack", None), (SENTENCE, None))
    ]
    assert torch.equal(maps[0], maps[1]) and not torch.equal(maps[0], maps[2])


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (SENTENCE, {"word": "pack"}, "'pack' does not stand in the text"),
        (SENTENCE, {"word": ""}, "pass one or several words of it"),
        (SENTENCE, {"word": "hat", "method": "rollout"}, "looks the same whatever the text.*'hat'"),
        (SENTENCE, {"method": "saliency"}, "no method 'saliency', choose one of cls"),
        (SENTENCE, {"shifts": 0}, "shifts is 0, expected 1 to 6"),
        (SENTENCE, {"shifts": 7}, "shifts is 7, expected 1 to 6"),
        (" ", {}, "text 0 is empty"),
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
            expected = ("red", "blue", "a")[int(cosines(tiny_model, pixels[None], texts).argmax())]
            assert best == (word if word == "red coat" else f"{expected} {word}")


def test_explanation_says_in_which_colour_a_word_was_asked_for_and_gives_none_to_people(
    tiny_model: IVTModel, processor: IVTProcessor, picture: Image.Image
) -> None:
    asked = [
        explain(tiny_model, processor, picture, SENTENCE, word).asked for word in ("hat", "red backpack", "man", "and")
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
    asked = [explain(tiny_model, processor, picture, sentence, word).asked for word in ("hat", "backpack", "man")]
    assert asked == ["blue hat", "red backpack", "man"]


@pytest.mark.parametrize("texts", [[], [[]], [["a"], ["a", "hat"]]])
def test_every_picture_needs_as_many_texts(tiny_model: IVTModel, processor: IVTProcessor, texts: list) -> None:
    with pytest.raises(ValueError, match="expected equally many"):
        encode_texts(tiny_model, processor, texts)


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
    assert isinstance(ivt(tmp_path / "none.png", SENTENCE).exception, OSError)


def test_help_names_every_method(ivt: Callable) -> None:
    shown = " ".join(ivt("--help").output.split())
    assert f"How the map is made: {', '.join(METHODS)}." in shown
