"""Judging clips: figures of time restated, true flow, and the command from end to end."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hicast.cli import main
from hicast.errors import InputError
from hicast.evaluation.clips import looks, read_clip
from hicast.evaluation.ground_flow import MAGIC, known_motion, read_flow
from hicast.evaluation.temporal import SourceMotion
from hicast.io.clip_write import write_frames


def write_flow(path: Path, flow: np.ndarray) -> None:
    """Write flow (height, width, 2) as a Middlebury file, as datasets come with."""
    height, width = flow.shape[:2]
    path.write_bytes(np.float32(MAGIC).tobytes() + np.array([width, height], "<i4").tobytes() + flow.astype("<f4").tobytes())


def panning(frames: int = 5, size: int = 48, seed: int = 0, step: int = 2) -> list[np.ndarray]:
    """A picture that moves to the left by `step` pixels a frame."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 16, 3), dtype=np.uint8)
    wide = np.asarray(Image.fromarray(coarse).resize((size * 2, size), Image.Resampling.BICUBIC))
    return [wide[:, step * t : step * t + size] for t in range(frames)]


def test_true_flow_takes_out_motion(tmp_path):
    clip = panning()
    flow = np.zeros((48, 48, 2), np.float32)
    flow[..., 0] = -2
    for at in range(4):
        write_flow(tmp_path / f"{at:04d}.flo", flow)
    assert np.array_equal(read_flow(tmp_path / "0000.flo"), flow)
    known = known_motion(tmp_path, 5, (48, 48))
    assert list(known) == [0, 1, 2, 3] and not known[0].seen[:, :2].any() and known[0].seen[:, 2:].all()
    motion = SourceMotion(clip, gap=2, known=known)
    assert motion.measure(clip).short == pytest.approx(0, abs=1e-6) and motion.raw(clip)[0] > 0.01
    flicker = [np.clip(frame.astype(int) + (9 if t % 2 else 0), 0, 255).astype(np.uint8) for t, frame in enumerate([f // 2 for f in clip])]
    assert motion.measure(flicker).short == pytest.approx(9 / 255, rel=0.01) and len(motion.over_time(flicker)) == 4
    half = known_motion(tmp_path, 5, (24, 24))
    assert half[0].x[0, 5] == pytest.approx(4) and half[0].y[7, 0] == 7
    hidden = np.zeros((48, 48), np.uint8)
    hidden[10] = 255
    Image.fromarray(hidden).save(tmp_path / "0001.png")
    assert not known_motion(tmp_path, 5, (48, 48))[1].seen[10].any()


def test_bad_flow_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected 4 .flo files for 5 frames, found 0; give one for each but the last"):
        known_motion(tmp_path, 5, (48, 48))
    (tmp_path / "a.flo").write_bytes(b"PIEH" + bytes(20))
    with pytest.raises(InputError, match="expected a whole .flo file, found 24 bytes that are none"):
        read_flow(tmp_path / "a.flo")


def test_raw_errors_count_hidden_pixels_and_errors_over_time_have_the_mean():
    clip, motion = panning(), SourceMotion(panning(), gap=2)
    assert motion.raw(clip)[0] > motion.measure(clip).short
    assert np.mean(motion.over_time(clip)) == pytest.approx(motion.measure(clip).short)


def test_frames_are_kept_without_loss(tmp_path):
    clip = panning(3)
    assert all(np.array_equal(a, b) for a, b in zip(read_clip(write_frames(clip, tmp_path / "x" / "a.mkv"), 1000), clip, strict=True))
    assert read_clip(tmp_path / "x" / "a.mkv", 24)[0].shape == (24, 24, 3)
    assert looks(5) == [0, 2, 4] and looks(2) == [0, 1, 1]


@pytest.fixture
def scene(tmp_path, monkeypatch):
    """Two source clips, a painting, steady and flickering results."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    for seed, name in enumerate("ab"):
        clip = panning(seed=seed)
        write_frames(clip, tmp_path / "clips" / f"{name}.mkv")
        write_frames([255 - frame for frame in clip], tmp_path / "steady" / f"{name}.mkv")
        write_frames([255 - frame // (1 + t % 2) for t, frame in enumerate(clip)], tmp_path / "flicker" / f"{name}.mkv")
    Image.fromarray(panning(seed=9)[0]).save(tmp_path / "art.png")
    return tmp_path


WORDS = ["eval", "video", "--content", "clips", "--style", "art.png", "--peers", "flicker=flicker", "--size", "48", "--gap", "2"]


def test_clips_from_end_to_end(scene, capsys):
    assert main.run([*WORDS, "--stylized", "steady", "-o", "out", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    means = found["methods"]
    assert list(means) == ["content", "style", "color", "stylized", "flicker"]
    assert means["content"]["excess-short"] == means["content"]["drift"] == means["content"]["motion"] == 0
    assert means["content"]["cf"] == pytest.approx(1, abs=1e-5) and means["style"]["ge"] == pytest.approx(1, abs=1e-3)
    assert abs(means["stylized"]["excess-short"]) < 0.05 < means["flicker"]["excess-short"]
    assert means["flicker"]["raw-short"] >= means["flicker"]["short"] > 0.1
    page = (scene / "out" / "report.html").read_text()
    assert "Warping error over time: a" in page and "Warping error over time: b" in page and not re.findall(r'(?:src|href)="(?!data:)', page)
    assert len(json.loads((scene / "out" / "report.json").read_text())["series"]["a"]["flicker"]) == 4


def test_bad_clips_are_counted(scene, capsys):
    (scene / "steady" / "a.mkv").write_bytes(b"no clip")
    write_frames(panning(4), scene / "steady" / "b.mkv")
    assert main.run([*WORDS, "--stylized", "steady", "-o", "out", "--json", "--metrics", "cf"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["methods"]["stylized"]["short"] is None and found["methods"]["flicker"]["pairs"] == 2
    assert "expected 5 frames like b.mkv, found 4; give the whole clip" in found["failed"][1]["error"]


def test_true_flow_is_taken_from_a_folder(scene, capsys):
    still = np.zeros((48, 48, 2), np.float32)
    still[..., 0] = -2
    for name in "ab":
        (scene / "flow" / name).mkdir(parents=True)
        for at in range(4):
            write_flow(scene / "flow" / name / f"{at:04d}.flo", still)
    assert main.run([*WORDS, "--stylized", "steady", "--flow", "flow", "-o", "out", "--json", "--metrics", "cf"]) == 0
    means = json.loads(capsys.readouterr().out)["methods"]
    assert means["content"]["short"] == pytest.approx(0, abs=1e-6) and means["stylized"]["short"] == pytest.approx(0, abs=1e-6)
    assert means["flicker"]["short"] > 0.1
    (scene / "flow" / "b" / "0003.flo").unlink()
    assert main.run([*WORDS, "--stylized", "steady", "--flow", "flow", "-o", "out", "--json", "--metrics", "cf", "--overwrite"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["methods"]["stylized"]["pairs"] == 1 and "expected 4 .flo files for 5 frames, found 3" in found["failed"][0]["error"]


@pytest.mark.parametrize(
    "words, message",
    [
        (["--flow", "none"], "--flow none: expected a folder with a folder of .flo files for each clip, found none; check the path"),
        (["--metrics", "artfid", "--weights", "inception=x", "--weights", "lpips=y"], "--metrics artfid: expected metrics of single pictures for clips"),
        (["--size", "8"], "--size: expected 32 or more, found 8; raise it"),
        (["--metrics", ","], "--metrics: expected names of metrics apart by commas, found none"),
    ],
)
def test_bad_requests_are_one_line(scene, capsys, words, message):
    assert main.run([*WORDS, "--stylized", "steady", "-o", "out", *words]) in (1, 2)
    assert message in " ".join(capsys.readouterr().err.split()) and not (scene / "out").exists()


def test_sizes_are_told_and_frames_too_small_for_flow_are_refused(scene, capsys):
    write_frames([frame[:40, :40] for frame in panning()], scene / "steady" / "a.mkv")
    assert main.run([*WORDS, "--stylized", "steady", "-o", "out", "--json", "--metrics", "cf"]) == 0
    assert json.loads(capsys.readouterr().out)["notes"][0].startswith("stylized: 1 of 2 results have another size than their clip; all are compared at")
    write_frames([frame[:8] for frame in panning()], scene / "flat.mkv")
    with pytest.raises(InputError, match="flat.mkv: expected frames of 12 pixels a side or more, found 48 x 8; take a larger clip"):
        read_clip(scene / "flat.mkv", 48)
