"""Pages opened in a browser without a head: pictures are there, scripts run, and the console stays empty."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from hicast.cli import main

BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome", "chrome") if (path := shutil.which(name))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome at hand")]

PROBE = """<script>
window.addEventListener('load',()=>{PLAY
setTimeout(()=>{const images=[...document.images].filter(i=>i.getAttribute('src'));
document.title=JSON.stringify({images:images.length,broken:images.filter(i=>!i.naturalWidth).length,SHOWN});},500);});</script>"""


@pytest.fixture
def scene(tmp_path, monkeypatch):
    """Two photos, a painting and results."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    for seed, name in enumerate(("photos/a", "photos/b", "ours/a", "ours/b", "art")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        colors = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(colors).resize((64, 48), Image.Resampling.BICUBIC).save(tmp_path / f"{name}.png")
    return tmp_path


def opened(page, play: str, shown: str) -> tuple[dict, str]:
    """What the page says of itself after `play`, and the browser's log of its console."""
    text = page.read_text().replace("</body>", PROBE.replace("PLAY", play).replace("SHOWN", shown) + "</body>")
    (page.parent / "probed.html").write_text(text)
    words = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0", "--virtual-time-budget=8000",
             f"--user-data-dir={page.parent / 'profile'}", "--dump-dom", (page.parent / "probed.html").as_uri()]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, timeout=240)
    title = re.search(r"<title>(\{.*?\})</title>", done.stdout)
    assert title, done.stderr[-2000:]
    return json.loads(title[1]), "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


def test_the_report_opens(scene, capsys):
    words = ["--content", "photos", "--style", "art.png", "--stylized", "ours", "--size", "48", "--metrics", "cf,ge,lp,qs3"]
    assert main.run(["eval", "images", *words, "-o", "out"]) == 0
    play = "range.value=20;range.oninput();"
    shown = "clip:document.getElementById('over').style.clipPath,under:document.getElementById('under').src.slice(0,10)"
    found, console = opened(scene / "out" / "report.html", play, shown)
    assert found == {"images": 8, "broken": 0, "clip": "inset(0px 0px 0px 20%)", "under": "data:image"} and console == ""


def test_a_study_is_answered(scene, capsys):
    words = ["--content", "photos", "--style", "art.png", "--stylized", "ours", "--peers", "same=photos"]
    assert main.run(["eval", "study", *words, "-o", "study"]) == 0
    play = "el('rater').value='ann';begin();for(let k=0;k<2;k++)rate(1+k);"
    found, console = opened(scene / "study" / "study.html", play, "given:Object.keys(answers).length,over:!el('end').hidden")
    assert found["given"] == 2 and not found["over"] and console == ""
    play = "el('rater').value='ann';begin();for(let k=2;k<4;k++)rate(1+k);"  # the same rater goes on
    found, console = opened(scene / "study" / "study.html", play, "given:Object.values(answers),over:!el('end').hidden,seen:new Set(order).size")
    assert sorted(found["given"]) == [1, 2, 3, 4] and found["over"] and found["seen"] == 4 and found["broken"] == 0 and console == ""
