"""Stable Diffusion 1.5 in one .safetensors file, as fine-tunes are passed around: its parts under today's names."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from hicast.encoders.text import text_encoder
from hicast.errors import ModelError
from hicast.io.stock_parts import State
from hicast.io.weights import check_shapes, load_safetensors, read_header

SUFFIX = ".safetensors"
_NET, _VAE, _TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."
_HEAD_WIDTH = 64
"""Channels of a head of every CLIP text encoder."""


def is_single_file(base: str | Path) -> bool:
    """Whether `base` is a file; raises ModelError for one that is no .safetensors file."""
    path = Path(base)
    if path.is_file() and path.suffix != SUFFIX:
        raise ModelError(f"--base {base}: expected a folder, a hub id or a {SUFFIX} file, found a {path.suffix or 'nameless'} file; take the {SUFFIX} one")
    return path.is_file()


def check_single_file(path: Path) -> None:
    """Raise ModelError unless all parts of Stable Diffusion 1.5 are in the file at `path`."""
    names = read_header(path)
    parts = {"U-Net": _NET, "autoencoder": _VAE, "text encoder": _TEXT}
    missing = [part for part, prefix in parts.items() if not any(name.startswith(prefix) for name in names)]
    if missing:
        raise ModelError(f"--base {path}: expected Stable Diffusion 1.5 in one file, found no {', '.join(missing)} in it; take another")


def single_unet(path: Path, config: Mapping[str, Any], shapes: Mapping[str, Any]) -> State:
    """The stock net in the file in float32, built as `config` says, with just these `shapes`; raises ModelError."""
    return _converted(UNet2DConditionModel, path, config, shapes)


def single_autoencoder(path: Path, config: Mapping[str, Any], shapes: Mapping[str, Any]) -> State:
    """The autoencoder in the file, alone there or among other parts, in float32, with just these `shapes`; raises ModelError."""
    return _converted(AutoencoderKL, path, config, shapes)


@torch.no_grad()
def single_context(path: Path) -> Tensor:
    """What the CLIP text encoder in the file says to an empty prompt: (1, tokens, width), float32; raises ModelError.

    The words of an empty prompt are the first mark and then the last one, which are the two last words of every vocabulary: no tokenizer
    is needed. Shapes tell how the encoder is built.
    """
    from transformers import CLIPTextConfig

    state = {name.removeprefix(_TEXT).removeprefix("text_model."): value for name, value in load_safetensors(path).items() if name.startswith(_TEXT)}
    words, width = _shape(path, state, "embeddings.token_embedding.weight")
    length, _ = _shape(path, state, "embeddings.position_embedding.weight")
    inner, _ = _shape(path, state, "encoder.layers.0.mlp.fc1.weight")
    layers = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("encoder.layers."))
    text = CLIPTextConfig(vocab_size=words, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, max_position_embeddings=length,
                          num_attention_heads=max(width // _HEAD_WIDTH, 1), bos_token_id=words - 2, eos_token_id=words - 1)  # fmt: skip
    return text_encoder(path, text, state)(torch.tensor([[words - 2] + [words - 1] * (length - 1)])).last_hidden_state.clone()


def _converted(kind: type, path: Path, config: Mapping[str, Any], shapes: Mapping[str, Any]) -> State:
    """A part by diffusers' own conversion, which is given the configuration so that it asks no hub for one."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps({**config, "_class_name": kind.__name__}), encoding="utf-8")
        try:
            part = kind.from_single_file(str(path), config=folder, local_files_only=True, torch_dtype=torch.float32)
        except Exception as error:  # the conversion raises nearly anything for a file that it was not made for
            reason = " ".join(str(error).split())[:160]
            raise ModelError(f"'{path}': expected the {kind.__name__} of Stable Diffusion 1.5, found another file ({type(error).__name__}: {reason}); take another") from error
    state = part.state_dict()
    check_shapes(path, state, shapes)
    if any(value.is_meta for value in state.values()):
        raise ModelError(f"'{path}': expected all weights of {kind.__name__}, found some of them only; take another file")
    return state


def _shape(path: Path, state: State, name: str) -> tuple[int, ...]:
    if name not in state:
        raise ModelError(f"'{path}': expected the text encoder of Stable Diffusion 1.5, found no '{name}' in it; take another")
    return tuple(state[name].shape)
