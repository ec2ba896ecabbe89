"""Films from file to file: what comes out is what went in, painted; tracks and tags are kept."""

import io
import re
import threading
import time
from fractions import Fraction
from itertools import product
from pathlib import Path

import av
import numpy as np
import pytest

from hicast.errors import InputError, OutputError, UsageError
from hicast.io.film import Film, FilmOutcome, make_film
from hicast.io.video_read import Span, VideoReader

LOSSLESS = {"crf": "0", "preset": "ultrafast"}


def _invert(frames, first, lead):
    """Negatives, as a painter that needs no neighbours."""
    for number, pixels in enumerate(frames):
        if number >= lead:
            yield np.iinfo(pixels.dtype).max - pixels


def _frames(path: Path | str) -> list[np.ndarray]:
    reader = VideoReader(path)
    return [reader.pixels(frame) for frame in reader.frames()]


def _stored(path: Path | str) -> list[np.ndarray]:
    """Frames in the numbers that they are stored in."""
    return [frame.picture.to_ndarray() for frame in VideoReader(path).frames()]


def _times(path: Path | str) -> list[float]:
    reader = VideoReader(path)
    return [round(float(frame.pts * reader.info.time_base), 4) for frame in reader.frames()]


def _differences(one: list[np.ndarray], other: list[np.ndarray]) -> float:
    assert len(one) == len(other)
    return float(np.mean([np.abs(a.astype(int) - b.astype(int)).mean() for a, b in zip(one, other, strict=True)]))


def _packets(path: Path | str, kind: str) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(getattr(container.streams, kind)[0]) if packet.size]


@pytest.mark.parametrize("matrix, range, pixel_format", [*product((1, 6), (1, 2), ("yuv420p",)), (1, 1, "yuv444p"), (9, 1, "yuv420p10le")])
@pytest.mark.parametrize("codec", ["h264", "ffv1"])
def test_passthrough_changes_nothing_but_the_encoding(tmp_path, make_clip, matrix, range, pixel_format, codec):
    source = make_clip(tmp_path / "a.mkv", pixel_format=pixel_format, color=(matrix, range), options=LOSSLESS)
    target = tmp_path / "b.mkv"
    outcome = make_film(Film(source, target, codec=codec, crf=0 if codec == "h264" else None), None)
    assert outcome == FilmOutcome(12, 0, None)
    most = 10 if pixel_format.endswith("10le") and codec == "h264" else 0  # x264 has no lossless mode for 10 bits
    assert all(np.abs(a.astype(int) - b).max() <= most for a, b in zip(_stored(source), _stored(target), strict=True))
    before, after = VideoReader(source).info, VideoReader(target).info
    assert (after.color, after.depth) == (before.color, before.depth) and _times(target) == _times(source)


@pytest.mark.parametrize("matrix, range", list(product((1, 6), (1, 2))))
def test_painted_colours_keep_matrix_and_range(tmp_path, make_clip, matrix, range):
    source = make_clip(tmp_path / "a.mkv", pixel_format="yuv444p", color=(matrix, range), options=LOSSLESS)
    target = tmp_path / "b.mp4"
    make_film(Film(source, target, crf=4), _invert)
    assert VideoReader(target).info.color == VideoReader(source).info.color
    assert _differences([255 - pixels for pixels in _frames(source)], _frames(target)) < 3


def test_times_sound_tags_and_chapters_are_kept(tmp_path, make_clip):
    stamps = [0, 40, 60, 200, 210, 500, 510, 520, 530, 900, 940, 1000]

    def tell(container, stream):
        container.metadata["title"] = "Swans"
        container.set_chapters([{"id": 1, "start": 0, "end": 300, "time_base": Fraction(1, 1000), "metadata": {"title": "Lake"}}])

    source = make_clip(tmp_path / "a.mp4", pts=stamps, time_base=Fraction(1, 1000), audio="aac", more=tell)
    for name in ("b.mp4", "b.mkv", "b.mov"):
        target = tmp_path / name
        make_film(Film(source, target, comment="ours"), _invert)
        assert _times(target) == [stamp / 1000 for stamp in stamps]
        copied, original = _packets(target, "audio"), _packets(source, "audio")
        assert copied == original or (name == "b.mkv" and copied == original[1:])
        with av.open(str(target)) as container:
            tags = {key.lower(): value for key, value in container.metadata.items()}
            assert (tags["title"], tags["comment"]) == ("Swans", "ours")
            (chapter,) = container.chapters()
            assert chapter["metadata"]["title"] == "Lake" and chapter["end"] * chapter["time_base"] == Fraction(3, 10)
    make_film(Film(source, tmp_path / "c.mp4", keep_audio=False), _invert)
    assert "audio" not in VideoReader(tmp_path / "c.mp4").info.tracks


def test_tracks_that_a_container_cannot_hold_are_told(tmp_path, make_clip):
    source, notes = make_clip(tmp_path / "a.mp4", audio="aac"), []
    make_film(Film(source, tmp_path / "b.webm"), _invert, on_note=notes.append)
    assert notes == [f"{source}: audio track 1 (aac) left out: webm cannot hold it; write .mkv"]
    assert VideoReader(tmp_path / "b.webm").info.codec == "vp9"


