import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from processing import IVTImageProcessor
from processing.batches import normalise
from processing.views import TrainingViews, resized_pixels

HEIGHT, WIDTH = 24, 8
PIXELS = np.random.default_rng(0).integers(1, 127, (3, HEIGHT, WIDTH), dtype=np.uint8)  # no pad black, no erase grey
PLAIN = TrainingViews(num_views=1, padding=0, flip=0, erase=0)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("resample", [Image.Resampling.BICUBIC, Image.Resampling.NEAREST])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_resized_pixels_are_what_the_image_processor_sees(mode, resample):
    picture = Image.fromarray(PIXELS.transpose(1, 2, 0)).convert(mode)
    picture.getexif()[0x0112] = 3  # upside down
    if mode == "RGBA":
        picture.putalpha(100)
    settings = {"resample": resample, "image_std": [0.2, 0.3, 0.5], "rescale_factor": 1 / 200}
    image_processor = IVTImageProcessor(size={"height": 36, "width": 10}, image_mean=[0.4, 0.5, 0.6], **settings)
    pixels = resized_pixels(picture, image_processor)
    assert pixels.shape == (3, 36, 10) and pixels.dtype == np.uint8
    expected = image_processor(picture, return_tensors="pt").pixel_values
    torch.testing.assert_close(normalise(torch.from_numpy(pixels)[None], image_processor), expected)


def test_without_augmentation_a_view_is_the_picture():
    views = PLAIN(PIXELS, rng())
    assert views.dtype == np.uint8
    np.testing.assert_array_equal(views, PIXELS[None])


def test_views_depend_on_the_generator_alone_and_differ():
    before = PIXELS.copy()
    views = TrainingViews(num_views=3)
    first = views(PIXELS, rng(1))
    assert first.shape == (3, 3, HEIGHT, WIDTH)
    np.testing.assert_array_equal(first, pickle.loads(pickle.dumps(views))(PIXELS, rng(1)))
    assert (first != views(PIXELS, rng(2))).any()
    assert all((first[i] != first[j]).any() for i, j in [(0, 1), (0, 2), (1, 2)])
    np.testing.assert_array_equal(PIXELS, before)


def test_flip_is_left_to_right():
    view = TrainingViews(num_views=1, padding=0, flip=1, erase=0)(PIXELS, rng())[0]
    np.testing.assert_array_equal(view, PIXELS[:, :, ::-1])


def test_crops_are_all_the_windows_of_the_padded_picture():
    padded = np.pad(PIXELS, ((0, 0), (2, 2), (2, 2)))
    windows = {padded[:, y : y + HEIGHT, x : x + WIDTH].tobytes() for y in range(5) for x in range(5)}
    views = TrainingViews(num_views=400, padding=2, flip=0, erase=0)(PIXELS, rng())
    assert {view.tobytes() for view in views} == windows


