"""Stable Diffusion's true size with random weights: one step of each stage on a CPU of 24 GiB, and the same script on a tiny net."""

import json
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
