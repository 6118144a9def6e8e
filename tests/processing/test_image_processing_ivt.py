import numpy as np
import pytest
import torch
from PIL import Image

from processing import IVTImageProcessor

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (30, 10, 3), dtype=np.uint8)  # (H, W, 3)
PICTURE = Image.fromarray(PIXELS)


def pixel_values(images, **kwargs):
    return IVTImageProcessor()(images, return_tensors="pt", **kwargs).pixel_values


def test_default_output_is_384_high_and_128_wide_in_minus_one_to_one():
    values = pixel_values(PICTURE)
    assert values.shape == (1, 3, 384, 128) and values.dtype == torch.float32
    assert -1 <= values.min() < -0.9 and 0.9 < values.max() <= 1


def test_output_is_bicubic_resize_then_scaling():
    expected = np.asarray(PICTURE.resize((128, 384), Image.Resampling.BICUBIC)).astype(float) / 127.5 - 1
    np.testing.assert_allclose(pixel_values(PICTURE)[0].permute(1, 2, 0), expected, atol=1e-6)


@pytest.mark.parametrize("do_convert_rgb", [True, False])
@pytest.mark.parametrize("orientation, turn", [(3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_270)])
def test_exif_orientation_is_applied(orientation, turn, do_convert_rgb):
    sideways = PICTURE.copy()
    sideways.getexif()[0x0112] = orientation
    values = pixel_values(sideways, do_convert_rgb=do_convert_rgb)
    torch.testing.assert_close(values, pixel_values(PICTURE.transpose(turn)))


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV", "I", "F"]
)
def test_every_mode_keeps_black_left_and_white_right(mode):
    picture = Image.new("RGB", (10, 30), "white")
    picture.paste("black", (0, 0, 5, 30))
    through = "RGBA" if mode == "RGBa" else "LA" if mode == "PA" else "RGB"
    values = pixel_values(picture.convert(through).convert(mode))[0]
    torch.testing.assert_close(values[..., :48], torch.full((3, 384, 48), -1.0), atol=0.05, rtol=0)
    torch.testing.assert_close(values[..., 80:], torch.full((3, 384, 48), 1.0), atol=0.05, rtol=0)


def test_sixteen_bits_look_like_eight():
    grey = PIXELS[..., 0]
    sixteen = Image.fromarray(grey.astype(np.uint16) * 257)
    assert sixteen.mode == "I;16"
    torch.testing.assert_close(pixel_values(sixteen), pixel_values(Image.fromarray(grey)))
    torch.testing.assert_close(pixel_values(sixteen.convert("I")), pixel_values(Image.fromarray(grey)))


def grey_levels(image):
    """What becomes of an image, on the scale of 0..255."""
    values = IVTImageProcessor()(image, do_resize=False, do_normalize=False, do_rescale=True, return_tensors="np")
    return values.pixel_values[0, 0] * 255


def test_sixteen_bits_and_fractions_become_the_nearest_of_256_greys():
    every = np.arange(2**16).reshape(256, 256)
    for image in (
        Image.fromarray(every.astype(np.uint16)),
        Image.fromarray(every.astype(np.int32)),
        every.astype(np.uint16),
    ):
        found = grey_levels(image)
        np.testing.assert_allclose(found, np.rint(found), atol=1e-4)
        assert np.abs(found - every / 257).max() < 0.5
    for fractions, scale in ((every / 65535, 255), (every / 257, 1)):
        assert np.abs(grey_levels(fractions) - fractions * scale).max() <= 0.5


def test_dark_pictures_of_sixteen_bits_stay_dark():
    dark = np.full((30, 10), 200)
    assert grey_levels(Image.fromarray(dark.astype(np.uint16))).max() == pytest.approx(1)  # 200 of 65535
    assert grey_levels(dark.astype(np.uint16)).max() == pytest.approx(1)
    # the mode of 32 bits may hold either: 0..255 where nothing is larger
    assert grey_levels(Image.fromarray(dark.astype(np.int32))).min() == pytest.approx(200)
    for largest, grey in ((255, 255), (256, 1), (70_000, 255)):
        assert grey_levels(Image.fromarray(np.full((30, 10), largest, np.int32))).max() == pytest.approx(grey)


def test_transparency_becomes_white():
    half = Image.new("RGBA", (10, 30), (0, 0, 0, 128))
    torch.testing.assert_close(pixel_values(half), torch.full((1, 3, 384, 128), 127 / 127.5 - 1), atol=0.01, rtol=0)
    palette = Image.new("P", (10, 30), 0)
    palette.info["transparency"] = 0
    for clear in (Image.new("RGBA", (10, 30)), Image.new("LA", (10, 30)), palette):
        torch.testing.assert_close(pixel_values(clear), torch.ones(1, 3, 384, 128))


def test_a_path_is_read_like_its_picture(tmp_path):
    path = tmp_path / "clear.png"
    Image.new("RGBA", (10, 30)).save(path)
    for given in (path, str(path), [str(path)]):
        torch.testing.assert_close(pixel_values(given), torch.ones(1, 3, 384, 128))


