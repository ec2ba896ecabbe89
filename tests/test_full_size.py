"""Stable Diffusion's true size with random weights: one step of the image stage on a CPU of 24 GiB."""

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
