"""Stable Diffusion's true size with random weights, on a CPU of 24 GiB: one step of the image stage, and a published folder on its way to results."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

GIB = 2**30

STEP = """
import json, sys, torch
from pathlib import Path
from hicast.config.model import ModelConfig
from hicast.config.presets import load_preset
from hicast.config.train import ImageTraining
from hicast.encoders.style import StyleEncoder
from hicast.models.build import build_model
from hicast.pipeline import HiCastPipeline
from hicast.training.memory import count, expected
from hicast.training.noise_stage import NoiseStage
from hicast.training.outlines import outline_image
from hicast.training.processes import batch_parts, open_accelerator
from hicast.training.trainer import Trainer
from diffusers import AutoencoderKL

config = ModelConfig(**load_preset("sd15", "models"))
preset = {key: value for key, value in load_preset("sd15-image", "train").items() if key != "stage"}
settings = ImageTraining(**preset | {"batch_size": 1, "crop": 256, "content": "photos", "style": "paintings", "base": "stock", "readers": 1, "cache_gigabytes": 0.25})
pipeline = HiCastPipeline(build_model(config), AutoencoderKL(**config.autoencoder), StyleEncoder(**config.style_encoder), config.scheduler,
                          context=torch.randn(1, 77, 768))
stage = NoiseStage(settings, settings.content, settings.style, pipeline, Path("styles.safetensors"))
accelerator = open_accelerator("cpu")
trainer = Trainer(stage, accelerator)
values, _ = trainer.advance([stage.batch(0, rows) for rows in batch_parts(settings, 1, 0)], 0)
parts = expected(settings, count(outline_image(settings)), {"content": 2, "style": 1}, torch.device("cpu"))
print(json.dumps({"values": values, "expected": sum(parts.values())}))
"""


@pytest.mark.slow
def test_one_image_step_fits_into_22_gib(workplace):
    done = subprocess.run([sys.executable, "-c", STEP], capture_output=True, text=True, cwd=Path())
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"peak {peak / GIB:.1f} GiB, expected {found['expected'] / GIB:.1f} GiB")
    assert found["values"]["loss"] > 0 and peak < 22 * GIB
    assert peak < 1.15 * found["expected"]


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