@pytest.mark.parametrize(
    "same",
    [
        PIXELS,
        PIXELS.transpose(2, 0, 1),
        PIXELS[None],
        PIXELS.astype(np.int64),
        PIXELS.astype(np.float64),
        PIXELS / 255,
        PIXELS.astype(np.uint16) * 257,
        torch.tensor(PIXELS),
        torch.tensor(PIXELS.transpose(2, 0, 1)) / 255,
        np.dstack([PIXELS, np.full((30, 10), 255, np.uint8)]),
        [PICTURE],
        (PICTURE,),
        [[PICTURE]],
    ],
    ids=[
        "HWC",
        "CHW",
        "batch",
        "int",
        "float",
        "unit",
        "uint16",
        "torch",
        "unit CHW",
        "opaque",
        "list",
        "tuple",
        "nested",
    ],
)
def test_every_kind_of_image_gives_the_same(same):
    torch.testing.assert_close(pixel_values(same), pixel_values(PICTURE))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_tensors_of_half_precision_and_those_with_gradients_are_read(dtype):
    unit = torch.tensor(PIXELS) / 255
    torch.testing.assert_close(pixel_values(unit.requires_grad_()), pixel_values(PICTURE))
    torch.testing.assert_close(pixel_values(unit.to(dtype)), pixel_values(unit.to(dtype).float()))


def test_grey_arrays_need_no_channel():
    grey = PIXELS[..., 0]
    for same in (grey, grey[..., None], grey[None], torch.tensor(grey)):
        torch.testing.assert_close(pixel_values(same), pixel_values(Image.fromarray(grey)))


def test_channels_are_where_the_caller_says():
    low = PIXELS[:3]  # (3, 10, 3): channels might come first or last
    for last, array in ((True, low), (False, low.transpose(2, 0, 1))):
        values = pixel_values(array, input_data_format="channels_last" if last else "channels_first")
        torch.testing.assert_close(values, pixel_values(Image.fromarray(low)))


def test_masks_are_black_and_white_and_whole_numbers_are_never_shares_of_one():
    mask = PIXELS[..., 0] > 127
    torch.testing.assert_close(pixel_values(mask), pixel_values(Image.fromarray(mask)))
    nearly_black = mask.astype(np.int64)
    torch.testing.assert_close(pixel_values(nearly_black), pixel_values(nearly_black.astype(np.uint8)))


def test_channels_stay_as_many_as_they_are_if_asked():
    for picture in (PICTURE.convert("L"), PICTURE.convert("RGBA")):
        for image in (picture, np.asarray(picture)):
            values = pixel_values(image, do_convert_rgb=False, do_normalize=False)
            assert values.shape == (1, len(picture.getbands()), 384, 128)


def test_lists_may_mix_kinds_and_sizes():
    other = Image.new("L", (20, 20), 255)
    values = pixel_values([PIXELS, other, PICTURE])
    torch.testing.assert_close(values, torch.cat([pixel_values(PICTURE), pixel_values(other), pixel_values(PICTURE)]))


def test_arrays_that_need_no_scaling_are_left_alone():
    unit = PIXELS / 255
    values = pixel_values(unit, do_rescale=False, do_resize=False)
    np.testing.assert_allclose(values[0].permute(1, 2, 0), unit * 2 - 1, atol=1e-6)


@pytest.mark.parametrize("wrong", [3, None, {"image": PICTURE}, [PICTURE, None], b"bytes"])
def test_what_is_no_image_is_named(wrong):
    with pytest.raises(ValueError, match="expected an image"):
        pixel_values(wrong)


@pytest.mark.parametrize(
    "wrong, words",
    [
        ([], "empty list"),
        (np.zeros(5), "is no image"),
        (np.full((30, 10, 3), -1.0), "from -1 to 0"),
        (np.full((30, 10, 3), 300), "from 0 to 300"),
        (np.full((30, 10, 3), 255.5), "from 0 to 255.5"),
        (np.full((30, 10, 3), np.nan), "expected 0..255"),
    ],
)
def test_arrays_that_are_no_pictures_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        pixel_values(wrong)


def test_settings_survive_saving(tmp_path):
    IVTImageProcessor(size={"height": 32, "width": 16}, image_mean=[0.4, 0.5, 0.6]).save_pretrained(tmp_path)
    again = IVTImageProcessor.from_pretrained(tmp_path)
    assert dict(again.size) == {"height": 32, "width": 16} and list(again.image_mean) == [0.4, 0.5, 0.6]
    assert again(PICTURE, return_tensors="pt").pixel_values.shape == (1, 3, 32, 16)


def test_a_call_overrides_settings_for_itself_alone():
    processor = IVTImageProcessor()
    before = processor.to_dict()
    small = processor(
        PICTURE, size={"height": 8, "width": 4}, image_mean=[0.0] * 3, image_std=[1.0] * 3, return_tensors="pt"
    )
    assert small.pixel_values.shape == (1, 3, 8, 4) and small.pixel_values.min() >= 0
    assert processor.to_dict() == before
    assert processor(PICTURE, return_tensors="pt").pixel_values.shape == (1, 3, 384, 128)


def test_loading_overrides_settings_of_the_file(tmp_path):
    IVTImageProcessor().save_pretrained(tmp_path)
    again = IVTImageProcessor.from_pretrained(tmp_path, size={"height": 8, "width": 4}, do_normalize=False)
    values = again(PICTURE, return_tensors="pt").pixel_values
    assert values.shape == (1, 3, 8, 4) and values.min() >= 0


def test_processors_share_no_settings():
    one, other = IVTImageProcessor(), IVTImageProcessor()
    one.size["height"] = 8
    assert other.size["height"] == IVTImageProcessor().size["height"] == IVTImageProcessor.size["height"] == 384


def test_numpy_and_torch_come_out_equal():
    processor = IVTImageProcessor()
    arrays = processor([PICTURE], return_tensors="np").pixel_values
    np.testing.assert_array_equal(arrays, processor([PICTURE], return_tensors="pt").pixel_values.numpy())
    np.testing.assert_array_equal(arrays[0], processor([PICTURE]).pixel_values[0])
