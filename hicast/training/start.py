"""What a run begins with: the shape of its net, and the earlier result that must fit it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import T2IAdapter
from torch import nn

from hicast.config.layers import merge
from hicast.config.model import ModelConfig
from hicast.config.presets import list_presets, load_preset
from hicast.config.problems import name_advice, validate
from hicast.config.train import TemporalTraining
from hicast.encoders.autoencoder import AUTOENCODERS, ResidualAutoencoder
from hicast.encoders.style import StyleEncoder
from hicast.errors import ModelError, UsageError
from hicast.io.bases import ADAPTERS, INDEX_FILE, TEMPORAL, load_index, with_bases
from hicast.io.model_places import PUBLISHED, WHERE_FROM, installed_models
from hicast.io.weights import CONFIG_FILE, SHIPPED_MODELS, load_json, load_module, resolve_model
from hicast.models.hicast_model import FLAGS_FILE
from hicast.models.temporal import CHOICES, TemporalLayers
from hicast.pipeline import HiCastPipeline


def model_config(model: str) -> ModelConfig:
    """The shape of the net called `model`: a name of `presets/models`, or a model folder."""
    if model in list_presets("models"):
        return validate(load_preset(model, "models"), ModelConfig, f"model {model}")
    folder = installed_models().get(model, Path(model))
    if not (folder / "unet").is_dir():
        raise UsageError(f"model: expected a model folder, found {model}; {name_advice(model, list_presets('models'))}")
    parts = {"autoencoder": "vae", "style_encoder": "style_encoder", "content_projection": "content_projection", "unet": "unet"}
    config = {name: part_config(folder / place) for name, place in parts.items()}
    config["content_projection"].pop("embedding_dim", None)
    config["scheduler"] = load_json(folder / "scheduler" / "scheduler_config.json")
    index = load_index(folder) if (folder / INDEX_FILE).is_file() else {}
    config |= {key: index[key] for key in OF_INDEX if key in index}
    return validate(config | load_json(folder / FLAGS_FILE), ModelConfig, f"model {model}")


OF_INDEX = ("defaults", "noise_scale", "style_unit")
"""Keys of a model's configuration that stand in the index of its folder."""


def index_of(config: ModelConfig) -> dict[str, Any]:
    """What the index of a folder says of a model with this `config`."""
    return {key: getattr(config, key) for key in OF_INDEX}


def autoencoder_config(model: str) -> dict[str, Any]:
    """The shape of the autoencoder that the model trains; raises UsageError for one that keeps Stable Diffusion's."""
    config = model_config(model)
    if config.stock:
        raise UsageError(
            f"--model {model}: expected a model with an autoencoder of its own, found one that keeps Stable Diffusion's; begin with --stage image"
        )
    return config.autoencoder


def check_base(base: str | None, start: str | None, model: str, config: ModelConfig) -> None:
    """Raise UsageError where stock weights are missing for a fresh model that is made of them, or given for another."""
    if config.stock and not base and not start:
        raise UsageError(f"--base: expected stock Stable Diffusion to start from, found none; give a folder or a hub id such as {config.stock}")
    if base and not config.stock:
        raise UsageError(f"--base: expected a model that is made of Stable Diffusion (--model sd15), found --model {model}; drop one")


def check_coloring(name: str, share: float, scheduler: Mapping[str, Any]) -> None:
    """Raise UsageError where noise would be colored or matched, as `name` says: only latents can be brought nearer to a painting's."""
    predicted = scheduler.get("prediction_type", "epsilon")
    if share and predicted != "sample":
        raise UsageError(f"{name}: expected 0 for a net that predicts {predicted}, not latents, found {share:g}; set {name}=0")


def part_config(folder: Path) -> dict[str, Any]:
    """The configuration of one part of a model folder, without diffusers' own keys."""
    return {key: value for key, value in load_json(folder / CONFIG_FILE).items() if not key.startswith("_")}


