"""One training step of a stage on a net with random weights, in the working folder: `python full_size_step.py STAGE MODEL`.

Prints one line of JSON: the loss terms, the memory that the command line would have told beforehand, and the most that was taken.
"""

import json
import resource
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, T2IAdapter

from hicast.config.model import ModelConfig
from hicast.config.presets import load_preset
from hicast.encoders.autoencoder import ResidualAutoencoder
from hicast.encoders.style import StyleEncoder
from hicast.models.adapters import adapter_widths
from hicast.models.build import build_model
from hicast.models.temporal import TemporalLayers
from hicast.pipeline import HiCastPipeline
from hicast.training.adapter_stage import AdapterStage
from hicast.training.memory import count, expected
from hicast.training.noise_stage import stage_class
from hicast.training.processes import batch_parts, open_accelerator
from hicast.training.run import STAGES, check_data
from hicast.training.temporal_stage import TemporalStage
from hicast.training.trainer import Trainer

PRESETS = {"image": "sd15-image", "adapter": "compact-adapter", "temporal": "published-temporal"}
SHARED = {"batch_size": 1, "content": "photos", "style": "paintings", "readers": 1, "cache_gigabytes": 0.25, "start": "earlier",
          "gradient_checkpointing": True}  # fmt: skip
OWN = {
    "image": {"start": None, "base": "stock"},
    "adapter": {"control": "edge", "adapter": {"adapter_type": "full_adapter", "num_res_blocks": 2}},
    "temporal": {"frames": 4, "reference": False, "losses": {"noise": 0.01, "image": 2.0, "contrast": 0.1, "correlation": 0.1, "warp": 1.0}},
}  # fmt: skip
"""The temporal net is the published one with all its layers; the terms are all there are."""


def run(stage: str, model: str, crop: int) -> dict:
    """The loss terms of one step and the expected bytes."""
    settings = _settings(stage, model, crop)
    opened = _open(stage, settings)
    values, _ = Trainer(opened, open_accelerator("cpu")).advance([opened.batch(0, rows) for rows in batch_parts(settings, 1, 0)], 0)
    kind = STAGES[stage]
    parts = expected(settings, count(kind.outline(settings)), check_data(settings, kind), torch.device("cpu"))
    return {"values": values, "expected": sum(parts.values())}


def _settings(stage, model, crop):
    preset = {key: value for key, value in load_preset(PRESETS[stage], "train").items() if key not in ("stage", "model")}
    changes = {**SHARED, **OWN[stage], "model": model, "crop": crop}
    if not ModelConfig(**load_preset(model, "models")).stock:
        changes |= {"base": None} if stage == "image" else {}
    return STAGES[stage].settings(**{"from" if key == "start" else key: value for key, value in (preset | changes).items()})


def _open(stage, settings):
    config = ModelConfig(**load_preset(settings.model, "models"))
    kind = AutoencoderKL if config.stock else ResidualAutoencoder
    context = torch.randn(1, 77, config.unet["cross_attention_dim"]) if config.stock else None
    pipeline = HiCastPipeline(build_model(config), kind(**config.autoencoder), StyleEncoder(**config.style_encoder), config.scheduler, context=context)
    cache, base = Path("styles.safetensors"), Path("earlier")
    if stage == "temporal":
        pipeline.temporal = TemporalLayers.for_unet(pipeline.model.unet, **(config.temporal | settings.temporal))
        return TemporalStage(settings, pipeline, cache, base=base)
    if stage == "adapter":
        adapter = T2IAdapter(channels=list(adapter_widths(pipeline.model.unet)), **settings.adapter)
        return AdapterStage(settings, settings.content, settings.style, pipeline, cache, adapter, base=base, fit_style=True)
    return stage_class(config.scheduler["prediction_type"], settings)(settings, settings.content, settings.style, pipeline, cache)


if __name__ == "__main__":
    found = run(sys.argv[1], sys.argv[2], 256)
    print(json.dumps(found | {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
