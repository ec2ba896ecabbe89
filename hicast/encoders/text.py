"""The empty prompt: the one text that nets made of Stable Diffusion are ever told."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from hicast.errors import ModelError


@torch.no_grad()
def empty_prompt(folder: Path) -> Tensor:
    """What the CLIP text encoder in `folder/text_encoder` says to an empty prompt: last hidden state (1, tokens, width), float32.

    Raises ModelError where it or its tokenizer is missing or damaged.
    """
    from transformers import CLIPTextModel, CLIPTokenizer
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", local_files_only=True, dtype=torch.float32).eval()
        length = encoder.config.max_position_embeddings
        words = tokenizer("", padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return encoder(words.input_ids).last_hidden_state.clone()
    except Exception as error:  # tokenizers raises nothing narrower
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{folder}: expected a CLIP text encoder and its tokenizer, found: {reason}; fetch them again") from error
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()
