"""Pictures come in upright or with one clear line, and go out whole, tagged and with their settings."""

import struct
import subprocess
import sys
import zlib
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from hicast.errors import InputError, OutputError
from hicast.io.images import (
    Picture,
    crop,
    load_picture,
    pad_to_multiple,
    resize_image,
    save_picture,
    to_pixels,
    to_tensor,
    working_size,
)

SETTINGS = {"style_scale": 1.5, "steps": 4, "style": "Seerosen – Giverny.jpg", "adapters": {"edge": 0.5}}


def gradient(height=24, width=32):
    """Smooth colours that differ in all four corners."""
    y, x = np.mgrid[0:height, 0:width]
    red, green = x * 255 // (width - 1), y * 255 // (height - 1)
    return np.stack([red, green, 255 - x * 200 // (width - 1)], -1).astype(np.uint8)


def encoded(image, format="PNG", **options):
    data = BytesIO()
    image.save(data, format, **options)
    return BytesIO(data.getvalue())


def png(width, height, depth, color_type, content):
    """A PNG built by hand: any header, any content."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")
    return BytesIO(b"\x89PNG\r\n\x1a\n" + chunks)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("alpha", [False, True])
def test_exif_orientation(orientation, alpha):
    upright = gradient()
    stored = {
        1: upright,
        2: np.fliplr(upright),
        3: np.rot90(upright, 2),
        4: np.flipud(upright),
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    image = Image.fromarray(np.ascontiguousarray(stored))
    if alpha:
        image.putalpha(image.getchannel("R"))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = load_picture(encoded(image, exif=exif))
    assert np.array_equal(picture.pixels, upright)
    assert not alpha or np.array_equal(picture.alpha, upright[..., 0])


def test_damaged_exif_is_ignored():
    for tags in (b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x87i\0\x04\0\0\0\x01\xff\0\0\0"):
        picture = load_picture(encoded(Image.fromarray(gradient()), exif=tags))
        assert np.array_equal(picture.pixels, gradient()) and picture.settings is None


def test_first_frame_of_many():
    frames = [Image.new("RGB", (16, 12), color) for color in ("red", "blue")]
    for format in ("GIF", "TIFF", "PNG", "WEBP"):
        picture = load_picture(encoded(frames[0], format, save_all=True, append_images=frames[1:]))
        assert picture.pixels[5, 5, 0] > 250 and picture.pixels[5, 5, 2] < 5 and picture.format == format


def test_a_video_in_place_of_a_picture_names_the_command_for_videos(tmp_path):
    path = tmp_path / "clip.MP4"
    path.write_bytes(b"no picture")
    with pytest.raises(InputError, match="found a video by its name; name a picture, or take hicast stylize-video for videos"):
        load_picture(path)


def test_bad_files_get_one_clear_line(tmp_path):
    whole = encoded(Image.fromarray(gradient(64, 64)), "JPEG").getvalue()
    contents = {
        "empty.jpg": (b"", "found an empty file"),
        "text.jpg": (b"dear diary", "found something else"),
        "short.jpg": (whole[: len(whole) // 2], "truncated or damaged"),
        "short.png": (encoded(Image.fromarray(gradient(64, 64))).getvalue()[:150], "truncated or damaged"),
        "dot.png": (encoded(Image.new("RGB", (1, 1))).getvalue(), "at least 8 x 8 pixels, found 1 x 1"),
        "line.png": (encoded(Image.new("RGB", (300, 7))).getvalue(), "at least 8 x 8 pixels, found 300 x 7"),
        "huge.png": (png(20000, 10000, 8, 2, b"").getvalue(), "found 20000 x 10000 pixels (200.0 megapixels)"),
        "vast.png": (png(2**31 - 1, 2**31 - 1, 8, 2, b"").getvalue(), "--max-megapixels"),
    }
    for name, (content, message) in contents.items():
        (tmp_path / name).write_bytes(content)
        for source in (tmp_path / name, BytesIO(content)):
            with pytest.raises(InputError) as caught:
                load_picture(source)
            assert message in str(caught.value) and "\n" not in str(caught.value)
            assert str(caught.value).startswith(str(source) if source == tmp_path / name else "standard input")
    with pytest.raises(InputError, match="found no such file"):
        load_picture(tmp_path / "missing.jpg")
    with pytest.raises(InputError, match="found a folder"):
        load_picture(tmp_path)
    with pytest.raises(InputError, match="found: File name too long"):
        load_picture(tmp_path / ("a" * 300))


def test_the_size_limit_is_the_callers():
    limit = Image.MAX_IMAGE_PIXELS
    source = encoded(Image.new("L", (200, 100)))
    with pytest.raises(InputError, match="at most 0.01 megapixels"):
        load_picture(source, max_megapixels=0.01)
    source.seek(0)
    assert load_picture(source, max_megapixels=0.02).pixels.shape == (100, 200, 3)
    with pytest.raises(InputError, match="truncated"):  # within the limit: decoding begins and finds no data
        load_picture(png(20000, 10000, 1, 0, b""), max_megapixels=250)
    assert Image.MAX_IMAGE_PIXELS == limit


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_saved_pictures_come_back_with_their_settings(suffix, tmp_path):
    alpha = np.full((24, 32), 255, np.uint8)
    alpha[:, :8] = 0
    picture = Picture(gradient(), alpha)
    path = tmp_path / "new" / f"a.{suffix}"
    save_picture(picture, path, settings=SETTINGS)
    back = load_picture(path)
    assert back.settings == SETTINGS
    visible = np.abs(back.pixels.astype(int) - picture.pixels)[:, 12:]
    assert visible.max() <= (0 if suffix in ("png", "tif") else 40) and visible.mean() < 4
    if suffix == "jpg":
        assert back.alpha is None and back.pixels[:, :4].min() > 235
    else:
        assert np.array_equal(back.alpha, alpha)
    with Image.open(path) as image:
        assert "icc_profile" in image.info or image.info["srgb"] == 0
        assert suffix != "jpg" or all(part[1:3] == (1, 1) for part in image.layer)  # 4:4:4
    again = BytesIO()
    save_picture(picture, again, format=suffix, settings=SETTINGS)
    assert again.getvalue() == path.read_bytes()
    plain = BytesIO()
    save_picture(picture, plain, format=suffix.upper())
    assert load_picture(BytesIO(plain.getvalue())).settings is None


def test_settings_of_other_programs_are_not_ours():
    exif = Image.Exif()
    exif[0x010E] = "holiday"
    exif[0x8769] = {0x9286: b"ASCII\0\0\0hicast is nice"}
    assert load_picture(encoded(Image.fromarray(gradient()), "JPEG", exif=exif)).settings is None


def test_the_same_bytes_in_another_process_and_second():
    """An ICC profile carries the time of its making, which must not reach the file."""
    program = (
        "import io, sys, time, numpy; from hicast.io.images import *; time.sleep(1.1); data = io.BytesIO();"
        "save_picture(Picture(numpy.zeros((9, 9, 3), 'uint8')), data, format='jpg', settings={'seed': 1});"
        "assert 'torch' not in sys.modules; sys.stdout.buffer.write(data.getvalue())"
    )
    here = BytesIO()
    save_picture(Picture(np.zeros((9, 9, 3), np.uint8)), here, format="jpg", settings={"seed": 1})
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert there.stdout == here.getvalue()


def test_refused_targets(tmp_path):
    picture = Picture(gradient())
    path = tmp_path / "a.png"
    save_picture(picture, path)
    before = path.read_bytes()
    with pytest.raises(OutputError, match="--overwrite"):
        save_picture(Picture(255 - gradient()), path)
    assert path.read_bytes() == before
    save_picture(Picture(255 - gradient()), path, overwrite=True)
    assert np.array_equal(load_picture(path).pixels, 255 - gradient())
    for name in ("a.gif", "a"):
        with pytest.raises(OutputError, match=r"expected one of \.jpg, \.jpeg, \.png, \.webp, \.tif, \.tiff"):
            save_picture(picture, tmp_path / name)
    with pytest.raises(OutputError, match="found the file"):
        save_picture(picture, path / "b.png")
    with pytest.raises(OutputError, match="at most 16383 pixels a side"):
        save_picture(Picture(np.zeros((8, 16384, 3), np.uint8)), tmp_path / "wide.webp")
    with pytest.raises(OutputError, match="write a png"):
        save_picture(picture, tmp_path / "long.jpg", settings={"long": "x" * 70000})
    assert sorted(tmp_path.iterdir()) == [path]


def test_tensors_hold_every_level():
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    tensor = to_tensor(levels)
    assert tensor.shape == (1, 3, 16, 16) and tensor.dtype == torch.float32
    assert (tensor.min(), tensor.max()) == (-1, 1) and tensor[0, 0, 3, 4] == pytest.approx(52 / 127.5 - 1)
    assert np.array_equal(to_pixels(tensor), levels)
    outside = torch.tensor([-2.0, 0.0, 1.5]).reshape(1, 3, 1, 1)
    assert to_pixels(outside).tolist() == [[[0, 128, 255]]]


def test_resizing_is_antialiased_and_keeps_smooth_pictures():
    image = to_tensor(gradient(64, 96))
    smaller = resize_image(image, (32, 48))
    assert smaller.shape == (1, 3, 32, 48) and (resize_image(smaller, (64, 96)) - image).abs().mean() < 0.01
    assert resize_image(image, (64, 96)) is image
    checkerboard = torch.ones(1, 3, 64, 64)
    checkerboard[..., ::2, ::2] = checkerboard[..., 1::2, 1::2] = -1
    assert resize_image(checkerboard, (13, 13)).abs().max() < 0.1
    edge = torch.cat([-torch.ones(1, 3, 8, 8), torch.ones(1, 3, 8, 8)], -1)
    assert resize_image(edge, (32, 64)).abs().max() == 1  # without the clamp bicubic overshoots


def test_working_size_never_squashes():
    assert working_size((480, 640), None, 8) == (480, 640)
    assert working_size((480, 640), 240, 8) == (240, 320)
    assert working_size((640, 480), 512, 64) == (683, 512)
    assert working_size((100, 1000), 250, 64) == (256, 2560)
    assert working_size((100, 100), 1, 8) == (8, 8)


def test_padding_mirrors_and_is_cropped_off():
    image = to_tensor(gradient(13, 10))
    padded, size = pad_to_multiple(image, 8)
    assert padded.shape == (1, 3, 16, 16) and size == (13, 10)
    assert torch.equal(padded[..., :13, 10], image[..., 8]) and torch.equal(padded[..., 15, :10], image[..., 9, :])
    assert torch.equal(crop(padded, size), image)
    narrow, _ = pad_to_multiple(image[..., :3], 8)
    assert torch.equal(narrow[..., :13, 7], image[..., 2])
    assert torch.equal(pad_to_multiple(padded, 8)[0], padded)
