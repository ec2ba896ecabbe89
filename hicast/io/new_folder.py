"""Model folders that appear only when they are whole, with the list of their hashes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hicast.errors import OutputError
from hicast.io.hashes import write_hashes


@contextmanager
def new_model_folder(target: Path) -> Iterator[Path]:
    """Yield a hidden folder beside `target`, which must not be there yet; it gets its hash list and is moved into place at the end.

    After any exception it is removed. Raises OutputError where nothing can be written, also in place of an OSError of the block.
    """
    if target.exists():
        raise OutputError(f"'{target}': expected a new folder, found one that is there already; name another or remove it")
    draft = target.with_name(f".{target.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        yield draft
        write_hashes(draft)
        os.replace(draft, target)
    except OSError as error:
        raise OutputError(f"'{target}': expected to write a model folder, found no way to: {error}; choose another place or make room") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
