"""What a film says of itself: how long its last frame is shown, and the settings that made it."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from hicast.io.film import Film, make_film
from hicast.io.images import load_picture
from hicast.io.metadata import comment_settings, settings_comment
from hicast.io.video_info import probe_video
from hicast.io.video_read import VideoReader

FIRST, SECOND = settings_comment({"settings": {"seed": 1}}), settings_comment({"settings": {"seed": 2, "text": "ä" * 400}})


@pytest.fixture
def held(tmp_path) -> Path:
    """A GIF of twelve frames that differ much, the last of which is shown for three seconds."""
    frames = [Image.effect_mandelbrot((64, 48), (-2, -1, 1 + number / 5, 1), 20 + 10 * number) for number in range(12)]
    frames[0].save(tmp_path / "held.gif", save_all=True, append_images=frames[1:], duration=[100, 50, *[100] * 9, 3000], loop=0)
    return tmp_path / "held.gif"


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.gif"])
def test_the_last_frame_is_shown_as_long_as_in_the_source(tmp_path, held, name):
    make_film(Film(held, tmp_path / name), None)
    with av.open(str(tmp_path / name)) as container:
        assert container.duration / 1e6 == pytest.approx(1.05 + 3, abs=0.02)
    if name == "a.gif":
        with Image.open(tmp_path / name) as picture:
            picture.seek(11)
            assert picture.info["duration"] == 3000


@pytest.mark.parametrize("codec", ["h264", "ffv1"])
def test_avi_holds_what_mp4_does(tmp_path, make_clip, codec):
    """AVI has no time stamps: frames must lie in the order that they are shown in, and H.264 with start codes."""
    stamps = [0, 40, 60, 200, 210, 500, 510, 520, 530, 900, 940, 1000]
    source = make_clip(tmp_path / "a.mp4", pts=stamps, time_base=Fraction(1, 1000), audio="aac")
    make_film(Film(source, tmp_path / "b.avi", codec=codec, step=4, comment=FIRST), None)
    reader, original = VideoReader(tmp_path / "b.avi"), VideoReader(source)
    with av.open(str(tmp_path / "b.avi")) as container:
        places = [float(packet.dts * packet.time_base) for packet in container.demux(video=0) if packet.size]
    assert places == pytest.approx([stamp / 1000 for stamp in stamps], abs=0.002)
    for one, other in zip(reader.frames(), original.frames(), strict=True):
        assert np.abs(reader.pixels(one).astype(int) - original.pixels(other)).mean() < 3
    assert "audio" in reader.info.tracks and comment_settings(reader.info.metadata)["settings"]["seed"] == 1


@pytest.mark.parametrize("name", ["b.mp4", "b.mkv"])
def test_a_film_of_a_film_has_its_own_settings_and_the_comment_of_others(tmp_path, make_clip, name):
    def tell(container, stream):
        container.metadata["comment"] = "By the lake"

    source = make_clip(tmp_path / "a.mp4", more=tell)
    make_film(Film(source, tmp_path / name, comment=FIRST), None)
    make_film(Film(tmp_path / name, tmp_path / f"again-{name}", comment=SECOND), None)
    tags = probe_video(tmp_path / f"again-{name}").metadata
    assert comment_settings(tags)["settings"]["seed"] == 2
    assert next(value for key, value in tags.items() if key.lower() == "comment").splitlines() == ["By the lake", SECOND]


def test_moving_and_numbered_pictures_hold_their_settings(tmp_path, make_clip):
    source = make_clip(tmp_path / "a.mp4", time_base=Fraction(1, 20))
    for name, first in (("b.gif", "b.gif"), ("c%02d.png", "c01.png")):
        make_film(Film(source, tmp_path / name), None)
        plain = probe_video(tmp_path / name).expected_frames, load_picture(tmp_path / first)
        make_film(Film(source, tmp_path / name, comment=SECOND), None, overwrite=True)
        told = probe_video(tmp_path / name).expected_frames, load_picture(tmp_path / first)
        assert plain[1].settings is None and told[1].settings["settings"] == {"seed": 2, "text": "ä" * 400}
        assert plain[0] == told[0] == 12 and (plain[1].pixels == told[1].pixels).all()
