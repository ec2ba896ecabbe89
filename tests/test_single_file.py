"""Stable Diffusion 1.5 in one file, written under the names of the first release: the same net, autoencoder and prompt as from a folder."""

import re
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from hicast.config.model import ModelConfig
from hicast.config.train import ImageTraining
from hicast.encoders.style import StyleEncoder
from hicast.encoders.text import empty_prompt
from hicast.errors import ModelError
from hicast.training import stock

RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1",
          "conv_shortcut": "skip_connection"}  # fmt: skip
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, published_layout) -> Path:
    """Random weights in diffusers layout."""
    return published_layout.write_stock(tmp_path_factory.mktemp("stock"), 64, 2, heads=1)


@pytest.fixture(scope="module")
def single(folder, tmp_path_factory) -> Path:
    """The same in one file."""
    text = CLIPTextModel.from_pretrained(folder / "text_encoder").state_dict()
    prefix = "" if next(iter(text)).startswith("text_model.") else "text_model."
    state = {f"cond_stage_model.transformer.{prefix}{name}": value.clone() for name, value in text.items()}
    state["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(7)[None]
    state |= {f"model.diffusion_model.{_net_name(name)}": value for name, value in load_file(folder / "unet" / WEIGHTS).items()}
    state |= _autoencoder(folder, "first_stage_model.")
    state["alphas_cumprod"] = torch.ones(1000)
    path = tmp_path_factory.mktemp("single") / "fine-tune.safetensors"
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    return path


def _autoencoder(folder: Path, prefix: str) -> dict[str, torch.Tensor]:
    state = load_file(folder / "vae" / WEIGHTS)
    return {f"{prefix}{_vae_name(name)}": value[..., None, None] if ".attentions." in name and value.ndim == 2 else value for name, value in state.items()}


def _net_name(name: str) -> str:
    """A name of diffusers' U-Net as the first release has it."""
    fixed = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
             "conv_norm_out": "out.0", "conv_out": "out.2"}  # fmt: skip
    stem, _, end = name.rpartition(".")
    if stem in fixed:
        return f"{fixed[stem]}.{end}"
    parts = name.split(".")
    side, rest = parts[0], parts[1:]
    if side == "mid_block":
        number = {"attentions": lambda j: 1, "resnets": lambda j: 2 * j}[rest[0]](int(rest[1]))
        return f"middle_block.{number}.{_inner(rest[0], rest[2:])}"
    block, kind, layer, inner = int(rest[0]), rest[1], int(rest[2]), rest[3:]
    if kind == "downsamplers":
        return f"input_blocks.{3 * (block + 1)}.0.op.{inner[-1]}"
    if kind == "upsamplers":
        return f"output_blocks.{3 * block + 2}.{1 if block == 0 else 2}.conv.{inner[-1]}"
    place = f"input_blocks.{3 * block + layer + 1}" if side == "down_blocks" else f"output_blocks.{3 * block + layer}"
    return f"{place}.{0 if kind == 'resnets' else 1}.{_inner(kind, inner)}"


def _inner(kind: str, parts: list[str]) -> str:
    return ".".join([RESNET[parts[0]], *parts[1:]] if kind == "resnets" else parts)


def _vae_name(name: str) -> str:
    name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{3 - int(m[1])}.block.{m[2]}", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    for new, old in (("mid_block.attentions.0.group_norm", "mid.attn_1.norm"), ("mid_block.attentions.0.to_q", "mid.attn_1.q"),
                     ("mid_block.attentions.0.to_k", "mid.attn_1.k"), ("mid_block.attentions.0.to_v", "mid.attn_1.v"),
                     ("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out"), ("conv_shortcut", "nin_shortcut"), ("conv_norm_out", "norm_out")):  # fmt: skip
        name = name.replace(new, old)
    return name


@pytest.fixture(scope="module")
def config(published_layout) -> ModelConfig:
    return ModelConfig(**published_layout.stock_shape(64, 2))


def test_a_single_file_gives_the_model_of_the_folder(folder, single, config):
    one = stock.stock_pipeline(stock.stock_folder(str(folder)), config, StyleEncoder(**config.style_encoder))
    other = stock.stock_pipeline(stock.stock_folder(str(single)), config, StyleEncoder(**config.style_encoder))
    for part in ("model", "autoencoder"):
        expected, found = getattr(one, part).state_dict(), getattr(other, part).state_dict()
        assert expected.keys() == found.keys() and all(torch.equal(value, found[name]) for name, value in expected.items()), part
    assert torch.allclose(one.context, other.context, atol=1e-6) and torch.equal(one.context, empty_prompt(folder))
    assert other.scheduler_config["beta_schedule"] == "scaled_linear" and other.scheduler_config["beta_end"] == 0.012


@pytest.mark.parametrize("layout", ["alone", "in a whole model", "folder", "folder around it"])
def test_another_autoencoder_takes_the_place_of_the_bases(folder, single, config, tmp_path, layout):
    other = tmp_path / "other"
    with torch.random.fork_rng():
        torch.manual_seed(1)
        AutoencoderKL(**config.autoencoder).save_pretrained(other / "vae")
    expected = load_file(other / "vae" / WEIGHTS)
    places = {"folder": other / "vae", "folder around it": other}
    if layout not in places:
        state = _autoencoder(other, "" if layout == "alone" else "first_stage_model.")
        state |= {} if layout == "alone" else {name: value for name, value in load_file(single).items() if not name.startswith("first_stage")}
        save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "vae.safetensors")
    place = places.get(layout, tmp_path / "vae.safetensors")
    assert ImageTraining(vae=str(place)).vae == place
    found = stock.stock_pipeline(folder, config, StyleEncoder(**config.style_encoder), vae=place).autoencoder.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_files_that_are_something_else_are_refused(folder, single, config, tmp_path):
    (tmp_path / "model.ckpt").write_bytes(b"x")
    with pytest.raises(ModelError, match="expected a folder, a hub id or a .safetensors file, found a .ckpt file"):
        stock.stock_folder(str(tmp_path / "model.ckpt"))
    with pytest.raises(ModelError, match="expected Stable Diffusion 1.5 in one file, found no U-Net, autoencoder, text encoder in it"):
        stock.stock_folder(str(folder / "unet" / WEIGHTS))
    state = load_file(single)
    save_file({name: value for name, value in state.items() if "output_blocks.3.0" not in name}, tmp_path / "half.safetensors")
    with pytest.raises(ModelError, match="half.safetensors': expected"):
        stock.widened_model(tmp_path / "half.safetensors", config)
    with pytest.raises(ModelError, match="vae .*: expected a .safetensors file, or a folder with an autoencoder"):
        stock.stock_pipeline(folder, config, StyleEncoder(**config.style_encoder), vae=tmp_path)