def test_erased_part_is_a_grey_rectangle_of_the_given_area_and_aspect():
    pixels = np.zeros((3, 96, 32), np.uint8)
    views = TrainingViews(num_views=300, padding=0, flip=0, erase=1, erase_aspect=(1.5, 3.3))(pixels, rng())
    areas = []
    for view in views:
        assert (view == view[0]).all() and set(np.unique(view)) == {0, 127}
        rows, columns = np.flatnonzero(view[0].any(1)), np.flatnonzero(view[0].any(0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert (view[0] > 0).sum() == height * width  # a full rectangle
        assert 1.5 <= (height + 0.5) / (width - 0.5) and (height - 0.5) / (width + 0.5) <= 3.3
        areas.append(height * width / pixels[0].size)
    assert 0.015 < min(areas) < 0.05 and 0.2 < max(areas) < 0.42


def erased_rectangles(height, width, **erase):
    """(top, left, rows, columns) of what is erased, (400, 4), all zero where nothing is."""
    views = TrainingViews(num_views=400, padding=0, flip=0, erase=1, **erase)
    found = []
    for view in views(np.zeros((3, height, width), np.uint8), rng()):
        rows, columns = np.flatnonzero(view[0].any(1)), np.flatnonzero(view[0].any(0))
        found.append((rows[0], columns[0], len(rows), len(columns)) if len(rows) else (0, 0, 0, 0))
    return np.array(found, float)


def test_areas_and_aspects_of_random_erasing_are_uniform_in_their_ranges():
    _, _, rows, columns = erased_rectangles(100, 100, erase_aspect=(1, 1)).T
    areas = rows * columns / 100**2  # from 0.02 to 0.4
    assert (areas.min(), areas.mean(), areas.max()) == pytest.approx((0.02, 0.21, 0.4), rel=0.04, abs=0.004)
    _, _, rows, columns = erased_rectangles(100, 100, erase_area=(0.1, 0.1)).T
    aspects = rows / columns  # from 0.3 to 3.3
    assert (aspects.min(), aspects.mean(), aspects.max()) == pytest.approx((0.3, 1.8, 3.3), rel=0.06)


def test_any_part_of_a_picture_may_be_erased():
    tops, lefts, rows, columns = erased_rectangles(120, 60, erase_area=(0.1, 0.1), erase_aspect=(1.2, 1.2)).T
    for places, most in ((tops, 120 - rows[0]), (lefts, 60 - columns[0])):
        assert places.min() == 0 and places.max() >= most - 1 and places.mean() == pytest.approx(most / 2, rel=0.08)
    assert abs(np.corrcoef(tops, lefts)[0, 1]) < 0.1
    _, _, rows, columns = erased_rectangles(96, 32, erase_area=(0.3, 0.3), erase_aspect=(1, 1)).T
    assert set(rows) == set(columns) == {30}  # nearly the whole width


def test_views_that_are_not_described_are_three_padded_by_ten_and_half_of_them_flipped_and_erased():
    pixels = np.full((3, 60, 40), 255, np.uint8)
    pixels[:, :, :20] = 200
    views = np.concatenate([TrainingViews()(pixels, rng(seed)) for seed in range(200)])[:, 0]
    assert len(views) == 3 * 200
    erased = (views == 127).any((1, 2))
    whole = views[~erased]
    black_rows, black_columns = (whole == 0).all(2).sum(1), (whole == 0).all(1).sum(1)
    assert set(black_rows) == set(black_columns) == set(range(11))
    flipped = (whole == 200).argmax(2).max(1) > (whole == 255).argmax(2).max(1)
    assert abs(erased.mean() - 0.5) < 0.06 and abs(flipped.mean() - 0.5) < 0.08


def test_erase_fill_is_per_channel():
    view = TrainingViews(num_views=1, padding=0, flip=0, erase=1, erase_fill=(200, 210, 220))(PIXELS, rng())[0]
    changed = (view != PIXELS).any(0)
    assert changed.any() and (view[:, changed] == np.array([[200], [210], [220]])).all()


def test_flip_and_erase_happen_at_their_rates():
    views = TrainingViews(num_views=2000, padding=0, flip=0.25, erase=0.6)(PIXELS, rng())
    erased = (views == 127).any((1, 2, 3))
    flipped = (views[~erased] == PIXELS[:, :, ::-1]).all((1, 2, 3))
    assert abs(erased.mean() - 0.6) < 0.05 and abs(flipped.mean() - 0.25) < 0.06


def test_a_rectangle_that_cannot_fit_erases_nothing():
    views = TrainingViews(num_views=1, padding=0, flip=0, erase=1, erase_area=(2, 2))
    np.testing.assert_array_equal(views(PIXELS, rng())[0], PIXELS)


def test_noise_of_the_authors_covers_their_share_of_the_pixels_and_is_standard_normal_where_pictures_are_normalised():
    pixels = np.full((3, 384, 128), 200, np.uint8)
    views = TrainingViews(
        num_views=600, padding=0, flip=0, erase=0.5, erase_area=(0.02, 1 / 3), erase_log=True,
        erase_fill=(127.5,) * 3, erase_noise=(127.5,) * 3,
    )(pixels, rng())  # fmt: skip
    assert views.dtype == np.float32
    hidden = views != 200
    assert abs(hidden.any(1).mean() - 0.078) < 0.012  # from the description; a grey one of our recipes: 0.098
    noise = views[hidden] / 127.5 - 1
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
    assert len(np.unique(noise[:1000])) > 990  # every pixel and channel has its own


def test_tall_and_wide_rectangles_are_as_likely_in_the_logarithm_of_the_aspect():
    _, _, rows, columns = erased_rectangles(100, 100, erase_log=True, erase_area=(0.1, 0.1)).T
    assert abs((rows > columns).mean() - 0.5) < 0.08
    assert 0.28 < (rows / columns).min() < 0.35 and 2.9 < (rows / columns).max() < 3.5


def test_filter_of_training_may_differ_from_the_processors():
    picture = Image.fromarray(PIXELS.transpose(1, 2, 0))
    processor = IVTImageProcessor(size={"height": 36, "width": 10}, resample=Image.Resampling.BILINEAR)
    expected = resized_pixels(picture, IVTImageProcessor(size={"height": 36, "width": 10}))
    np.testing.assert_array_equal(resized_pixels(picture, processor, Image.Resampling.BICUBIC), expected)
    assert (resized_pixels(picture, processor) != expected).any()
