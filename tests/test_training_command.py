"""`hicast train` from end to end on the debug presets."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from hicast.cli.main import run
from hicast.io.weights import read_metadata

WEIGHTS = "diffusion_pytorch_model.safetensors"
FOLDERS = ["--content", "photos", "--style", "paintings", "--device", "cpu"]


def _train(stage: str, output: str, *more: str) -> int:
    folders = FOLDERS[2:] if "--content" in more else FOLDERS
    words = ["train", "--stage", stage, "--preset", f"debug-{stage}", *folders, "--output", output, *more]
    return run([*words, "--set", "crop=32", "--set", "tensorboard=false"])


def _tensors(folder: str) -> dict[str, dict[str, bytes]]:
    """The bytes of every tensor, by component and name."""
    return {
        path.parent.name: {name: value.numpy().tobytes() for name, value in load_file(path).items()}
        for path in Path(folder).glob(f"*/{WEIGHTS}")
    }


def _pixels(path: str) -> bytes:
    return Image.open(path).tobytes()


def _film(path: Path) -> None:
    """A second of noise, 64 x 64."""
    path.parent.mkdir()
    random = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=12)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(12):
            picture = random.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture
def trained(workplace, capsys):
    """Results of both stages after two steps each, the image stage from the autoencoder; and what was printed."""
    assert _train("autoencoder", "ae", "--set", "steps=2") == 0
    assert _train("image", "image", "--from", "ae", "--set", "steps=2", "--set", "sheet_every=2") == 0
    return capsys.readouterr()


def test_two_steps_of_each_stage_give_a_model_that_stylizes(trained, workplace, capsys):
    assert trained.out.splitlines() == ["ae", "image"]
    assert "left out" not in trained.err
    assert "step 2/2" in trained.err and "\x1b" not in trained.err and "\r" not in trained.err
    assert {path.name for path in Path("image").iterdir() if path.is_dir()} == {
        "cache", "checkpoints", "content_projection", "scheduler", "sheets", "style_encoder", "unet", "vae"
    }  # fmt: skip
    about = read_metadata(Path("image/unet") / WEIGHTS)
    assert (about["component"], about["stage"], about["base"], about["step"]) == ("unet", "image", "ae", "2")
    assert json.loads(about["training"])["batch_size"] == 4 and about["format_version"] == "1" and about["format"] == "pt"
    assert run(["stylize-image", "photo.jpg", "--style", "painting.jpg", "--model", "image", "--size", "64", "--steps", "1", "-o", "r.png"]) == 0
    capsys.readouterr()

    assert _train("image", "again", "--from", "image", "--set", "unet.block_out_channels=[16,16,24]") == 1
    assert "expected a unet with block_out_channels [16, 16, 24] (found [16, 16, 16])" in capsys.readouterr().err
    assert run(["train", "--stage", "image", *FOLDERS, "--from", "ae", "--output", "again"]) == 1
    assert "expected a vae with latent_channels 24 (found 8), as the U-Net of model compact needs" in capsys.readouterr().err
    assert _train("image", "again", "--from", "photos") == 1
    assert "expected the result of the stage autoencoder or image to begin the stage image with" in capsys.readouterr().err
    assert _train("image", "image", "--from", "ae", "--set", "steps=3", "--set", "ema=0.5") == 2
    assert "other settings for ema (0.995 there, 0.5 here), steps (2 there, 3 here)" in capsys.readouterr().err


def test_two_steps_of_an_adapter_with_and_without_a_base(workplace, capsys):
    assert _train("adapter", "whole", "--set", "steps=2", "--set", "sheet_every=2") == 0
    two = ["--set", "steps=2", "--set", "sheet_every=0"]
    assert _train("adapter", "runs/edge", "--control", "edge", "--from", "whole", "--set", "seed=1", *two) == 0
    assert _train("adapter", "runs/on", "--from", "runs/edge", "--set", "learning_rate=1e-9", *two) == 0
    assert capsys.readouterr().out.splitlines() == ["whole", "runs/edge", "runs/on"]
    assert (Path("whole") / "sheets" / "step-00000002.png").is_file() and (Path("whole") / "unet").is_dir()
    assert {path.name for path in Path("runs/on").iterdir() if path.is_dir()} == {"adapters", "cache", "checkpoints"}
    assert json.loads(Path("runs/on/model_index.json").read_text())["base"] == "../../whole"
    first, second, third = (load_file(Path(folder) / "adapters" / "edge" / WEIGHTS) for folder in ("whole", "runs/edge", "runs/on"))
    assert all(value.isfinite().all() for value in second.values())
    assert any((first[name] != second[name]).any() for name in first)
    assert all((second[name] - third[name]).abs().max() < 1e-6 for name in second)
    words = ["stylize-image", "photo.jpg", "--style", "painting.jpg", "--model", "runs/edge", "--size", "64", "--steps", "1"]
    assert run([*words, "-o", "r.png"]) == 0
    Path("whole").rename("elsewhere")
    shutil.copytree("elsewhere", "other")
    net = load_file(Path("other") / "unet" / WEIGHTS)
    save_file(net | {"conv_out.bias": net["conv_out.bias"] + 1}, Path("other") / "unet" / WEIGHTS)
    capsys.readouterr()

    assert run([*words, "-o", "again.png"]) == 1
    assert "expected its base in 'runs/edge/../../whole', found no model there; move it back" in capsys.readouterr().err
    assert _train("adapter", "runs/edge", "--control", "edge", "--from", "other", "--set", "seed=1", *two) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "hicast: the run in runs/edge began with other weights of the net: use these again, another --output, or --no-resume"
    )
    Path("photos").rename("pictures")
    assert _train("adapter", "runs/edge", "--control", "edge", "--content", "pictures", "--from", "elsewhere", "--set", "seed=1", *two) == 0
    Path("pictures").rename("photos")
    capsys.readouterr()
    assert _train("adapter", "new", "--from", "elsewhere", "--set", "adapter.channels=[16,16,8]", *two) == 1
    assert "adapter 'edge': expected levels of widths (16, 16, 16), found (16, 16, 8, 8)" in capsys.readouterr().err
    assert _train("adapter", "new", "--from", "elsewhere", "--set", "adapter.chanels=3", *two) == 2
    assert "adapter: expected a configuration of T2IAdapter, found:" in capsys.readouterr().err
    assert _train("adapter", "new", "--from", "photos", *two) == 1
    assert "--from photos: expected the result of the stage image or adapter to begin the stage adapter with" in capsys.readouterr().err
    assert run(["train", "--stage", "image", "--preset", "debug-image", *FOLDERS, "--from", "runs/edge", "--output", "new"]) == 1
    assert "expected the result of the stage autoencoder or image to begin the stage image with" in capsys.readouterr().err


def test_two_steps_of_the_temporal_stage_refer_to_their_base(trained, workplace, capsys):
    settings = ["--set", "steps=2", "--set", "frames=3", "--set", "sheet_every=2"]
    assert _train("temporal", "runs/temporal", "--from", "image", *settings) == 0
    assert "step 2/2" in capsys.readouterr().err
    written = {path.name for path in Path("runs/temporal").iterdir()}
    assert written == {"cache", "checkpoints", "model_index.json", "sheets", "temporal"}
    assert json.loads(Path("runs/temporal/model_index.json").read_text())["base"] == "../../image"
    assert read_metadata(Path("runs/temporal/temporal") / WEIGHTS)["base"] == "image"
    words = ["photo.jpg", "--style", "painting.jpg", "--size", "64", "--steps", "1"]
    assert run(["stylize-image", *words, "--model", "image", "-o", "base.png"]) == 0
    assert run(["stylize-image", *words, "--model", "runs/temporal", "-o", "own.png"]) == 0
    assert _pixels("base.png") == _pixels("own.png")
    capsys.readouterr()
    assert _train("temporal", "again", "--from", "ae", *settings) == 1
    assert "--from ae: expected the result of the stage image or temporal to begin the stage temporal with" in capsys.readouterr().err


def test_temporal_stage_needs_clips_or_pictures_and_no_earlier_result(workplace, capsys):
    assert run(["train", "--stage", "temporal", "--style", "paintings", "--output", "out"]) == 2
    assert "expected --video or --content, found none" in capsys.readouterr().err
    assert run(["train", "--stage", "temporal", "--video", "photos", "--style", "paintings", "--output", "out"]) == 1
    assert "below photos, found none of them" in capsys.readouterr().err and not Path("out").exists()
    _film(Path("films") / "film.mp4")
    words = ["--preset", "debug-temporal", "--video", "films", "--style", "paintings", "--output", "whole", "--device", "cpu"]
    assert run(["train", "--stage", "temporal", *words, "--set", "steps=1", "--set", "frames=3", "--set", "tensorboard=false"]) == 0
    assert {path.name for path in Path("whole").iterdir()} >= {"temporal", "unet", "vae", "style_encoder"}


@pytest.mark.parametrize("stage, earlier", [("autoencoder", "autoencoder or image"), ("image", "autoencoder or image"),
                                            ("adapter", "image or adapter"), ("temporal", "image or temporal")])  # fmt: skip
def test_start_that_is_not_there_says_what_is_expected(workplace, monkeypatch, capsys, stage, earlier):
    monkeypatch.setenv("HICAST_MODELS", str(workplace / "models"))
    assert _train(stage, "out", "--from", "runs/imag") == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"hicast: --from runs/imag: expected the result of the stage {earlier} to begin the stage {stage} with, found no folder there; "
        "check the path, or take compact"
    )
    assert not Path("out").exists()


@pytest.fixture
def calm(workplace) -> list[str]:
    """A command of six steps that a subprocess can run: `-m hicast.cli` and its words, without the output folder."""
    settings = ["--set", "steps=6", "--set", "checkpoint_every=2", "--set", "tensorboard=false", "--set", "sheet_every=0"]
    return ["-m", "hicast.cli", "train", "--stage", "image", "--preset", "debug-image", *FOLDERS, *settings]


@pytest.mark.slow
def test_killed_command_given_again_ends_bit_identical(calm):
    subprocess.run([sys.executable, *calm, "--output", "whole"], check=True, capture_output=True)
    child = subprocess.Popen([sys.executable, *calm, "--output", "parts"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(Path("parts").glob("checkpoints/step-*")):
        time.sleep(0.01)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    done = subprocess.run([sys.executable, *calm, "--output", "parts"], check=True, capture_output=True, text=True)
    assert "step 6 of 6" in done.stderr
    whole, parts = _tensors("whole"), _tensors("parts")
    assert len(whole) == 4 and whole == parts


@pytest.mark.slow
def test_terminated_command_saves_and_leaves_with_143(calm):
    child = subprocess.Popen([sys.executable, *calm, "--set", "steps=100000", "--output", "parts"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(Path("parts").glob("checkpoints/step-*")):
        time.sleep(0.01)
    child.terminate()
    assert child.wait() == 143
    assert not list(Path("parts").glob("checkpoints/.*"))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["autoencoder", "image", "adapter", "temporal"])
def test_two_processes_have_the_loss_curve_of_one(workplace, stage):
    words = ["-m", "hicast.cli", "train", "--stage", stage, "--preset", f"debug-{stage}", *FOLDERS]
    words += ["--set", "log_every=1", "--set", "sheet_every=0", "--set", "tensorboard=false"]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    curves = []
    for start, output in (([], "one"), (launch, "two")):
        done = subprocess.run([sys.executable, *start, *words, "--output", output], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == [output]
        curves.append([json.loads(line)["loss"] for line in (Path(output) / "log.jsonl").read_text().splitlines()])
    assert len(curves[0]) == len(curves[1]) == 20
    assert curves[1] == pytest.approx(curves[0], rel=1e-3)
    assert _tensors("one").keys() == _tensors("two").keys()


@pytest.mark.slow
def test_benchmark_runs_and_its_figures_fit_together(workplace, tmp_path):
    script = Path(__file__).parents[1] / "benchmarks" / "training.py"
    words = ["--preset", "debug-{stage}", "--steps", "2", "--blocks", "1", "--threads", "1", "--json", str(tmp_path / "out.json")]
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out.json").read_text())
    assert [(row["stage"], row["processes"]) for row in rows] == [(stage, number) for stage in ("autoencoder", "image", "adapter", "temporal") for number in (1, 2)]
    assert all(row["samples_per_second"] > 0 and 0 < row["share_in_nets"] < 2 for row in rows)  # two steps tell no more
    assert all(2**27 < row["peak_bytes"] < 1.3 * row["expected_bytes"] for row in rows)
    assert len(done.stdout.splitlines()) == 2 + len(rows)
