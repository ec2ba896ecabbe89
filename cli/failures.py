"""Exceptions in the user's words: one line and an exit code for each."""

from __future__ import annotations

from hicast.errors import HicastError

MEMORY_ADVICE = (
    "expected enough memory, found too little; lower --size, set --tile (for example 512) or take --dtype bfloat16, and close other programs"
)
_ALLOCATION_WORDS = ("can't allocate memory", "not enough memory", "out of memory")


def explain(error: BaseException) -> tuple[str, int]:
    """The line to print for `error` and the exit code to leave with: 2 for wrong usage, 1 for all else of ours."""
    if isinstance(error, HicastError):
        return str(error), error.exit_code
    if hasattr(error, "format_message"):  # the argument parser's own errors, whichever Click Typer brings along
        return f"{error.format_message().rstrip('.')}; see --help", error.exit_code
    if _is_out_of_memory(error):
        return MEMORY_ADVICE, 1
    return f"unexpected {type(error).__name__}: {error}; run again with --verbose for the traceback", 1


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the CPU or a device; told by name and text, so that torch need not be loaded."""
    if isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _ALLOCATION_WORDS)
