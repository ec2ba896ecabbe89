"""The empty prompt: the one text that nets made of Stable Diffusion are ever told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hicast.errors import ModelError
from hicast.io.stock_parts import TEXT_FILES, load_weights, weights_path
from hicast.io.weights import CONFIG_FILE, building, check_shapes, load_json

if TYPE_CHECKING:
    from transformers import CLIPTextConfig, CLIPTextModel

_WORDS = ("vocab.json", "merges.txt")
_PREFIX = "text_model."
_POSITIONS = "embeddings.position_ids"
"""Numbers from 0 on, which older files hold."""


@torch.no_grad()
def empty_prompt(folder: Path) -> Tensor:
    """What the CLIP text encoder in `folder/text_encoder` says to an empty prompt: last hidden state (1, tokens, width), float32.

    Raises ModelError where it or its tokenizer is missing or damaged; a pickle among its files is read as tensors only.
    """
    from transformers import CLIPTextConfig, CLIPTokenizer

    place = folder / "text_encoder"
    path = weights_path(place, TEXT_FILES)
    with building(place / CONFIG_FILE):
        config = CLIPTextConfig.from_dict(load_json(place / CONFIG_FILE))
    encoder = text_encoder(path, config, load_weights(path))
    missing = [name for name in _WORDS if not (folder / "tokenizer" / name).is_file()]
    if missing and not (folder / "tokenizer" / "tokenizer.json").is_file():
        raise ModelError(f"'{folder / 'tokenizer'}': expected the words of a CLIP tokenizer, found no {', '.join(missing)}; fetch them again")
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        length = encoder.config.max_position_embeddings
        words = tokenizer("", padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return encoder(words.input_ids).last_hidden_state.clone()
    except Exception as error:  # tokenizers raises nothing narrower
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"'{folder / 'tokenizer'}': expected a tokenizer that fits its text encoder, found: {reason}; fetch them again") from error


def text_encoder(path: Path, config: CLIPTextConfig, state: Mapping[str, Tensor]) -> CLIPTextModel:
    """The text encoder that `config` describes with the tensors read from `path`, in float32, ready for inference.

    Names may begin with `text_model.`, as they do in some releases. Raises ModelError where names or shapes differ.
    """
    from transformers import CLIPTextModel

    with building(path.with_name(CONFIG_FILE)):
        encoder = CLIPTextModel(config).eval()
    prefix = _PREFIX if next(iter(encoder.state_dict())).startswith(_PREFIX) else ""
    plain = {name.removeprefix(_PREFIX): value.float() for name, value in state.items()}
    plain.pop(_POSITIONS, None)
    named = {prefix + name: value for name, value in plain.items()}
    check_shapes(path, named, {name: value.shape for name, value in encoder.state_dict().items()})
    encoder.load_state_dict(named)
    return encoder
