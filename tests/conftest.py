"""What tests share: threads that sleep while they wait, and a folder with the files that the documentation names."""

import os
import sysconfig
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    """The working folder, with the small files that the documentation names; no settings of the user, `hicast` on the path."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    scripts = sysconfig.get_path("scripts")
    monkeypatch.setenv("PATH", f"{scripts}{os.pathsep}{os.environ['PATH']}")
    folder = tmp_path / "work"
    monkeypatch.chdir(_filled(folder))
    return folder


def _filled(folder: Path) -> Path:
    """`folder` with photos and paintings of a few pixels."""
    for subfolder in ("photos", "paintings"):
        (folder / subfolder).mkdir(parents=True)
    names = ("photo.jpg", "painting.jpg", "other.jpg", "photos/first.png", "photos/second.jpg", "paintings/red.png")
    for seed, name in enumerate(names):
        _blocks(seed).save(folder / name)
    return folder


def _blocks(seed: int) -> Image.Image:
    """A picture of 96 x 64 pixels, in blocks of random colours."""
    colors = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(colors).resize((96, 64), Image.Resampling.NEAREST)
