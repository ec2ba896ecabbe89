"""Packaging: the package list is complete, and a wheel and an editable install work, built without isolation."""

import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]


def test_package_list_equals_the_folders_with_init():
    places = {"hicast": ROOT / "hicast", "hicast.cli": ROOT / "cli", "hicast.presets": ROOT / "presets"}
    found = {
        ".".join((name, *file.parent.relative_to(folder).parts)) for name, folder in places.items() for file in folder.rglob("__init__.py")
    }
    assert sorted(SETUPTOOLS["packages"]) == sorted(found)


def test_mapped_folders_stand_at_the_top_only():
    assert SETUPTOOLS["package-dir"] == {"hicast.cli": "cli", "hicast.presets": "presets"}
    assert not (ROOT / "hicast" / "cli").exists() and not (ROOT / "hicast" / "presets").exists()


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of all that a build reads, without the large weights."""
    folder = tmp_path_factory.mktemp("source")
    ignore = shutil.ignore_patterns("__pycache__", "*.safetensors", "*.net")
    for name in ("hicast", "cli", "presets"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in ("pyproject.toml", PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]):
        shutil.copy(ROOT / name, folder / name)
    converted = folder / "hicast" / "weights" / "compact" / ".compiled" / "unet.net"
    converted.parent.mkdir(exist_ok=True)
    converted.touch()
    return folder


def _build(source: Path, hook: str, target: Path) -> Path:
    """What a build hook makes (PEP 517, 660), unpacked into `target`."""
    code = f"import sys; from setuptools import build_meta; build_meta.{hook}(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(target)], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = target.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target / "site")
    return target / "site"


def _run_from(site: Path, cwd: Path) -> list[str]:
    """Lines of `presets show bold` and the place of the code, with `site` in use and no other install of hicast."""
    code = (
        "import site, sys; site.addsitedir(sys.argv[1]); sys.meta_path.insert(0, sys.meta_path.pop())\n"
        "sys.path.append(sys.argv[2])\n"
        "import hicast.cli.main as main; print(main.__file__); sys.exit(main.run(['presets', 'show', 'bold']))"
    )
    words = [sys.executable, "-I", "-S", "-c", code, str(site), sysconfig.get_paths()["purelib"]]
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def test_wheel(source, tmp_path):
    site = _build(source, "build_wheel", tmp_path)
    assert PROJECT["project"]["scripts"] == {"hicast": "hicast.cli.main:app"}
    (scripts,) = site.glob("hicast-*.dist-info/entry_points.txt")
    assert "hicast = hicast.cli.main:app" in scripts.read_text()
    assert list(site.rglob("model_index.json")) and list(site.rglob("weights/compact/hashes.json")) and not list(site.rglob("*.net"))
    shipped = {str(path.relative_to(source)) for path in (source / "presets").rglob("*.yaml")}
    assert shipped == {str(path.relative_to(site / "hicast")) for path in (site / "hicast" / "presets").rglob("*.yaml")}
    place, *lines = _run_from(site, tmp_path)
    assert Path(place) == site / "hicast" / "cli" / "main.py" and "style_scale: 1.15" in lines


def test_editable(source, tmp_path):
    place, *lines = _run_from(_build(source, "build_editable", tmp_path), tmp_path)
    assert Path(place) == source / "cli" / "main.py" and "style_scale: 1.15" in lines
