"""Reading videos: time stamps, turning, pixel aspect, depth, alpha, colours, and all that is no video."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from hicast.errors import InputError
from hicast.io.video_color import FULL, LIMITED, ColorTags, to_frame, to_pixels
from hicast.io.video_info import probe_video
from hicast.io.video_read import Span, VideoReader

UNEVEN = [0, 40, 60, 200, 210, 500, 510, 520, 530, 900, 940, 1000]


def _times(reader: VideoReader) -> list[float]:
    return [float(frame.pts * reader.info.time_base) for frame in reader.frames()]


def test_a_plain_clip(tmp_path, make_clip):
    info = probe_video(make_clip(tmp_path / "a.mp4", audio="aac"))
    assert (info.width, info.height, info.turning, info.pixel_aspect) == (64, 48, (), 1)
    assert (info.rate, info.frames, info.duration, info.depth, info.alpha) == (25, 12, Fraction(12, 25), 8, False)
    assert info.tracks == ("audio",) and info.codec == "h264"


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_uneven_time_stamps_are_exact(tmp_path, make_clip, name):
    reader = VideoReader(make_clip(tmp_path / name, pts=UNEVEN, time_base=Fraction(1, 1000)))
    assert _times(reader) == [number / 1000 for number in UNEVEN]
    assert reader.lost is None


def test_a_span_begins_with_the_frame_that_is_seen_then(tmp_path, make_clip):
    path = make_clip(tmp_path / "a.mp4")
    reader = VideoReader(path, Span(Fraction(1, 10), Fraction(1, 4)))
    frames = list(reader.frames())
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]
    assert _times(reader) == [0.08, 0.12, 0.16, 0.2, 0.24]
    assert reader.expected_frames in (4, 5) and reader.lost is None
    later = list(reader.frames(3))
    assert [frame.pts for frame in later] == [frame.pts for frame in frames[3:]]


@pytest.mark.parametrize("angle, mirrored", list(product((0, 90, 180, 270), (False, True))))
def test_turned_clips_stand_upright(tmp_path, make_clip, angle, mirrored):
    """The angle is counterclockwise: at 90 what was stored in the upper left is seen in the lower left; mirroring follows."""
    path = make_clip(tmp_path / "a.mp4", more=lambda container, stream: stream.set_display_rotation(angle, hflip=mirrored))
    plain = VideoReader(make_clip(tmp_path / "b.mp4"))
    reader = VideoReader(path)
    assert (reader.info.height, reader.info.width) == ((64, 48) if angle in (90, 270) else (48, 64))
    turned, stored = (each.pixels(next(each.frames())) for each in (reader, plain))
    expected = np.rot90(stored, angle // 90)
    assert np.abs(turned.astype(int) - (expected[:, ::-1] if mirrored else expected)).mean() < 2


def test_pixel_aspect_turns_with_the_picture(tmp_path, make_clip):
    def narrow(container, stream):
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        stream.set_display_rotation(90)

    assert probe_video(make_clip(tmp_path / "a.mp4", more=narrow)).pixel_aspect == Fraction(3, 4)


def test_ten_bits_come_as_uint16_of_full_scale(tmp_path, make_clip):
    reader = VideoReader(make_clip(tmp_path / "a.mkv", pixel_format="yuv420p10le"))
    pixels = reader.pixels(next(reader.frames()))
    assert reader.info.depth == 10 and pixels.dtype == np.uint16
    assert abs(int(pixels[2, 2, 0]) - 26 * 257) < 3 * 257 and len(np.unique(pixels[2:6, :, 0])) > 32


@pytest.mark.parametrize("name, codec, pixel_format", [("a.webm", "libvpx-vp9", "yuva420p"), ("a.mov", "prores_ks", "yuva444p10le")])
def test_alpha_is_kept(tmp_path, make_clip, name, codec, pixel_format):
    reader = VideoReader(make_clip(tmp_path / name, frames=3, codec=codec, pixel_format=pixel_format))
    pixels = reader.pixels(next(reader.frames()))
    full = np.iinfo(pixels.dtype).max
    assert reader.info.alpha and pixels.shape[2] == 4
    assert pixels[10, 3, 3] > 0.97 * full and pixels[10, -3, 3] < 0.03 * full


def test_opaque_gifs_have_no_alpha(tmp_path, make_clip):
    info = probe_video(make_clip(tmp_path / "a.gif", codec="gif", pixel_format="rgb8", time_base=Fraction(1, 10)))
    assert (info.format, info.alpha, info.rate) == ("gif", False, 10)


@pytest.mark.parametrize("matrix, range", list(product((1, 6, 9), (LIMITED, FULL))))
def test_colours_by_matrix_and_range(matrix, range):
    """Luma and chroma of a red, by the formulas of ITU-R BT.601, BT.709 and BT.2020, and back to the red."""
    red, green, blue = 200 / 255, 60 / 255, 30 / 255
    kr, kb = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}[matrix]
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    chroma = [(blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr)]
    scales = (0, 255, 255) if range == FULL else (16, 219, 224)
    expected = [scales[0] + scales[1] * luma, *(128 + scales[2] * part for part in chroma)]
    pixels = np.broadcast_to(np.array([200, 60, 30], np.uint8), (32, 48, 3))
    tags = ColorTags(matrix, range)
    frame = to_frame(pixels, "yuv444p", tags)
    assert [frame.to_ndarray()[plane, 8, 8] for plane in (0, 1, 2)] == pytest.approx(expected, abs=1)
    assert np.abs(to_pixels(frame, tags).astype(int) - pixels).max() <= 2


@pytest.mark.parametrize("matrix, range", list(product((1, 6), (LIMITED, FULL))))
def test_tags_are_read_from_files(tmp_path, make_clip, matrix, range):
    reader = VideoReader(make_clip(tmp_path / "a.mkv", pixel_format="yuv444p", color=(matrix, range)))
    assert reader.info.color == ColorTags(matrix, range)
    pixels = reader.pixels(next(reader.frames()))
    assert np.abs(pixels[12, 4].astype(int) - (230, 40, 20)).max() < 12


def test_clips_without_tags_are_read_as_players_do(tmp_path, make_clip):
    small, large = (make_clip(tmp_path / f"{height}.mp4", frames=1, size=(height, 64)) for height in (480, 720))
    assert probe_video(small).color == ColorTags(6, LIMITED) and probe_video(large).color == ColorTags(1, LIMITED)


def test_what_is_no_video(tmp_path, make_clip):
    text, sound, empty = tmp_path / "a.txt", tmp_path / "a.m4a", tmp_path / "empty.mp4"
    text.write_text("no video")
    empty.write_bytes(b"")
    import av

    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), "s16", "mono")
        frame.sample_rate = 48000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    found = {}
    for path in (text, sound, empty, tmp_path / "gone.mp4", tmp_path):
        with pytest.raises(InputError) as caught:
            probe_video(path)
        found[path] = str(caught.value).removeprefix(f"{path}: expected a video, found ")
    assert found[text] == "something else or a damaged start; check the file"
    assert found[empty] == "an empty file; get the file again"
    assert found[sound] == "no picture track in it but audio; name another file"
    assert found[tmp_path / "gone.mp4"] == "no such file; check the path"
    assert found[tmp_path] == "a folder; name a file in it"


def test_a_picture_is_no_video(workplace):
    with pytest.raises(InputError, match="photo.jpg: expected a video, found a single picture; use hicast stylize-image"):
        probe_video("photo.jpg")


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_a_file_that_breaks_off_says_so(tmp_path, make_clip, name):
    """Half of a Matroska file, and an MP4 whose index stands in front: what is there is decoded, the rest is told."""
    whole = make_clip(tmp_path / name, frames=50, options={"crf": "4", "preset": "ultrafast", "bf": "0", "g": "5"})
    if name.endswith("mp4"):
        from hicast.io.film import Film, make_film

        make_film(Film(whole, tmp_path / "front.mp4"), None)
        whole = tmp_path / "front.mp4"
    part = tmp_path / f"part-{name}"
    part.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.6)])
    reader = VideoReader(part)
    count = len(list(reader.frames()))
    assert 10 < count < 45
    assert reader.lost.startswith(f"found it broken off after {count} of 50 frames, at ")
    reader = VideoReader(whole)
    assert len(list(reader.frames())) == 50 and reader.lost is None


def test_an_mp4_without_its_index_is_no_video(tmp_path, make_clip):
    path = make_clip(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(InputError, match="found something else or a damaged start"):
        probe_video(path)
