"""Folders in the layout of the published checkpoints and of stock Stable Diffusion: tiny ones from the parity weights, and random ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import torch
from diffusers import AutoencoderKL, T2IAdapter, UNet2DConditionModel
from hicast.config.presets import load_preset
from hicast.io.weights import load_safetensors
from hicast.models.temporal import TemporalLayers
from hicast.models.unet import ContentProjection, build_unet
from transformers import CLIPTextConfig, CLIPTextModel

PARITY = Path(__file__).parent / "data" / "parity"
CONTROLS = ("hed", "depth", "seg")
VGG = {1: (0, 2), 2: (5, 7), 3: (10, 12, 14), 4: (17, 19, 21), 5: (24, 26, 28)}
VGG_WIDTHS = {1: 64, 2: 128, 3: 256, 4: 512, 5: 512}
SCHEDULE = {
    "_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
    "num_train_timesteps": 1000, "clip_sample": False, "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1, "trained_betas": None,
}  # fmt: skip
STOCK_UNET = {"block_out_channels": [16, 16, 32, 32], "attention_head_dim": 4, "norm_num_groups": 8, "sample_size": 8}
STOCK_VAE = {
    "block_out_channels": [8, 8, 16, 16], "norm_num_groups": 4, "latent_channels": 4,
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
}  # fmt: skip


def load(name):
    return {key: value.float() if value.is_floating_point() else value for key, value in load_safetensors(PARITY / f"{name}.safetensors").items()}


def config(name):
    return json.loads((PARITY / f"{name}.json").read_text())


def vgg_by_rule():
    """The VGG that the fixtures were made with, under the published checkpoint's names, and the scaling layer."""
    state, channels = {}, 3
    for number, indices in VGG.items():
        for index in indices:
            width, random = VGG_WIDTHS[number], numpy.random.RandomState(1000 + index)
            weight = random.standard_normal((width, channels, 3, 3)) * numpy.sqrt(2 / (9 * channels))
            bias = random.standard_normal((width,)) * 0.01
            state[f"vgg.slice{number}.{index}.weight"] = torch.from_numpy(weight.astype("float32"))
            state[f"vgg.slice{number}.{index}.bias"] = torch.from_numpy(bias.astype("float32"))
            channels = width
    state["vgg_scaling_layer.shift"] = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    state["vgg_scaling_layer.scale"] = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    return state


def write_part(folder, state, configuration):
    """Weights as the authors' code writes them: a pickle beside a config."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"_diffusers_version": "0.14.0", **configuration}))
    torch.save(state, folder / "diffusion_pytorch_model.bin")


def write_tiny(folder, same_net=False, parts=("image", "video")):
    """The parity weights as a published folder; with `same_net` the video net's 2-D weights are those of the image net."""
    vgg, image, video = vgg_by_rule(), load("image_unet_weights"), load("video_unet_weights")
    if same_net:
        video = {key: value if "temporal" in key else image[key] for key, value in video.items()}
    adapters = load("adapters_weights")
    for kind, net, names in (("image", image, CONTROLS), ("video", video, CONTROLS[:2])):
        if kind in parts:
            place = folder / "checkpoint" / f"{kind}_model"
            write_part(place / "unet", {**net, **vgg}, config(f"{kind}_unet_config"))
            for name in names:
                state = {key.removeprefix(f"{name}/"): value for key, value in adapters.items() if key.startswith(f"{name}/")}
                write_part(place / f"{name}_adapter", state, config("adapter_config"))
    stock = folder / "pretrained_models" / "stable-diffusion-v1-5"
    write_part(stock / "vae", load("vae_weights"), config("vae_config"))
    write_text(stock, 32, 2)
    return folder


def stock_shape(context=24, vae_layers=1):
    """Keys of `ModelConfig` for a model of ours that begins as what `write_stock` wrote."""
    sd15 = load_preset("sd15", "models")
    unet = sd15["unet"] | STOCK_UNET | {"cross_attention_dim": context}
    return sd15 | {"unet": unet, "autoencoder": STOCK_VAE | {"layers_per_block": vae_layers}}


def write_stock(folder, context=24, vae_layers=1, heads=4):
    """Random weights of a few thousand numbers in the layout of Stable Diffusion 1.5."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        UNet2DConditionModel(**STOCK_UNET, cross_attention_dim=context).save_pretrained(folder / "unet")
        AutoencoderKL(**STOCK_VAE, layers_per_block=vae_layers).save_pretrained(folder / "vae")
    write_text(folder, context, 2, heads)
    return folder


def write_text(stock, width, layers, heads=4):
    """A random text encoder for seven tokens, its tokenizer, and the scheduler of Stable Diffusion 1.5."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        text = CLIPTextConfig(vocab_size=6, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=heads,
                              max_position_embeddings=7, bos_token_id=4, eos_token_id=5, pad_token_id=1)  # fmt: skip
        CLIPTextModel(text).save_pretrained(stock / "text_encoder")
    words = ["a", "b</w>", "ab</w>", "c</w>", "<|startoftext|>", "<|endoftext|>"]
    (stock / "tokenizer").mkdir()
    (stock / "tokenizer" / "vocab.json").write_text(json.dumps({word: at for at, word in enumerate(words)}))
    (stock / "tokenizer" / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    special = {"bos_token": words[4], "eos_token": words[5], "unk_token": words[5], "pad_token": words[5]}
    (stock / "tokenizer" / "special_tokens_map.json").write_text(json.dumps(special))
    (stock / "tokenizer" / "tokenizer_config.json").write_text(json.dumps({**special, "model_max_length": 7, "tokenizer_class": "CLIPTokenizer"}))
    (stock / "scheduler").mkdir()
    (stock / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULE))


