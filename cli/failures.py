"""Exceptions in the user's words: one line and an exit code for each."""

from __future__ import annotations

from hicast.config.stylize import StylizeSettings
from hicast.errors import HicastError, is_out_of_memory

from .parser_words import parser_line

MEMORY_ADVICE = (
    "expected enough memory, found too little; lower --size, set --tile (for example 512) or take --dtype bfloat16 (on a GPU also --offload model), and close other programs"
)
TRAINING_MEMORY_ADVICE = (
    "expected enough memory, found too little; lower batch_size or crop, raise accumulate, which computes a batch in parts, or set "
    "gradient_checkpointing=true (each by --set KEY=VALUE), and close other programs"
)
TILES, FEWEST_FRAMES = (512, 256), 4


def explain(error: BaseException, memory_advice: str = MEMORY_ADVICE) -> tuple[str, int]:
    """The line to print for `error`, `memory_advice` where memory ran out, and the exit code to leave with: 2 for wrong usage, 1 for all
    else of ours."""
    if isinstance(error, HicastError):
        return str(error), error.exit_code
    if hasattr(error, "format_message"):  # the argument parser's own errors, whichever Click Typer brings along
        return parser_line(error), error.exit_code
    if is_out_of_memory(error):
        return memory_advice, 1
    return f"unexpected {type(error).__name__}: {error}; run again with --verbose for the traceback", 1


def smaller_settings(settings: StylizeSettings) -> tuple[str, StylizeSettings] | None:
    """What to try next where memory has run out: the option in words and the changed settings; None where nothing is left.

    Smaller tiles first, then fewer frames of a clip together.
    """
    for tile in TILES:
        if settings.tile is None or settings.tile > tile:
            return f"--tile {tile}", settings.model_copy(update={"tile": tile})
    window = settings.video.window // 2
    if window < FEWEST_FRAMES:
        return None
    video = settings.video.model_copy(update={"window": window, "overlap": min(settings.video.overlap, window // 2)})
    return f"--window {window} --overlap {video.overlap}", settings.model_copy(update={"video": video})
