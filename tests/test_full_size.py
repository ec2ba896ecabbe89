"""Stable Diffusion's true size with random weights on a CPU of 24 GiB: one step of each stage (the same script also on a tiny net), and a published folder."""

import json
import resource
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

GIB = 2**30
SCRIPT = Path(__file__).with_name("full_size_step.py")
STAGES = ("image", "adapter", "temporal")


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_one_step_fits_into_22_gib(workplace, stage):
    done = subprocess.run([sys.executable, SCRIPT, stage, "sd15"], capture_output=True, text=True, cwd=Path())
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    peak = found["peak"]
    print(f"{stage}: peak {peak / GIB:.1f} GiB, expected {found['expected'] / GIB:.1f} GiB")
    assert found["values"]["loss"] > 0 and peak < 22 * GIB
    assert peak < 1.15 * found["expected"]


@pytest.mark.parametrize("stage", STAGES)
def test_the_same_script_runs_on_a_tiny_net(workplace, stage):
    found = runpy.run_path(str(SCRIPT))["run"](stage, "debug", 64)
    assert found["values"]["loss"] > 0 and found["values"]["norm"] > 0
    assert found["expected"] > GIB


TRUE_WIDTH = 1.0


@pytest.mark.slow
def test_a_published_folder_of_true_size_converts_and_stylizes(workplace, published_layout, capsys):
    """Some 8 GiB on the disk; one step, 128 pixels, 3 frames."""
    from hicast.cli.main import run

    published_layout.write_random(workplace / "in", TRUE_WIDTH)
    assert run(["models", "convert", "in", "-o", "own", "--json"]) == 0, capsys.readouterr().err
    report = json.loads(capsys.readouterr().out)
    assert [row["read"] for row in report["tensors"]] == [729, 38, 947]
    assert report["bytes_after"] < 0.35 * report["bytes_before"]
    assert run(["models", "verify", "own", "-q"]) == 0
    capsys.readouterr()
    assert run(["models", "info", "own", "--json"]) == 0
    values = {part["part"]: part["values"] for part in json.loads(capsys.readouterr().out)["parts"]}
    if TRUE_WIDTH == 1:
        assert values["adapters/edge"] == 77_369_280
        assert values["unet"] + values["content_projection"] + 14_714_688 + 2944 == 879_678_709 - (320 * 4 * 9 + 320) - 6
    words = ["--style", "painting.jpg", "--model", "own", "--size", "128", "--steps", "1"]
    assert run(["stylize-image", "photo.jpg", *words, "-o", "r.png"]) == 0, capsys.readouterr().err
    assert run(["stylize-video", "clip.mp4", *words, "--window", "3", "--overlap", "0", "--preview", "0.12", "-o", "r.mp4"]) == 0, capsys.readouterr().err
    assert Path("r.png").stat().st_size and Path("r.mp4").stat().st_size
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")