def start_folder(start: str | None, stage: str, earlier: tuple[str, ...]) -> Path | None:
    """The folder of `--from`, which must hold the result of one of the stages `earlier` (all hold an autoencoder).

    Raises ModelError for anything else.
    """
    if start is None:
        return None
    folder = _resolved(start, stage, earlier)
    if not (folder / "vae").is_dir():
        parts = sorted(path.name for path in folder.iterdir() if path.is_dir())
        raise _no_start(start, stage, earlier, f"a folder without vae ({', '.join(parts) or 'empty'}); an unfinished run goes on with its own command")
    return folder


def _resolved(start: str, stage: str, earlier: tuple[str, ...]) -> Path:
    """The folder of `--from`; ModelError where there is none, with the stages that it may be the result of."""
    names = (*SHIPPED_MODELS, *installed_models())
    if start not in names and not Path(start).is_dir():
        advice = WHERE_FROM if start == PUBLISHED else f"check the path, or take {' or '.join(names)}"
        raise _no_start(start, stage, earlier, f"no folder there; {advice}")
    return resolve_model(start)


def _no_start(start: str, stage: str, earlier: tuple[str, ...], found: str) -> ModelError:
    """The error of a `--from` that the stage cannot begin with."""
    return ModelError(f"--from {start}: expected the result of the stage {' or '.join(earlier)} to begin the stage {stage} with, found {found}")


def own_net(start: str | None, model: str) -> str | None:
    """What the stages `adapter` and `temporal` take the net for pictures from: `--from`, else a `model` that has weights; None: it is made anew."""
    here = model in (*SHIPPED_MODELS, *installed_models()) or Path(model).is_dir()
    return start or (model if here else None)


def check_fresh(config: ModelConfig, model: str, stage: str) -> None:
    """Raise UsageError where a fresh net for pictures would be one of Stable Diffusion's size, which none of these stages trains."""
    if config.stock:
        raise UsageError(f"--from: expected the net for pictures that the stage {stage} keeps, found none; name a run of the stage image. For --model {model}: {WHERE_FROM}")


def base_of_adapter(start: str | None, model: str) -> tuple[Path | None, Path | None]:
    """The folder of the whole net that an adapter is trained for, and that of the earlier adapter's run that `--from` may name.

    `--from`, or without it the `model` where that is a folder or ships; (None, None) for a net that lies nowhere. Raises ModelError
    for a folder without such a net, or whose base has moved.
    """
    begin = own_net(start, model)
    if begin is None:
        check_fresh(model_config(model), model, "adapter")
        return None, None
    expected = (begin, "adapter", ("image", "adapter"))
    folder = _resolved(*expected)
    bases = with_bases(folder) if (folder / INDEX_FILE).is_file() else [folder]
    if not (bases[-1] / "unet").is_dir():
        raise _no_start(*expected, "a folder without unet; an unfinished run goes on with its own command")
    return bases[-1], folder if len(bases) > 1 else None


def open_adapter(control: str, config: Mapping[str, Any], seed: int, earlier: Path | None) -> T2IAdapter:
    """The adapter for `control` in the folder `earlier`, or where there is none a fresh one; `config` is diffusers'.

    The state of torch's global generator is kept. Raises ModelError for an earlier adapter of another shape, UsageError for a
    configuration that cannot be built.
    """
    if earlier and (earlier / ADAPTERS / control).is_dir():
        check_shape(earlier / ADAPTERS / control, config, "the settings (adapter) say")
        return load_module(lambda stored: T2IAdapter(**stored), earlier / ADAPTERS / control)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return fresh_adapter(config)


def fresh_adapter(config: Mapping[str, Any]) -> T2IAdapter:
    """A new adapter of diffusers' configuration `config`; UsageError where it cannot be built."""
    try:
        return T2IAdapter(**config)
    except (TypeError, ValueError) as error:
        raise UsageError(f"adapter: expected a configuration of T2IAdapter, found: {error}; correct it") from error


