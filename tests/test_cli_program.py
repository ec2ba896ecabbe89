"""The program as a whole: help for every command, version, completion, threads, signals."""

import os
import signal
import subprocess
import sys

import pytest

from hicast import __version__
from hicast.cli import main


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """An empty working folder, no settings of the user."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.chdir(tmp_path)


def _run(capsys, *words: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    code = main.run(list(words))
    return code, *capsys.readouterr()


HELP = [(), ("presets",), *(command.words for command in main.COMMANDS)]


@pytest.mark.parametrize("words", HELP, ids=lambda words: " ".join(words) or "hicast")
def test_every_command_has_help_with_an_example_that_parses(words, capsys):
    code, out, err = _run(capsys, *words, "--help")
    text = " ".join(out.split())
    assert code == 0 and err == "" and f"Example: hicast {' '.join(words)}" in text
    assert all(option in text for option in (("--json", "--quiet", "--verbose") if words and words != ("presets",) else ()))


def test_version_and_no_command(capsys):
    assert _run(capsys, "--version") == (0, f"hicast {__version__}\n", "")
    assert "stylize-image" in _run(capsys)[1]


@pytest.mark.parametrize(
    "words, line",
    [
        (("stylize-image", "a.png", "--style-scale", "abc"), "--style-scale: expected a number, found abc; see --help"),
        (("stylize-image", "a.png", "--steps", "1.5"), "--steps: expected a whole number, found 1.5; see --help"),
        (("extract-controls", "a.png", "--controls", "edge", "-o", "maps", "--size", "0"), "--size: expected a number of at least 32, found 0; see --help"),
        (("models", "pull", "slow"), "MODEL: expected one of fast, found slow; see --help"),
        (("presets",), "hicast presets: expected a command after it, found none; known: list, show, copy (see hicast presets --help)"),
        (("stylize-image", "a.png", "--stepss", "4"), "No such option: --stepss (Possible options: --steps, --style, --sweep); see --help"),
    ],
)
def test_what_the_parser_refuses_is_said_like_all_else(words, line, capsys):
    assert _run(capsys, *words) == (2, "", f"hicast: {line}\n")


def test_threads_wait_quietly_unless_the_user_says_otherwise():
    code = (
        "import os, sys; from hicast.cli.main import app\n"
        "try: app(['--version'])\nexcept SystemExit as end: assert end.code == 0\n"
        "assert 'torch' not in sys.modules; print(os.environ['OMP_WAIT_POLICY'], os.environ['GOMP_SPINCOUNT'])"
    )
    environment = {key: value for key, value in os.environ.items() if key not in main.WAITING} | {"GOMP_SPINCOUNT": "5"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "PASSIVE 5", done.stderr


def test_sigterm_leaves_with_143():
    code = (
        "import os, signal; from hicast.cli import main\n"
        "def run(words):\n    try: os.kill(os.getpid(), signal.SIGTERM)\n    finally: print('cleaned')\n"
        "main.run = run; main.app([])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGTERM, "cleaned\n", "")


def test_shell_completion_is_offered():
    environment = {**os.environ, "_HICAST_COMPLETE": "complete_bash", "COMP_WORDS": "hicast sty", "COMP_CWORD": "1"}
    done = subprocess.run([sys.executable, "-m", "hicast.cli"], env=environment, capture_output=True, text=True)
    assert "stylize-image" in done.stdout, done.stderr
