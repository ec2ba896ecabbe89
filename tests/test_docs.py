"""The documentation: every command stands in it, and its command lines, settings, links and names are those of the code."""

import re
import shlex
import sys
from contextlib import ExitStack, redirect_stdout
from io import BytesIO, TextIOWrapper
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from hicast import __version__
from hicast.cli import main
from hicast.config.presets import list_presets
from hicast.config.stylize import load_style_preset, resolve_stylize, stylize_layers
from hicast.config.train_layers import resolve_training
from hicast.training.run import STAGES

ROOT = Path(__file__).resolve().parents[1]
README, CARD, NOTICE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "MODEL_CARD.md", "NOTICE"))
PICTURES = (".jpg", ".png", ".webp")
COMPLETION = ("--install-completion", "--show-completion")


def _blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def _command_lines(text: str) -> list[str]:
    """Lines of shell blocks that begin with `hicast`, continued ones joined, in their order."""
    lines = "".join(_blocks(text, "sh")).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("hicast ")]


def _inline_code(text: str) -> list[str]:
    """Code in running text and tables."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def _inline_lines(text: str) -> list[str]:
    """Commands with arguments in running text."""
    names = {f"hicast {' '.join(command.words)}" for command in main.COMMANDS}
    return [code for code in _inline_code(text) if code.startswith("hicast ") and code not in names]


def _help(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main.run([*words, "--help"]) == 0
    return capsys.readouterr().out


def _run_line(line: str) -> int:
    """Exit code of a command line, `<` and `>` included."""
    words = shlex.split(line, comments=True)[1:]
    places = {sign: Path(words[words.index(sign) + 1]) for sign in "<>" if sign in words}
    end = min(words.index(sign) for sign in places) if places else len(words)
    with ExitStack() as stack:
        if "<" in places:
            stack.enter_context(pytest.MonkeyPatch.context()).setattr(sys, "stdin", TextIOWrapper(BytesIO(places["<"].read_bytes())))
        if ">" in places:
            stack.enter_context(redirect_stdout(stack.enter_context(places[">"].open("w"))))
        return main.run(words[:end])


@pytest.fixture
def stand_ins(workplace, monkeypatch) -> None:
    """In place of the nets: a pipeline that returns its content, and a training run that is over at once."""
    net = torch.nn.Identity()
    pipeline = SimpleNamespace(
        model=net, autoencoder=net, style_encoder=net,
        defaults={"steps": 1}, encode_style=lambda styles: styles, stylize_image=lambda content, styles, **settings: content,
        adapters=SimpleNamespace(names=("edge", "depth", "seg"), adapters=dict.fromkeys(("edge", "depth", "seg"), net)), about={}, device=torch.device("cpu"), dtype=torch.float32, temporal=None,
        prepare=lambda content, styles, **settings: SimpleNamespace(content=content, features={}),
        paint=lambda scene, look, **settings: scene.content, looks_back=False, engine="torch", stylize_video=lambda frames, styles, **settings: frames,
    )  # fmt: skip
    module = ModuleType("hicast.pipeline")
    module.HiCastPipeline = SimpleNamespace(from_pretrained=lambda name, **settings: pipeline)
    monkeypatch.setitem(sys.modules, "hicast.pipeline", module)
    (workplace / "runs").mkdir()
    outcome = SimpleNamespace(folder=Path("runs/image"), step=1, finished=True)
    monkeypatch.setattr("hicast.cli.train._run", lambda *request: outcome)
    for name in ("_pull", "_convert", "_write_whole", "_verified", "_target"):
        monkeypatch.setattr(f"hicast.cli.models_cmd.{name}", lambda *request: None)
    monkeypatch.setattr("hicast.io.published_folder.find_published", lambda *request: None)
    (workplace / "models" / "sd15").mkdir(parents=True)
    (workplace / "models" / "sd15" / "model_index.json").write_text("{}")
    monkeypatch.setenv("HICAST_MODELS", str(workplace / "models"))
    (workplace / "CONTENT").symlink_to("photos")
    (workplace / "hicast.yaml").write_text(_blocks(README, "yaml")[-1])


@pytest.mark.parametrize("command", main.COMMANDS, ids=lambda command: " ".join(command.words))
def test_every_command_has_help_with_an_example_and_stands_in_the_readme(command, capsys):
    text = _help(capsys, *command.words)
    assert f"Example: {command.example}" in " ".join(text.split())
    assert command.function.__doc__.splitlines()[0].rstrip(".").split(";")[0] in " ".join(text.split())
    start = f"hicast {' '.join(command.words)}"
    assert any(line == start or line.startswith(f"{start} ") for line in _command_lines(README))


@pytest.mark.parametrize("text", [README, CARD], ids=["README", "MODEL_CARD"])
def test_every_command_line_runs_in_its_order(text, stand_ins, capsys):
    lines = [*_command_lines(text), *(line for line in _inline_lines(text) if not line.endswith(COMPLETION))]
    assert lines
    for line in lines:
        assert _run_line(line) == 0, f"{line}\n{capsys.readouterr().err}"


def test_a_wrong_line_would_be_found(stand_ins, capsys):
    assert _run_line("hicast stylize-image photo.jpg --styles painting.jpg") == 2
    assert _run_line("hicast train --stage image --preset no-such --content photos --style paintings --output runs/image") == 2


def test_options_in_the_readme_exist(capsys):
    known = re.findall(r"--[a-z-]+", "".join(_help(capsys, *command.words) for command in main.COMMANDS) + _help(capsys))
    named = re.findall(r"--[a-z-]+", " ".join(_inline_code(README)))
    assert set(COMPLETION) <= set(named) <= set(known)


def test_the_table_of_presets_is_that_of_the_package():
    rows = re.findall(r"^\| `([\w-]+)` \| ([\d.]+) \|", README, flags=re.MULTILINE)
    assert {name: float(scale) for name, scale in rows} == {name: load_style_preset(name)["style_scale"] for name in list_presets()}


def test_yaml_in_the_readme_is_valid(workplace):
    look, settings, training = _blocks(README, "yaml")
    (workplace / "look.yaml").write_text(look)
    (workplace / "hicast.yaml").write_text(settings)
    _, layers = stylize_layers("stylize-image", "look.yaml")
    resolved = resolve_stylize(layers)
    assert (resolved.style_scale, resolved.size, resolved.device) == (1.2, 512, "cpu")
    (workplace / "hicast.yaml").write_text(training)
    settings = resolve_training("image", {name: kind.settings for name, kind in STAGES.items()})
    assert (settings.content, settings.output, settings.model) == ((Path("photos"),), Path("runs/short"), "debug")


@pytest.mark.parametrize("text", [README, CARD], ids=["README", "MODEL_CARD"])
def test_links_lead_somewhere(text):
    places = {link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("http")}
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    anchors = {"#" + re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}
    assert sorted(place for place in places if place not in anchors and not (ROOT / place).exists()) == []


def test_every_example_picture_is_credited_and_small():
    pictures = [path for path in (ROOT / "examples").iterdir() if path.suffix in PICTURES]
    assert [path.name for path in pictures if path.name not in NOTICE] == []
    assert sum(path.stat().st_size for path in pictures) <= 1.5e6


def test_the_changelog_knows_this_version():
    assert f"\n## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
