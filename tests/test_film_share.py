"""Films made by several processes, here threads with a meeting point: the same frames as from one, failures shared, work resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hicast.errors import InputError, OutputError
from hicast.io.film import Film, make_film
from hicast.io.film_parts import parts_path
from hicast.io.film_share import Share, piece_runs
from hicast.io.video_read import SourceFrame, VideoReader


def _with_memory(frames, first, lead):
    """Each frame less half of the one before, those of the lead included: a painter that must be given its context."""
    before = None
    for number, pixels in enumerate(frames):
        if number >= lead:
            assert before is not None or first + number == 0
            yield pixels if before is None else (pixels.astype(int) - before // 2).clip(0, 255).astype(np.uint8)
        before = pixels.astype(int)


def _frames(path: Path) -> list[np.ndarray]:
    reader = VideoReader(path)
    return [reader.pixels(frame) for frame in reader.frames()]


def _together(count: int, work) -> list[Any]:
    """What `work(share)` gives, or raises, in each of `count` threads."""
    barrier, said, found = threading.Barrier(count, timeout=60), [None] * count, [None] * count

    def run(rank: int) -> None:
        def gather(word):
            said[rank] = word
            barrier.wait()
            everything = list(said)
            barrier.wait()
            return everything

        try:
            found[rank] = work(Share(rank, count, gather))
        except Exception as error:
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.fixture
def films(tmp_path, make_clip):
    """A clip of 110 frames as two films: pieces have 48 frames, the last one 14, each window one frame of context."""
    source = make_clip(tmp_path / "a.mp4", frames=110, size=(32, 48))
    return [Film(source, tmp_path / f"{name}.mkv", codec="ffv1", step=16, context=1) for name in ("one", "many")]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_processes_together_make_the_film_of_one(films, count):
    alone = make_film(films[0], _with_memory)
    seen: list[list[int]] = [[] for _ in range(count)]
    outcomes = _together(count, lambda share: make_film(
        films[1], _with_memory, share=share, on_progress=lambda done, total: seen[share.rank].append(done)))
    assert outcomes == [alone] * count and alone.frames == 110
    assert all((one == other).all() for one, other in zip(_frames(films[0].target), _frames(films[1].target), strict=True))
    assert [len(own) for own in seen] == {2: [62, 48], 3: [48, 48, 14], 5: [48, 48, 14, 0, 0]}[count]
    assert not parts_path(films[1].target).exists()


def test_what_fails_in_one_fails_in_all_and_what_is_done_is_kept(films):
    make_film(films[0], _with_memory)

    def dies(frames, first, lead):
        if first + lead == 48:
            raise OutputError("no room")
        yield from _with_memory(frames, first, lead)

    first, other = _together(2, lambda share: make_film(films[1], dies, share=share))
    assert isinstance(other, OutputError) and isinstance(first, InputError) and str(first) == str(other) == "no room"
    assert not films[1].target.exists()
    begun: list[int] = []

    def counted(frames, first, lead):
        begun.append(first + lead)
        yield from _with_memory(frames, first, lead)

    outcomes = _together(2, lambda share: make_film(films[1], counted, share=share))
    assert begun == [48] and [outcome.frames for outcome in outcomes] == [110, 110]
    assert all((one == other).all() for one, other in zip(_frames(films[0].target), _frames(films[1].target), strict=True))


def test_one_process_goes_on_where_several_stopped(films):
    make_film(films[0], _with_memory)

    def dies(frames, first, lead):
        if first + lead == 96:
            raise OutputError("no room")
        yield from _with_memory(frames, first, lead)

    _together(2, lambda share: make_film(films[1], dies, share=share))
    assert make_film(films[1], _with_memory).resumed == 96
    assert all((one == other).all() for one, other in zip(_frames(films[0].target), _frames(films[1].target), strict=True))


def test_only_the_first_opens_and_all_are_told_why_not(films):
    films[1].target.parent.joinpath(parts_path(films[1].target).name).mkdir()
    (parts_path(films[1].target) / "job.json").write_text(json.dumps({"crf": 99}))
    found = _together(2, lambda share: make_film(films[1], _with_memory, share=share))
    assert [type(error) for error in found] == [OutputError, InputError]
    assert all("expected pieces made with the same settings" in str(error) for error in found)


def test_runs_hold_whole_pieces_and_their_context():
    frames = [SourceFrame(index, index, 1, None) for index in range(23)]
    runs = {number: [frame.index for frame in run] for number, run in piece_runs(frames, 5, 2, lambda number: number % 2 == 1)}
    assert runs == {1: [3, 4, 5, 6, 7, 8, 9], 3: [13, 14, 15, 16, 17, 18, 19]}
    runs = {number: [frame.index for frame in run] for number, run in piece_runs(frames, 5, 2, lambda number: number % 2 == 0)}
    assert runs == {0: [0, 1, 2, 3, 4], 2: [8, 9, 10, 11, 12, 13, 14], 4: [18, 19, 20, 21, 22]}


@pytest.mark.slow
def test_two_processes_paint_the_films_of_one(workplace, make_clip):
    for name in ("b", "c"):
        make_clip(Path(f"clips/{name}.mp4"), frames=12)
    make_clip(Path("clips/long.mp4"), frames=70)
    Path("clips/broken.mp4").write_bytes(b"nothing")
    words = ["-m", "hicast.cli", "stylize-video", "clips", "--style", "painting.jpg", "--size", "32", "--codec", "ffv1", "--json", "--set", "device=cpu"]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    reports = []
    for start, output in (([], "one"), (launch, "two")):
        done = subprocess.run([sys.executable, *start, *words, "-o", output], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        assert done.returncode == 1, done.stderr
        reports.append(json.loads(done.stdout))
    one, two = ({key: [Path(entry["input"]).name for entry in report[key]] for key in ("results", "failed")} for report in reports)
    assert one == two == {"results": ["b.mp4", "c.mp4", "first.mp4", "long.mp4", "second.mp4"], "failed": ["broken.mp4"]}
    for path in Path("one").rglob("*.m*"):
        pairs = zip(_frames(path), _frames(Path("two") / path.relative_to("one")), strict=True)
        assert all((mine == theirs).all() for mine, theirs in pairs), path
