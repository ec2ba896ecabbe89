"""hicast: arbitrary style transfer of images and videos with control."""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_PUBLIC = {
    "HiCastPipeline": "hicast.pipeline",
    "HicastError": "hicast.errors",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> object:
    """Resolve public names on first use, so that `import hicast` stays light."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'hicast' has no attribute '{name}'")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
