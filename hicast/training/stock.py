"""Stock Stable Diffusion 1.5 as the start of a fresh model: widened, so that its first prediction is the stock net's."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import nn

from hicast.config.model import ModelConfig
from hicast.encoders.style import StyleEncoder
from hicast.encoders.text import empty_prompt
from hicast.errors import ModelError
from hicast.io.hub_models import silent_bars
from hicast.io.stock_parts import load_stock
from hicast.io.weights import CONFIG_FILE, WEIGHTS_FILE, load_json
from hicast.models.hicast_model import HiCastModel
from hicast.models.unet import ContentProjection, build_unet
from hicast.pipeline import HiCastPipeline
from hicast.training.single_file import check_single_file, is_single_file, single_autoencoder, single_context, single_unet
from hicast.training.sources import OnNote
from hicast.training.start import part_config

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
"""Folders of Stable Diffusion in diffusers layout that are read."""

_ON_THE_HUB = [
    *(f"{part}/*.json" for part in PARTS), "tokenizer/*.txt", f"unet/{WEIGHTS_FILE}", f"vae/{WEIGHTS_FILE}", "text_encoder/model.safetensors"
]  # fmt: skip


def stock_folder(base: str, on_note: OnNote | None = None) -> Path:
    """Where Stable Diffusion called `base` is: a local folder or single file, or the folder of a hub id, fetched (told to `on_note`) or
    from the cache.

    Raises ModelError where it cannot be found or lacks a part.
    """
    if is_single_file(base):
        check_single_file(Path(base))
        return Path(base)
    local = Path(base).is_dir()
    if not local and on_note:
        on_note(f"taking {base} from the hub: some 4 GB where they are not in the cache")
    folder = Path(base) if local else _from_hub(base)
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise ModelError(
            f"--base {base}: expected Stable Diffusion in diffusers layout ({', '.join(PARTS)}), found no "
            f"{', '.join(missing)}; take another"
        )
    return folder


def stock_pipeline(base: Path, config: ModelConfig, style_encoder: StyleEncoder, seed: int = 0, vae: str | Path | None = None) -> HiCastPipeline:
    """A model that predicts what the net in `base`, a folder or a single file, does, whatever the content and the style, and can learn both.

    Autoencoder, noise schedule and the text encoder's answer to an empty prompt are those of `base`; a single file holds no schedule, so
    that is the model's own. `vae` is a folder or file of another autoencoder. Raises ModelError
    for a net or an autoencoder of another shape than `config` has, or damaged files.
    """
    single = base.is_file()
    model = widened_model(base if single else base / "unet", config, seed)
    autoencoder = stock_autoencoder(_vae_place(base, vae), config.autoencoder)
    context = single_context(base) if single else empty_prompt(base)
    width = config.unet["cross_attention_dim"]
    if context.shape[2] != width:
        raise ModelError(f"--base {base}: expected a text encoder of width {width}, found {context.shape[2]}; take another")
    schedule = config.scheduler if single else load_json(base / "scheduler" / "scheduler_config.json")
    scheduler = {key: value for key, value in schedule.items() if not key.startswith("_")}
    return HiCastPipeline(model, autoencoder, style_encoder, scheduler, context=context)


def widened_model(place: Path, config: ModelConfig, seed: int = 0) -> HiCastModel:
    """The net in a folder or a single file with input channels for the content and an embedding of the style, both without effect yet.

    New input channels and the last layer of the style's embedding are zero; both have a gradient at once, since neither
    what enters them nor what follows is. Source: reference, section 2; the published code leaves the style's embedding
    random, so that its first step is not the stock net's.
    """
    latents = config.unet["out_channels"]
    stock_config = config.unet | {"in_channels": latents}
    if not place.is_file():
        _check_config(place, stock_config)
    with torch.device("meta"):
        unet = build_unet(config.unet)
    embedding = unet.class_embedding.to_empty(device="cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        embedding.linear_1.reset_parameters()
        projection = ContentProjection(embedding_dim=unet.time_embedding.linear_2.out_features, **config.content_projection)
    nn.init.zeros_(embedding.linear_2.weight)
    nn.init.zeros_(embedding.linear_2.bias)
    own = {f"class_embedding.{name}": value for name, value in embedding.state_dict().items()}
    shapes = {name: value.shape for name, value in unet.state_dict().items() if name not in own}
    wide = shapes["conv_in.weight"]
    shapes |= {"conv_in.weight": (wide[0], latents, *wide[2:])}
    state = single_unet(place, stock_config, shapes) if place.is_file() else load_stock(place, shapes)
    stock = state["conv_in.weight"]
    state["conv_in.weight"] = torch.cat([stock, stock.new_zeros(wide[0], wide[1] - latents, *wide[2:])], dim=1)
    unet.load_state_dict(state | own, assign=True)
    return HiCastModel(unet.requires_grad_(True), projection, config.content_skip).eval()


def stock_autoencoder(place: Path, expected: Mapping[str, Any]) -> AutoencoderKL:
    """The autoencoder in a folder or a single file, in float32; ModelError where its configuration is not as `expected`."""
    single = place.is_file()
    if not single:
        _check_config(place, expected)
    known = inspect.signature(AutoencoderKL.__init__).parameters
    config = {key: value for key, value in (expected if single else part_config(place)).items() if key in known}
    with torch.device("meta"):
        autoencoder = AutoencoderKL(**config)
    shapes = {name: value.shape for name, value in autoencoder.state_dict().items()}
    autoencoder.load_state_dict(single_autoencoder(place, config, shapes) if single else load_stock(place, shapes), assign=True)
    return autoencoder.eval()


def _vae_place(base: Path, vae: str | Path | None) -> Path:
    """Where the autoencoder is: in `vae`, a folder of it, one that holds it as `vae`, or a file; else in `base`."""
    if vae is None:
        return base if base.is_file() else base / "vae"
    place = Path(vae)
    if is_single_file(place) or (place / CONFIG_FILE).is_file():
        return place
    if not (place / "vae").is_dir():
        raise ModelError(f"vae {vae}: expected a .safetensors file, or a folder with an autoencoder in diffusers layout, found none; check the path")
    return place / "vae"


def _from_hub(name: str) -> Path:
    """The folder of a hub id, from the cache where there is no network; ModelError where it is neither."""
    from huggingface_hub import snapshot_download

    try:
        with silent_bars():
            return Path(snapshot_download(name, allow_patterns=_ON_THE_HUB))
    except Exception as error:  # the client raises errors of its own, of httpx and of the system
        kind = type(error).__name__
        raise ModelError(
            f"--base {name}: expected a folder, or a hub id that is in the cache or can be fetched, found neither ({kind}); check the "
            "name and the network, or copy the folder here"
        ) from error


def _check_config(folder: Path, expected: Mapping[str, Any]) -> None:
    """Raise ModelError with every key of the part's configuration that says something else than `expected`."""
    found = part_config(folder)
    differing = [f"{key} {value} (found {found[key]})" for key, value in expected.items() if key in found and found[key] != value]
    if differing:
        raise ModelError(f"--base {folder.parent}: expected a {folder.name} with {', '.join(differing)}; take another")
