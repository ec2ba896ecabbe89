"""Pictures of every colour mode and depth come in as 8-bit sRGB with their alpha, embedded profiles applied."""

import struct
from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from hicast.io.images import load_picture


def gradient(height=24, width=32):
    """Smooth colours that differ in all four corners."""
    y, x = np.mgrid[0:height, 0:width]
    red, green = x * 255 // (width - 1), y * 255 // (height - 1)
    return np.stack([red, green, 255 - x * 200 // (width - 1)], -1).astype(np.uint8)


def encoded(image, format="PNG", **options):
    data = BytesIO()
    image.save(data, format, **options)
    return BytesIO(data.getvalue())


def sixteen_bit_png(values):
    """PNG of (height, width, 3) in the order blue, green, red, or of (height, width), which Pillow cannot write."""
    return BytesIO(cv2.imencode(".png", values.astype(np.uint16))[1].tobytes())


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB"])
def test_modes(mode):
    source = Image.fromarray(gradient())
    image = source.convert(mode)
    picture = load_picture(encoded(image, "TIFF" if mode in ("CMYK", "YCbCr", "LAB") else "PNG"))
    assert picture.pixels.shape == (24, 32, 3) and picture.pixels.dtype == np.uint8
    assert (picture.alpha is not None) == (mode in ("LA", "RGBA"))
    if mode in ("1", "L", "LA"):
        assert np.array_equal(picture.pixels, np.repeat(np.asarray(image.convert("L"))[..., None], 3, -1))
    else:
        error = np.abs(picture.pixels.astype(int) - np.asarray(source)).mean()
        assert error < {"P": 20, "YCbCr": 2, "LAB": 6}.get(mode, 0.01)


def test_alpha_of_palettes_and_color_keys():
    indices = Image.fromarray(np.repeat(np.arange(3, dtype=np.uint8), 100).reshape(20, 15), "P")
    indices.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture = load_picture(encoded(indices, transparency=bytes([0, 128, 255])))
    assert picture.pixels[10, 7].tolist() == [0, 255, 0]
    assert [picture.alpha[row, 7] for row in (1, 10, 19)] == [0, 128, 255]
    keyed = load_picture(encoded(Image.fromarray(gradient()), transparency=tuple(gradient()[0, 0].tolist())))
    assert keyed.alpha[0, 0] == 0 and (keyed.alpha == 0).sum() == 1
    assert load_picture(encoded(Image.new("P", (9, 9)), "GIF", transparency=0)).alpha.max() == 0


def test_sixteen_bits_and_numbers_are_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 24 * 32).reshape(24, 32)
    expected = ramp / 257
    color = np.stack([ramp, ramp[::-1], ramp[:, ::-1]], -1)
    assert np.abs(load_picture(sixteen_bit_png(color[..., ::-1])).pixels - color / 257).max() < 1.01
    sources = [
        sixteen_bit_png(ramp),
        encoded(Image.fromarray(ramp.astype(np.uint16)), "TIFF"),
        encoded(Image.fromarray(ramp.astype(np.int32)), "TIFF"),
        encoded(Image.fromarray((ramp / 65535).astype(np.float32)), "TIFF"),
        encoded(Image.fromarray((ramp / 257).astype(np.float32)), "TIFF"),
        encoded(Image.fromarray((ramp * 3 - 70000).astype(np.int32)), "TIFF"),
    ]
    for source in sources:
        assert np.abs(load_picture(source).pixels - expected[..., None]).max() < 0.51
    holes = np.where(ramp > 60000, np.nan, ramp / 65535).astype(np.float32)
    assert load_picture(encoded(Image.fromarray(holes), "TIFF")).pixels[-1, -1].tolist() == [0, 0, 0]


def gamma_one_profile():
    """An RGB profile with linear light and the primaries of sRGB, made by patching the tone curve of sRGB."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for index in range(struct.unpack(">I", data[128:132])[0]):
        name, offset, _ = struct.unpack(">4sII", data[132 + 12 * index : 144 + 12 * index])
        if name in (b"rTRC", b"gTRC", b"bTRC"):
            assert data[offset : offset + 4] == b"para"
            data[offset : offset + 16] = b"para\0\0\0\0" + struct.pack(">HHi", 0, 0, 65536)
    return bytes(data)


def test_embedded_profile_is_applied_and_a_broken_one_ignored():
    pixels = gradient()
    image = Image.fromarray(pixels)
    light = pixels / 255
    expected = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255
    profile = gamma_one_profile()
    assert np.abs(load_picture(encoded(image, icc_profile=profile)).pixels - expected).max() <= 1
    image.putalpha(77)
    picture = load_picture(encoded(image, icc_profile=profile))
    assert np.abs(picture.pixels - expected).max() <= 1 and (picture.alpha == 77).all()
    grey = load_picture(encoded(Image.fromarray(pixels[..., 0]), icc_profile=profile)).pixels
    assert np.abs(grey - expected[..., :1]).max() <= 1
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for harmless in (srgb, b"nonsense", profile[:200], lab):
        assert np.array_equal(load_picture(encoded(Image.fromarray(pixels), icc_profile=harmless)).pixels, pixels)


def black_ink_profile():
    """A CMYK profile by hand (ICC.1 lut8Type): black ink darkens from lightness 100 to 0, other inks are invisible."""
    identity = bytes(range(256))
    colors = bytes([255, 128, 128, 0, 128, 128]) * 8  # Lab at the 16 corners, black ink varying fastest
    matrix = struct.pack(">9i", *(65536 * (index % 4 == 0) for index in range(9)))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + identity * 4 + colors + identity * 3
    tags = struct.pack(">I4sII", 1, b"A2B0", 144, len(table))
    kind = (b"prtr", b"CMYK", b"Lab ", b"", b"acsp")
    header = struct.pack(">I4sI4s4s4s12s4s", 144 + len(table), b"none", 0x02400000, *kind)
    light = struct.pack(">3i", 63190, 65536, 54061)  # D50
    return header.ljust(68, b"\0") + light + bytes(48) + tags + table


def test_cmyk_goes_through_its_profile():
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[:8, :, 0] = 255
    inks[:, :8, 3] = 128
    image = Image.fromarray(inks, "CMYK")
    for format in ("JPEG", "TIFF"):
        pixels = load_picture(encoded(image, format, icc_profile=black_ink_profile())).pixels.astype(int)
        assert np.abs(pixels[:, 12] - 255).max() <= 3
        assert np.abs(pixels[:, 4] - 119).max() <= 3  # lightness 50 in sRGB
    naive = load_picture(encoded(image, "TIFF")).pixels
    assert naive[2, 12].tolist() == [0, 255, 255]