def clip_pipeline(settings: TemporalTraining, fresh: Callable[[ModelConfig], HiCastPipeline]) -> tuple[HiCastPipeline, Path | None]:
    """The pipeline whose temporal layers are to train, in float32, and the folder that the result will name as its base.

    From `start`, else the model where that has weights, else a `fresh` one, whose base is None. Layers that are there go on
    learning, else new ones are made. Raises ModelError for a folder without a net or of another shape.
    """
    config = model_config(settings.model)
    begin, base, pipeline = own_net(settings.start, settings.model), None, None
    if begin is None:
        check_fresh(config, settings.model, "temporal")
        pipeline = fresh(config)
    else:
        expected = (begin, "temporal", ("image", "temporal"))
        folder = _resolved(*expected)
        bases = with_bases(folder) if (folder / INDEX_FILE).is_file() else [folder]
        if not (bases[-1] / "unet").is_dir():
            raise _no_start(*expected, "a folder without unet; train the stage image first")
        check_shape(bases[-1] / "unet", config.unet, f"model {settings.model} says")
        check_shape(bases[-1] / "content_projection", config.content_projection, f"model {settings.model} says")
        pipeline = HiCastPipeline.from_pretrained(begin, "cpu", "float32")
        only_layers = len(bases) > 1 and (folder / TEMPORAL).is_dir() and not (folder / ADAPTERS).is_dir()
        base = bases[1] if only_layers else folder
    if pipeline.temporal is None or settings.temporal:
        pipeline.temporal = _layers(settings, config, pipeline)
    return pipeline, base


def layer_choices(settings: TemporalTraining, config: ModelConfig) -> dict[str, Any]:
    """What new temporal layers are made with; UsageError for unknown choices."""
    choices = merge(config.temporal, settings.temporal)
    unknown = sorted(set(choices) - set(CHOICES))
    if unknown:
        raise UsageError(f"temporal: expected choices of {', '.join(CHOICES)}, found {', '.join(unknown)}; {name_advice(unknown[0], CHOICES)}")
    return choices


def _layers(settings: TemporalTraining, config: ModelConfig, pipeline: HiCastPipeline) -> TemporalLayers:
    """New temporal layers as model and settings want them, or those of `pipeline` if they are so; else ModelError."""
    choices = layer_choices(settings, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        layers = TemporalLayers.for_unet(pipeline.model.unet, **choices)
    if pipeline.temporal is None:
        return layers
    wanted, found = (json.loads(json.dumps(dict(each.config), default=str)) for each in (layers, pipeline.temporal))
    differing = [key for key in wanted if not key.startswith("_") and key != "zero_start" and wanted[key] != found.get(key)]  # it is for new ones
    if differing:
        raise ModelError(
            f"--from {settings.start}: expected temporal layers as the settings say, found others in {', '.join(differing)}; "
            "leave temporal out"
        )
    return pipeline.temporal


def load_autoencoder(folder: Path, expected: Mapping[str, Any], why: str) -> nn.Module:
    """The autoencoder in a model folder; ModelError where its configuration is not as `expected`, for the reason `why`."""
    kind = load_json(folder / "vae" / CONFIG_FILE).get("_class_name", ResidualAutoencoder.__name__)
    if kind not in AUTOENCODERS:
        raise ModelError(f"--from {folder}: expected an autoencoder of {', '.join(AUTOENCODERS)}, found {kind}")
    check_shape(folder / "vae", expected, why)
    return load_module(lambda config: AUTOENCODERS[kind](**config), folder / "vae")


def check_shape(folder: Path, expected: Mapping[str, Any], why: str) -> None:
    """Raise ModelError with every key in which the part in `folder` is not as `expected`; `why` says by whom."""
    found, wanted = part_config(folder), json.loads(json.dumps(dict(expected)))
    differing = [f"{key} {wanted[key]} (found {found.get(key)})" for key in sorted(wanted) if found.get(key) != wanted[key]]
    if differing:
        raise ModelError(f"--from {folder.parent}: expected a {folder.name} with {', '.join(differing)}, as {why}; take another, or change that")


def merged_unet(config: ModelConfig, changes: Mapping[str, Any]) -> ModelConfig:
    """`config` with `changes` to its U-Net."""
    return config.model_copy(update={"unet": merge(config.unet, changes)})


def shipped_style_encoder() -> StyleEncoder:
    """The style encoder of the package, for its VGG-16."""
    return load_module(lambda config: StyleEncoder(**config), resolve_model(SHIPPED_MODELS[0]) / "style_encoder")
