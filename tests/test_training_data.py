"""Training data: folders, shards and clips; what cannot be used is told once and left out."""

import io
import subprocess
import sys
import tarfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from hicast.errors import InputError
from hicast.io.files import VIDEOS
from hicast.training.clips import ClipPool, _read_frames
from hicast.training.data import PicturePool, center_crop, evenly, prefetched, random_crop, sample_generator
from hicast.training.sources import CLIPS, list_sources


def _picture(seed: int = 0, size: tuple[int, int] = (90, 80)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _png(seed: int = 0) -> bytes:
    stream = io.BytesIO()
    _picture(seed).save(stream, "PNG")
    return stream.getvalue()


def _shard(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as shard:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            shard.addfile(header, io.BytesIO(content))
    return path


def _clip(path: Path, frames: int, rate: int = 24) -> Path:
    """A video whose frame k has the grey level 4 * k."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4" if path.suffix != ".webm" else "libvpx", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for k in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 4 * k, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_crops_depend_on_the_sample_alone():
    pixels = np.asarray(_picture())
    one, again, other = (random_crop(pixels, 32, (0.5, 1.0), sample_generator(3, index)) for index in (7, 7, 8))
    assert one.shape == (32, 32, 3)
    assert (one == again).all() and (one != other).any()


def test_center_crop_takes_the_middle_square():
    pixels = np.zeros((30, 50, 3), np.uint8)
    pixels[:, 10:40] = 200
    assert (center_crop(pixels, 15) == 200).all()


def test_fixed_samples_are_spread_evenly():
    assert evenly(100, 4) == [0, 25, 50, 75] and evenly(2, 4) == [0, 1]


def test_prefetching_keeps_the_order():
    assert list(prefetched(lambda step: step * 10, 2, 7, workers=3)) == [20, 30, 40, 50, 60]


def test_pool_reads_recursively_and_tells_of_each_bad_file_once(tmp_path):
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    (tmp_path / "deep" / "deeper" / "good.png").write_bytes(_png())
    (tmp_path / "broken.png").write_bytes(_png()[:100])
    (tmp_path / "notes.txt").write_text("no picture")
    _picture(1, (9, 9)).save(tmp_path / "tiny.png")
    notes = []
    pool = PicturePool([tmp_path], 64, 0, notes.append)
    assert len(pool) == 3
    for _ in range(2):
        assert (pool[0] == pool[1]).all() and (pool[1] == pool[2]).all()
    assert {source.path.name for source in pool.skipped} == {"broken.png", "tiny.png"}
    assert "left out 1 of 4 files, such as notes.txt" in notes[0]
    assert "skipped 1 of 3 pictures" in notes[1] and "broken.png" in notes[1]
    assert "skipped 2 of 3 pictures" in notes[2] and "tiny.png: expected sides of at least 16 pixels, found 9" in notes[2]
    assert len(notes) == 3


def test_pool_turns_pictures_upright(tmp_path):
    picture = _picture(0, (60, 40))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.jpg", exif=exif)
    assert PicturePool([tmp_path], 40, 0)[0].shape[:2] == (60, 40)


def test_pool_of_only_bad_files_is_an_error(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match="found only files that cannot be used"):
        PicturePool([tmp_path], 64, 0)[0]


@pytest.mark.parametrize("name, words", [("empty", "found none of them"), ("missing", "found nothing of that kind")])
def test_place_without_pictures_is_an_error(tmp_path, name, words):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=words):
        PicturePool([tmp_path / name], 64, 0)


def test_shards_are_read_like_folders(tmp_path):
    shard = _shard(tmp_path / "a.tar", {"x/0.png": _png(0), "x/0.txt": b"words", "x/1.png": _png(1), "odd.bin": b"?"})
    notes = []
    pool = PicturePool([shard], 80, 0, notes.append)
    assert len(pool) == 2
    assert (pool[1] == np.asarray(_picture(1))).all()
    assert len(PicturePool([tmp_path], 80, 0)) == 2
    assert len(notes) == 1 and "odd.bin" in notes[0]


def test_shard_that_is_cut_off_gives_what_is_whole(tmp_path):
    shard = _shard(tmp_path / "a.tar", {"0.png": _png(0), "1.png": _png(1)})
    shard.write_bytes(shard.read_bytes()[: len(_png(0)) + 3000])
    pool = PicturePool([shard], 80, 0)
    assert (pool[len(pool) - 1] == np.asarray(_picture(0))).all()
    (tmp_path / "b.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(InputError, match="b.tar: expected a tar shard"):
        PicturePool([tmp_path / "b.tar"], 80, 0)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm", "avi"])
def test_clips_of_any_container_come_in_steps_of_an_eighth_of_a_second(tmp_path, suffix):
    _clip(tmp_path / f"a.{suffix}", 48)
    pool = ClipPool([tmp_path])
    starts = set()
    for index in range(4):
        clip = pool.clip(0, 4, 32, (1.0, 1.0), sample_generator(0, index))
        assert clip.shape == (4, 32, 32, 3)
        levels = clip.reshape(4, -1).mean(1) / 4
        assert levels[0] <= 48 - 9 and np.abs(np.diff(levels) - 3).max() < 1.1
        starts.add(round(levels[0]))
    assert len(starts) > 1
    again = [pool.clip(0, 4, 32, (0.5, 1.0), sample_generator(0, 1)) for _ in range(2)]
    assert (again[0] == again[1]).all()


def test_short_clips_come_closer_together_and_too_short_ones_are_left_out(tmp_path):
    _clip(tmp_path / "short.mp4", 6)
    _clip(tmp_path / "shorter.mp4", 2)
    (tmp_path / "torn.mp4").write_bytes(b"no video at all" * 50)
    notes = []
    pool = ClipPool([tmp_path], notes.append)
    clips = [pool.clip(index, 5, 32, (1.0, 1.0), sample_generator(0, 0)) for index in (0, 1, 2, 1)]
    assert all((clip == clips[0]).all() for clip in clips)
    assert (np.diff(clips[0].reshape(5, -1).mean(1)) > 2).all()
    assert len(notes) == 2 and "found 2" in notes[0] and "torn.mp4" in notes[1]


def test_clips_are_seen_as_players_show_them(tmp_path, make_clip):
    """Stored 128 x 64 with pixels twice as wide as high, and turned to the right: seen it is 64 wide and 256 high."""

    def turned(container, stream):
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
        stream.set_display_rotation(-90)

    make_clip(tmp_path / "a.mp4", size=(64, 128), more=turned)
    make_clip(tmp_path / "b.mp4", size=(64, 128))
    source, stored = list_sources([tmp_path], CLIPS)
    for place in (0.0, 0.9):
        frames, plain = (_read_frames(each, 3, place, 25.0) for each in (source, stored))
        for frame, pixels in zip(frames, plain, strict=True):
            expected = Image.fromarray(np.rot90(pixels, -1).copy()).resize((64, 256), Image.Resampling.BICUBIC)
            assert frame.shape == (256, 64, 3) and np.abs(frame.astype(int) - np.asarray(expected)).mean() < 3


@pytest.mark.parametrize("name, codec", [("a.m2ts", "libx264"), ("a.mts", "libx264"), ("a.y4m", "rawvideo"), ("a.gif", "gif")])
def test_clips_that_can_be_stylized_can_be_trained_on(tmp_path, make_clip, name, codec):
    assert CLIPS == VIDEOS.readable
    format = "rgb8" if codec == "gif" else "yuv420p"
    make_clip(tmp_path / name, codec=codec, pixel_format=format, time_base=Fraction(1, 10))
    assert ClipPool([tmp_path]).clip(0, 3, 32, (1.0, 1.0), sample_generator(0, 0)).std() > 10


def test_training_data_needs_no_pyav_until_a_clip_is_read():
    code = "import sys\nsys.modules['av'] = None\nimport hicast.training.clips, hicast.training.clip_source"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_clips_lie_in_shards_too(tmp_path):
    content = _clip(tmp_path / "a.mp4", 12).read_bytes()
    shard = _shard(tmp_path / "clips.tar", {"0.mp4": content})
    assert len(list_sources([shard], CLIPS)) == 1
    assert ClipPool([shard]).clip(0, 3, 32, (1.0, 1.0), sample_generator(0, 0)).shape == (3, 32, 32, 3)