def write_random(folder, width=1.0, temporal="expected"):
    """Random values in the published layout at `width` times the true channels (1: 879,678,709 and 1,080,773,801 values).

    The temporal part is as the published one is expected: nothing learnt on the way down, attention only a bias.
    """
    sd15 = load_preset("sd15", "models")
    widths = [round(width * channels / 32) * 32 for channels in sd15["unet"]["block_out_channels"]]
    ours = sd15["unet"] | {"block_out_channels": widths}
    with torch.device("meta"):
        unet, projection = build_unet(ours), ContentProjection(embedding_dim=4 * widths[0])
        layers = TemporalLayers.for_unet(unet)
        adapter = T2IAdapter(channels=widths, num_res_blocks=2, downscale_factor=8, adapter_type="full_adapter")
        vae = AutoencoderKL(**sd15["autoencoder"] | {"block_out_channels": [max(round(width * c / 32), 1) * 32 for c in (128, 256, 512, 512)]})
    image = {**_published_names(unet, projection), **vgg_by_rule()}
    image["conv_in.weight"], image["conv_in.bias"] = image["conv_in_new.weight"][:, :4].clone(), image["conv_in_new.bias"].clone()
    own = {key: value for key, value in ours.items() if key not in ("in_channels", "conv_padding_mode")} | {"in_channels": 4}
    own |= {"content_channels": 4, "content_refined_channels": 3, "style_channels": 2944, "mid_block_type": "UNetMidBlock2DCrossAttn"}
    write_part(folder / "image_model" / "unet", image, own)
    write_part(folder / "image_model" / "hed_adapter", _random(adapter), dict(adapter.config) | {"channels": list(widths)})
    video = image | {_temporal_name(key): value for key, value in _temporal(layers).items()}
    video |= {"conv_in.conv_temporal.weight": torch.zeros(widths[0], widths[0], 3), "conv_in.conv_temporal.bias": torch.zeros(widths[0])}
    pseudo = {key: [name.replace("2D", "Pseudo3D") for name in own[key]] for key in ("down_block_types", "up_block_types")}
    write_part(folder / "video_model" / "unet", video, own | pseudo | {"mid_block_type": "UNetMidBlockPseudo3DCrossAttn"})
    stock = folder / "stable-diffusion-v1-5"
    write_part(stock / "vae", _random(vae), {key: value for key, value in vae.config.items() if not key.startswith("_")})
    write_text(stock, 768, 1, heads=12)
    return folder


def _random(module, seed=0):
    """Values that keep activations near one: normal over the root of the inputs, biases of zero, norms of one."""
    generator, state = torch.Generator().manual_seed(seed), {}
    for name, value in module.state_dict().items():
        if value.ndim > 1:
            state[name] = torch.randn(value.shape, generator=generator) / value[0].numel() ** 0.5
        else:
            state[name] = torch.ones(value.shape) if "norm" in name and name.endswith("weight") else torch.zeros(value.shape)
    return state


def _published_names(unet, projection):
    renamed = {"conv_in.": "conv_in_new.", "class_embedding.linear_1.": "style_emb.0.", "class_embedding.linear_2.": "style_emb.2."}
    state = {}
    for key, value in _random(unet).items():
        old = next((old for old in renamed if key.startswith(old)), "")
        state[renamed.get(old, "") + key.removeprefix(old)] = value
    for key, value in _random(projection, 1).items():
        state[key.replace("modulation.", "content_adaLN_modulation.").replace("projection.", "content_in.")] = value
    state["null_style_vector.weight"] = torch.randn(1, 2944, generator=torch.Generator().manual_seed(2))
    return state


def _temporal(layers):
    generator, state = torch.Generator().manual_seed(3), {}
    for name, value in layers.state_dict().items():
        if name.startswith("convolutions"):
            state[name] = torch.nn.init.dirac_(torch.empty(value.shape)) if value.ndim == 3 else torch.zeros(value.shape)
            if "down_blocks" not in name and value.ndim == 3:
                state[name] += 0.01 * torch.randn(value.shape, generator=generator)
        else:
            state[name] = torch.ones(value.shape) if name.endswith("norm.weight") else torch.zeros(value.shape)
            if name.endswith("to_out.0.bias") and "down_blocks" not in name:
                state[name] += 0.1
    return state


def _temporal_name(key):
    """`attentions.a-b-0.attention.to_q.weight` as the published `a.b.0.attn_temporal.to_q.weight`."""
    table, place, rest = key.split(".", 2)
    place = place.replace("-", ".").replace("conv_in", "conv_in_new")
    if table == "convolutions":
        return f"{place}.conv_temporal.{rest}"
    return f"{place}.attn_temporal.{rest.removeprefix('attention.')}" if rest.startswith("attention.") else f"{place}.norm_temporal.{rest.removeprefix('norm.')}"