def test_subtitles_are_copied(tmp_path, make_clip):
    (tmp_path / "a.srt").write_text("1\n00:00:00,100 --> 00:00:00,400\nHello.\n")
    clip, source = make_clip(tmp_path / "a.mkv"), tmp_path / "b.mkv"
    with av.open(str(tmp_path / "a.srt")) as words, av.open(str(clip)) as pictures, av.open(str(source), "w") as both:
        streams = {name: both.add_stream_from_template(each.streams[0], opaque=True) for name, each in (("w", words), ("p", pictures))}
        for name, each in (("p", pictures), ("w", words)):
            for packet in each.demux():
                if packet.size:
                    packet.stream = streams[name]
                    both.mux(packet)
    make_film(Film(source, tmp_path / "c.mkv"), None)
    assert _packets(tmp_path / "c.mkv", "subtitles") == [b"Hello."]
    notes: list[str] = []
    make_film(Film(source, tmp_path / "c.mp4"), None, on_note=notes.append)
    assert len(notes) == 1 and "subtitle track" in notes[0] and "mp4 cannot hold it" in notes[0]


@pytest.mark.parametrize("name, size", [("b.mp4", (47, 63)), ("b.mp4", (48, 63)), ("b.webm", (47, 63)), ("b.mkv", (47, 63))])
def test_odd_sizes_come_back_as_they_are(tmp_path, make_clip, name, size):
    source = make_clip(tmp_path / "a.mkv", frames=4, size=size, codec="ffv1", pixel_format="yuv420p")
    make_film(Film(source, tmp_path / name), _invert)
    found = _frames(tmp_path / name)
    assert found[0].shape == (*size, 3) and _differences([255 - pixels for pixels in _frames(source)], found) < 8


def test_pixel_aspect_is_carried_and_turned_pictures_are_upright(tmp_path, make_clip):
    def narrow(container, stream):
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        stream.set_display_rotation(90)

    source = make_clip(tmp_path / "a.mp4", more=narrow)
    for paint in (None, _invert):
        make_film(Film(source, tmp_path / "b.mp4"), paint, overwrite=True)
        info = VideoReader(tmp_path / "b.mp4").info
        assert (info.height, info.width, info.turning, info.pixel_aspect) == (64, 48, (), Fraction(3, 4))


def test_ten_bits_stay(tmp_path, make_clip):
    source = make_clip(tmp_path / "a.mkv", pixel_format="yuv420p10le")
    make_film(Film(source, tmp_path / "b.mp4", crf=4), _invert)
    assert VideoReader(tmp_path / "b.mp4").info.pixel_format == "yuv420p10le"
    assert _differences([65535 - pixels for pixels in _frames(source)], _frames(tmp_path / "b.mp4")) < 3 * 257


@pytest.mark.parametrize("name", ["b.webm", "b.mov", "b.mkv", "b.gif", "p%02d.png"])
def test_alpha_stays_where_it_can(tmp_path, make_clip, name):
    source = make_clip(tmp_path / "a.webm", frames=4, codec="libvpx-vp9", pixel_format="yuva420p")
    make_film(Film(source, tmp_path / name), _invert)
    if "%" in name:
        from PIL import Image

        found = np.asarray(Image.open(tmp_path / "p01.png"))
    else:
        found = _frames(tmp_path / name)[0]
    full = np.iinfo(found.dtype).max
    assert found[12, 20, 3] > 0.95 * full and found[12, -4, 3] < 0.05 * full
    assert abs(int(found[30, 4, 0]) - 0.87 * full) < 0.06 * full


def test_alpha_that_cannot_stay_is_told(tmp_path, make_clip):
    source, notes = make_clip(tmp_path / "a.webm", frames=4, codec="libvpx-vp9", pixel_format="yuva420p"), []
    make_film(Film(source, tmp_path / "b.mp4"), _invert, on_note=notes.append)
    assert notes == [f"{source}: libx264 cannot hold the alpha channel: left out; write .mov or .webm to keep it"]


def test_gif_and_png(tmp_path, make_clip):
    source = make_clip(tmp_path / "a.mp4", time_base=Fraction(1, 20))
    expected = [255 - pixels for pixels in _frames(source)]
    make_film(Film(source, tmp_path / "b.gif"), _invert)
    assert _times(tmp_path / "b.gif") == _times(source) and _differences(expected, [pixels[..., :3] for pixels in _frames(tmp_path / "b.gif")]) < 14
    make_film(Film(source, tmp_path / "frames" / "p%02d.png"), _invert)
    assert sorted(path.name for path in (tmp_path / "frames").iterdir()) == [f"p{number:02}.png" for number in range(1, 13)]
    assert _differences(expected, _frames(tmp_path / "frames" / "p%02d.png")) < 1
    with pytest.raises(OutputError, match="p01.png: expected no such file"):
        make_film(Film(source, tmp_path / "frames" / "p%02d.png"), _invert)


