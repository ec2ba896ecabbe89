"""The house: imports go one way, and answering help loads nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ORDER = (
    ("errors",), ("config",), ("io",), ("encoders",), ("controls", "diffusion", "losses"),
    ("models",), ("engines",), ("repainting",), ("pipeline",), ("evaluation",), ("training",), ("cli",),
)  # fmt: skip
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
FILES = sorted(path for folder in ("hicast", "cli") for path in (ROOT / folder).rglob("*.py"))
HEAVY = ("torch", "diffusers", "transformers", "av", "cv2", "openvino")


def _room(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0] if parts[0] == "cli" else parts[1]


def _imports(path: Path) -> set[str]:
    """Modules of hicast that a file names in `import` statements, wherever they stand."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found |= {f"{module}.{alias.name}" if module == "hicast" else module for alias in node.names}
    return {name for name in found if name.startswith(("hicast.", "."))}


def _fault(room: str, name: str) -> str | None:
    """Why a file of `room` must not import `name`, or None where it may."""
    if name.startswith("."):
        return None if room == "cli" else "relative imports are for cli"
    target = name.split(".")[1]
    if target == "__version__" or (target == room != "cli"):
        return None
    if target not in RANK:
        return "no room of that name"
    if target == "cli":
        return "nothing imports cli, and its files import each other relatively"
    return None if RANK[target] < RANK[room] else "against the direction"


@pytest.mark.parametrize(
    "room, name, allowed",
    [
        ("models", "hicast.io.images", True),
        ("io", "hicast.models.unet", False),
        ("losses", "hicast.diffusion.guidance", False),
        ("training", "hicast.cli.main", False),
        ("cli", "hicast.cli.options", False),
        ("cli", ".options", True),
    ],
)
def test_the_rule_itself(room, name, allowed):
    assert (_fault(room, name) is None) == allowed


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    if path == ROOT / "hicast" / "__init__.py":
        assert not _imports(path)
        return
    faults = {name: _fault(_room(path), name) for name in _imports(path)}
    assert {name: fault for name, fault in faults.items() if fault} == {}


def test_only_config_reads_presets():
    readers = {_room(path) for path in FILES if "hicast.presets" in path.read_text(encoding="utf-8")}
    assert readers <= {"config"}


def test_the_engine_neither_prints_nor_parses_arguments():
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
        if _room(path) != "cli":
            assert "print" not in calls, path


@pytest.mark.parametrize(
    "words",
    [["--help"], ["--version"], ["stylize-image", "--help"], ["eval", "images", "--help"], ["bench", "--help"], ["presets", "list"]],
    ids=" ".join,
)
def test_answers_come_without_torch(words, tmp_path):
    code = (
        "import sys\nfrom hicast.cli.main import run\n"
        f"code = run({words!r})\nassert code == 0, code\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]\nassert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
