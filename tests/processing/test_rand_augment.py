import itertools

import numpy as np
import pytest
from PIL import Image, ImageFilter

from processing.rand_augment import OPERATIONS, rand_augment
from processing.views import TrainingViews

FILL = (127, 127, 127)
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 24, 10), dtype=np.uint8)
GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")


def apply(name, strength, pixels=PIXELS):
    image = OPERATIONS[name](Image.fromarray(pixels.transpose(1, 2, 0)), strength, FILL)
    return np.asarray(image).transpose(2, 0, 1)


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - {"autocontrast"}))
def test_operations_of_strength_zero_change_nothing(name):
    np.testing.assert_array_equal(apply(name, 0.0), PIXELS)


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - {"identity"}))
@pytest.mark.parametrize("strength", [-1.0, 1.0])
def test_operations_of_full_strength_change_the_picture_but_not_its_shape(name, strength):
    changed = apply(name, strength, PIXELS // 2 + 40)
    assert changed.shape == PIXELS.shape and changed.dtype == np.uint8
    assert (changed != PIXELS // 2 + 40).any()


def test_translations_move_by_a_share_of_the_size_along_their_axis():
    np.testing.assert_array_equal(apply("translate_x", 1.0)[:, :, :7], PIXELS[:, :, 3:])  # 0.3 * 10 columns
    np.testing.assert_array_equal(apply("translate_y", -5 / 7.2)[:, 5:], PIXELS[:, :-5])  # 7.2 = 0.3 * 24 rows


def test_rotations_and_shears_of_full_strength_are_those_of_the_paper():
    dot = np.zeros((3, 101, 101), np.uint8)
    dot[:, 49:52, 89:92] = 255  # 40 pixels to the right of the middle
    rows, columns = np.nonzero(apply("rotate", 1.0, dot)[0] > 200)
    assert np.degrees(np.arctan2(50 - rows.mean(), columns.mean() - 50)) == pytest.approx(30, abs=1)
    line = np.zeros((3, 60, 60), np.uint8)
    line[:, :, 29:32] = 255  # upright; in row r it stands 0.3 r further to the left
    for sheared in (apply("shear_x", 1.0, line), apply("shear_y", 1.0, line.transpose(0, 2, 1)).transpose(0, 2, 1)):
        places = (sheared[0] == 255) @ np.arange(60) / (sheared[0] == 255).sum(1)
        np.testing.assert_allclose(places, 30 - 0.3 * np.arange(60), atol=1)


@pytest.mark.parametrize("strength, factor", [(-1.0, 0.1), (1.0, 1.9)])
def test_enhancements_of_full_strength_are_those_of_the_paper(strength, factor):
    halves = np.repeat(np.array([80, 120], np.uint8), 12)[None, :, None].repeat(3, 0).repeat(10, 2)
    np.testing.assert_allclose(apply("brightness", strength, halves), halves * factor, atol=1)
    np.testing.assert_allclose(
        apply("contrast", strength, halves), 100 + (halves.astype(float) - 100) * factor, atol=1
    )
    smooth = np.asarray(Image.fromarray(halves.transpose(1, 2, 0)).filter(ImageFilter.SMOOTH)).transpose(2, 0, 1)
    sharpness = smooth + (halves.astype(float) - smooth) * factor
    np.testing.assert_allclose(apply("sharpness", strength, halves), sharpness, atol=1)


@pytest.mark.parametrize("name", GEOMETRIC)
def test_what_comes_in_from_outside_is_the_fill(name):
    white = np.full((3, 40, 20), 255, np.uint8)
    changed = apply(name, 1.0, white)
    assert (changed == 127).all(axis=0).any() and set(np.unique(changed)) >= {127, 255}


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - set(GEOMETRIC)))
@pytest.mark.parametrize("strength", [-0.5, 0.5])
def test_colours_keep_the_order_of_their_channels(name, strength):
    # a red thing on green stays red on green; else the caption would be untrue
    pixels = np.zeros((3, 24, 10), np.uint8)
    pixels[0, :12], pixels[1, 12:], pixels[2] = 200, 180, 20
    changed = apply(name, strength, pixels)
    assert (changed[0, 1:11] > changed[1, 1:11]).all() and (changed[1, 13:] > changed[0, 13:]).all()


def test_contrast_is_not_stretched_in_each_channel_by_itself():
    pixels = np.empty((3, 24, 10), np.uint8)
    pixels[:, :12], pixels[:, 12:] = np.array([[[200]], [[100]], [[50]]]), np.array([[[100]], [[50]], [[25]]])
    red, green, blue = apply("autocontrast", 1.0, pixels)[:, 0, 0]
    assert red > green > blue  # else all that is lightest would be white


def test_result_depends_on_the_generator_alone():
    first, again, other = (rand_augment(PIXELS, 2, 0.7, FILL, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_all_operations_are_drawn_and_none_without_rand_augment():
    views = TrainingViews(num_views=200, padding=0, flip=0, erase=0, rand_augment=1, rand_augment_magnitude=1.0)
    seen = {view.tobytes() for view in views(PIXELS, np.random.default_rng(0))}
    possible = {apply(name, strength).tobytes() for name in OPERATIONS for strength in (-1.0, 1.0)}
    assert seen == possible
    plain = TrainingViews(num_views=2, padding=0, flip=0, erase=0)(PIXELS, np.random.default_rng(0))
    np.testing.assert_array_equal(plain, np.stack([PIXELS, PIXELS]))


def test_views_are_augmented_one_operation_after_the_other_as_they_are_told():
    fill = (10, 20, 30)
    views = TrainingViews(
        num_views=150, padding=0, flip=1, erase=0, rand_augment=2, rand_augment_magnitude=0.3, erase_fill=fill
    )

    def twice(first, second):
        image = OPERATIONS[first[0]](Image.fromarray(PIXELS[:, :, ::-1].transpose(1, 2, 0)), first[1], fill)
        return np.asarray(OPERATIONS[second[0]](image, second[1], fill)).transpose(2, 0, 1).tobytes()

    steps = list(itertools.product(OPERATIONS, (-0.3, 0.3)))
    possible = {twice(first, second) for first, second in itertools.product(steps, steps)}
    seen = {view.tobytes() for view in views(PIXELS, np.random.default_rng(0))}
    assert seen <= possible and len(seen) > 80
    rand_augment(PIXELS, len(OPERATIONS) + 1, 0.3, fill, np.random.default_rng(0))  # with repetition
