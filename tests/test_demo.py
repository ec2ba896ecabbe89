"""The demo, the batch script and the library example, each run as a user would, with the model that ships."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]

def _run(words: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=300)


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"), dtype=float)


def _outlines(pixels: np.ndarray) -> np.ndarray:
    """Magnitude of the gradient of grey, (height, width)."""
    return np.hypot(*np.gradient(pixels.mean(axis=2)))


def test_the_demo_paints_the_photo(workplace):
    (line,) = re.findall(r"^\t\$\(BIN\)/(hicast .*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    words = shlex.split(line)
    shutil.copytree(ROOT / "examples", workplace / "examples")
    done = _run(words, workplace)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == words[words.index("--output") + 1]
    photo, painting = _pixels(workplace / words[2]), _pixels(workplace / words[words.index("--style") + 1])
    result = _pixels(workplace / done.stdout.strip())
    assert result.shape == photo.shape and np.abs(result - photo).mean() > 10
    before, after = (np.abs(image.mean((0, 1)) - painting.mean((0, 1))).sum() for image in (photo, result))
    assert after < 0.7 * before
    assert np.corrcoef(_outlines(photo).ravel(), _outlines(result).ravel())[0, 1] > 0.2


def test_the_batch_script_goes_on_after_a_bad_painting(workplace):
    (workplace / "paintings" / "broken.png").write_bytes(b"no picture")
    words = ["sh", str(ROOT / "examples" / "batch.sh"), "photos", "paintings", "results", "--preset", "draft", "--size", "64"]
    done = _run(words, workplace)
    assert done.returncode == 1 and "broken.png" in done.stderr
    assert done.stdout.splitlines() == ["results/red/first.png", "results/red/second.jpg"], done.stderr
    assert _pixels(workplace / "results/red/first.png").shape == (64, 96, 3)


def test_the_batch_script_has_ten_lines():
    assert len((ROOT / "examples" / "batch.sh").read_text().splitlines()) == 10


def test_the_library_example_runs(workplace):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    exec(compile(code, "<README>", "exec"), {})
    assert _pixels(workplace / "library.png").shape == (64, 96, 3)
