"""Films whose work was interrupted go on from what is finished, and come out as those made in one go."""

from pathlib import Path

import numpy as np
import pytest

from hicast.errors import OutputError
from hicast.io.film import Film, FilmOutcome, make_film
from hicast.io.film_parts import parts_path
from hicast.io.video_read import VideoReader


class Stopped(Exception):
    """Stands for whatever ends a run."""


def _negatives(after: int | None = None):
    """A painter of negatives, which fails once it has given `after` frames."""

    def paint(frames, first, lead):
        for number, pixels in enumerate(frames, -lead):
            if number == after:
                raise Stopped
            if number >= 0:
                yield 255 - pixels

    return paint


def _stored(path: Path) -> list[tuple[float, np.ndarray]]:
    """Times of the frames, and the numbers that these are stored in."""
    reader = VideoReader(path)
    return [(round(float(frame.pts * reader.info.time_base), 4), frame.picture.to_ndarray()) for frame in reader.frames()]


@pytest.mark.parametrize("name", ["b.mp4", "b.mkv", "b.gif"])
def test_stopped_work_goes_on_and_equals_work_in_one_go(tmp_path, make_clip, name):
    source = make_clip(tmp_path / "a.mp4", frames=70, audio="aac")
    whole, target, calls = tmp_path / f"whole-{name}", tmp_path / name, []
    make_film(Film(source, whole, step=8), _negatives())
    with pytest.raises(Stopped):
        make_film(Film(source, target, step=8, context=3), _negatives(60))
    assert not target.exists() and parts_path(target).is_dir()

    def watched(frames, first, lead):
        calls.append((first, lead))
        return _negatives()(frames, first, lead)

    assert make_film(Film(source, target, step=8, context=3), watched) == FilmOutcome(70, 48, None)
    assert calls == [(45, 3)]
    assert all(a[0] == b[0] and np.array_equal(a[1], b[1]) for a, b in zip(_stored(target), _stored(whole), strict=True))
    assert not parts_path(target).exists() and len(list(tmp_path.glob(".hicast*"))) == 0


def test_finished_frames_of_another_job_are_not_used(tmp_path, make_clip):
    source, target = make_clip(tmp_path / "a.mp4", frames=60), tmp_path / "b.mp4"
    with pytest.raises(Stopped):
        make_film(Film(source, target, step=4, look={"styles": {"red": 1}, "seed": 0}), _negatives(55))
    with pytest.raises(OutputError, match=r"found others for crf, styles\.red; give the earlier settings to go on, or --no-resume"):
        make_film(Film(source, target, step=4, look={"styles": {"red": 2}, "seed": 0}, crf=20), _negatives())
    assert make_film(Film(source, target, step=4, look={"seed": 1}), _negatives(), resume=False).resumed == 0


def test_a_film_that_lacks_only_its_last_move_is_not_painted_again(tmp_path, make_clip, monkeypatch):
    source, target = make_clip(tmp_path / "a.mp4", frames=60), tmp_path / "b.mp4"
    with monkeypatch.context() as patch:
        patch.setattr("hicast.io.film.join_pieces", lambda *words: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OutputError) as caught:
            make_film(Film(source, target), _negatives())
    advice = "make room and give the same command again: it goes on from there"
    assert str(caught.value) == f"{target}: expected to be able to write, found: No space left on device; {advice}"
    assert not target.exists()
    assert make_film(Film(source, target), _negatives(0)) == FilmOutcome(60, 60, None)