def test_a_part_of_a_film_begins_at_zero_with_its_sound(tmp_path, make_clip):
    source = make_clip(tmp_path / "a.mp4", frames=50, audio="aac")
    make_film(Film(source, tmp_path / "b.mp4", span=Span(Fraction(1), Fraction(3, 2))), _invert)
    assert _times(tmp_path / "b.mp4") == pytest.approx([number / 25 for number in range(13)])
    with av.open(str(tmp_path / "b.mp4")) as container:
        seconds = [float(packet.pts * packet.time_base) for packet in container.demux(container.streams.audio[0]) if packet.size]
    assert 0 <= seconds[0] < 0.03 and 0.45 < seconds[-1] < 0.55
    with pytest.raises(InputError, match="expected frames in this part of the video, found none; change --start and --end"):
        make_film(Film(source, tmp_path / "c.mp4", span=Span(Fraction(9), None)), _invert)


def test_a_stream_gets_matroska(tmp_path, make_clip):
    source, stream = make_clip(tmp_path / "a.mp4", audio="aac"), io.BytesIO()
    make_film(Film(source, stream), _invert)
    (tmp_path / "b.mkv").write_bytes(stream.getvalue())
    info = VideoReader(tmp_path / "b.mkv").info
    assert info.format.startswith("matroska") and info.tracks == ("audio",) and len(_frames(tmp_path / "b.mkv")) == 12


def test_a_broken_source_gives_what_can_be_decoded(tmp_path, make_clip):
    source = make_clip(tmp_path / "a.mkv", frames=50, options={"crf": "4", "preset": "ultrafast", "bf": "0", "g": "5"})
    source.write_bytes(source.read_bytes()[: source.stat().st_size * 6 // 10])
    outcome = make_film(Film(source, tmp_path / "b.mp4"), _invert)
    assert 10 < outcome.frames < 45 and len(_frames(tmp_path / "b.mp4")) == outcome.frames
    assert re.match(rf"found it broken off after {outcome.frames} of 50 frames, at [\d.]+ s", outcome.lost)


@pytest.mark.parametrize(
    "name, choices, text",
    [
        ("b.mp4", {"codec": "h265x"}, "--codec: expected an encoder of videos that .mp4 can hold, found h265x; did you mean h265? known: h264, hevc, h265, "),
        ("b.webm", {"codec": "vp7"}, "--codec: expected an encoder of videos that .webm can hold, found vp7; did you mean vp9? known: vp8, vp9, av1"),
        ("b.mp4", {"codec": "aac"}, "--codec: expected an encoder of videos that .mp4 can hold, found aac; "),
        ("b.webm", {"codec": "h264"}, "--codec h264: expected one that .webm can hold, found another; take one of vp8, vp9, av1, or write .mkv"),
        ("b.mkv", {"codec": "gif"}, "--codec gif: expected one that .mkv can hold, found another; take one of h264, "),
        ("b.mp4", {"crf": 60}, "--crf: expected a number from 0 to 51 for libx264, found 60; 0 is the best"),
        ("b.mov", {"codec": "prores", "crf": 3}, "--crf: expected a codec that has it"),
        ("b.gif", {"codec": "h264"}, "expected neither --codec nor --crf for .gif"),
    ],
)
def test_choices_that_cannot_be(tmp_path, make_clip, name, choices, text):
    with pytest.raises(UsageError) as caught:
        make_film(Film(make_clip(tmp_path / "a.mp4"), tmp_path / name, **choices), _invert)
    assert str(caught.value).startswith(text)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4"]


@pytest.mark.parametrize("codec", ["hevc", "av1", "vp9", "ffv1", "mpeg4"])
def test_other_codecs(tmp_path, make_clip, codec):
    source, target = make_clip(tmp_path / "a.mp4", size=(64, 96)), tmp_path / "b.mkv"
    make_film(Film(source, target, codec=codec), _invert)
    assert VideoReader(target).info.codec == codec and _times(target) == _times(source)
    assert _differences([255 - pixels for pixels in _frames(source)], _frames(target)) < 6


def test_decoding_painting_and_encoding_overlap_and_stay_close(tmp_path, make_clip):
    """Frames are decoded while others are painted, but only a few ahead."""
    source, ahead, threads = make_clip(tmp_path / "a.mp4", frames=60), [], set()
    taken = [0]

    def paint(frames, first, lead):
        for pixels in frames:
            threads.add(threading.current_thread().name)
            taken[0] += 1
            time.sleep(0.002)
            yield pixels

    film = Film(source, tmp_path / "b.mp4", step=4)  # so far apart may they be, and each holds one frame more in hand
    make_film(film, paint, on_progress=lambda done, total: ahead.append((taken[0] - done, total)))
    assert threads == {"MainThread"}
    assert max(count for count, _ in ahead) <= 8 and {total for _, total in ahead} == {60} and len(ahead) == 60
