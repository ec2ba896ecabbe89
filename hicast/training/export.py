"""What comes out of a run says where it comes from: metadata in every weight file of the model folder."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path

from hicast.config.train_run import TrainSettings
from hicast.errors import OutputError
from hicast.io.bases import ADAPTERS
from hicast.io.weights import WEIGHTS_FILE, read_metadata

FORMAT_VERSION = "1"


def stamp_model(folder: Path, settings: TrainSettings, step: int) -> None:
    """Write into every component and adapter of the model in `folder` what it is, and how the run that ended at `step` came to it.

    Metadata: `component`, `stage`, `base` (what the run began with, for an adapter its net), `format_version`, `step` and `training` (the
    settings as JSON). Raises OutputError where the folder cannot be written.
    """
    training = settings.model_dump_json()
    adapters = sorted(folder.glob(f"{ADAPTERS}/*/{WEIGHTS_FILE}"))
    for path in [*sorted(folder.glob(f"*/{WEIGHTS_FILE}")), *adapters]:
        stamp(path, {
            "component": "adapter" if path in adapters else path.parent.name,
            "stage": settings.stage,
            "base": read_metadata(path).get("base") or settings.start or getattr(settings, "base", None) or settings.model,
            "format_version": FORMAT_VERSION,
            "step": str(step),
            "training": training,
        })  # fmt: skip


def stamp(path: Path, metadata: Mapping[str, str]) -> None:
    """Add `metadata` to the safetensors file `path`; its tensors are copied as bytes and never decoded."""
    draft = path.with_name(f".{path.name}.part")
    merged = read_metadata(path) | dict(metadata)
    try:
        with path.open("rb") as source, draft.open("wb") as target:
            header = json.loads(source.read(struct.unpack("<Q", source.read(8))[0]))
            text = json.dumps({**header, "__metadata__": merged}).encode()
            text += b" " * (-len(text) % 8)
            target.write(struct.pack("<Q", len(text)) + text)
            shutil.copyfileobj(source, target)
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise OutputError(f"{path}: expected to be able to write, found: {error.strerror}; make room") from error
