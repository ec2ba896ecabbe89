"""`hicast models`: what is here, what it holds, and published checkpoints fetched, converted and checked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hicast.config.problems import name_advice
from hicast.errors import ModelError, UsageError

from . import options
from .console import Console
from .words import CONTROLS, named_values

if TYPE_CHECKING:
    from hicast.io.published_folder import PublishedFolder

Place = Annotated[str, typer.Argument(metavar="MODEL", help="compact, sd15, a model folder or its name, or a hub id.", show_default=False)]
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Published checkpoints: image_model, video_model or both, at most three levels down. Or a model of your own.", show_default=False)]
Target = Annotated[Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="Where the model goes. Default: sd15 in your folder of models.", show_default=False)]
Base = Annotated[Path | None, typer.Option("--base", metavar="FOLDER", help="Stable Diffusion 1.5 in diffusers layout, where it is not in FOLDER.", show_default=False)]
Kept = Annotated[
    Literal["float16", "bfloat16", "float32"],
    typer.Option("--dtype", help="Precision of the stored weights; it does not decide that of the work."),
]

OwnKept = Annotated[
    Literal["float16", "bfloat16", "float32"] | None,
    typer.Option("--dtype", help="Precision of the stored weights. Default: float16, for a model of your own as it is.", show_default=False),
]
Joined = Annotated[list[str] | None, typer.Option("--join", metavar="NAME=FOLDER", help="Another adapter to write into a model of your own; repeat for several.", show_default=False)]
Renew = Annotated[bool, typer.Option("--write-hashes", help="After a change of yours: write the hash list anew where all else is good, in place of comparing it.")]

COLUMNS = ("model", "kind", "size", "where")


def list_models(ctx: typer.Context, as_json: options.Json = False, quiet: options.Quiet = False, verbose: options.Verbose = False) -> None:
    """List the models that are here, and what can be fetched."""
    console = options.open_console(ctx, as_json, quiet, verbose)
    from hicast.io.model_places import PUBLISHED, installed_models
    from hicast.io.weights import SHIPPED_MODELS, resolve_model

    installed = installed_models()
    rows = [{"model": name, "kind": "shipped", "bytes": _size(resolve_model(name)), "where": str(resolve_model(name))} for name in SHIPPED_MODELS]
    rows += [{"model": name, "kind": "yours", "bytes": _size(folder), "where": str(folder)} for name, folder in installed.items()]
    if PUBLISHED not in installed:
        rows.append({"model": PUBLISHED, "kind": "not here", "bytes": None, "where": "hicast models pull fast, or hicast models convert FOLDER"})
    console.document(rows)
    if not as_json:
        console.table(COLUMNS, [(row["model"], row["kind"], _mb(row["bytes"]), row["where"]) for row in rows])


def show_model(ctx: typer.Context, model: Place, as_json: options.Json = False, quiet: options.Quiet = False, verbose: options.Verbose = False) -> None:
    """Say what a model folder holds: its parts, their size and where they come from."""
    console = options.open_console(ctx, as_json, quiet, verbose)
    from hicast.io.bases import INDEX_FILE, load_index, with_bases
    from hicast.io.model_places import CLIPS
    from hicast.io.weights import resolve_model

    folder = resolve_model(model, console.info)
    bases = [str(base) for base in with_bases(folder)[1:]]
    index = load_index(folder)
    clips = folder / CLIPS
    parts = _parts(folder) + (_parts(clips, f"{CLIPS}/") if (clips / INDEX_FILE).is_file() else [])
    console.document({"model": model, "folder": str(folder), "bases": bases, "defaults": index.get("defaults", {}), "parts": parts})
    if as_json:
        return
    console.result(str(folder))
    for base in bases:
        console.result(f"base: {base}")
    console.result(f"defaults: {', '.join(f'{key} {value}' for key, value in index.get('defaults', {}).items()) or 'none'}")
    rows = [(part["part"], f"{part['values']:,}", part["dtype"], _mb(part["bytes"]), _about(part["metadata"])) for part in parts]
    console.table(("part", "values", "dtype", "size", "about"), rows)


def convert_model(
    ctx: typer.Context, folder: Folder, output: Target = None, base: Base = None, join: Joined = None, dtype: OwnKept = None,
    as_json: options.Json = False, quiet: options.Quiet = False, verbose: options.Verbose = False,
) -> None:  # fmt: skip
    """Turn published checkpoints into a model folder: half the size, nothing twice, no pickles.

    A model of your own, such as a run of the stage adapter or temporal, is written whole: with its base and adapters, to travel alone.
    """
    console = options.open_console(ctx, as_json, quiet, verbose)
    if join or _is_own(folder):
        _write_whole(console, folder, output, base, join or [], dtype)
        return
    target = _target(output)
    from hicast.io.published_folder import find_published

    _convert(console, find_published(folder, base), target, dtype or "float16", _size(folder))


def verify_model(ctx: typer.Context, model: Place, renew: Renew = False, as_json: options.Json = False, quiet: options.Quiet = False, verbose: options.Verbose = False) -> None:
    """Check a model folder: shapes, precision, metadata and the hash list."""
    _verified(options.open_console(ctx, as_json, quiet, verbose), model, renew)


def pull_model(
    ctx: typer.Context,
    model: Annotated[Literal["fast"], typer.Argument(help="What to fetch: fast, the published checkpoints.", show_default=False)],
    output: Target = None, dtype: Kept = "float16",
    downloads: Annotated[Path | None, typer.Option("--downloads", metavar="FOLDER", help="Where the downloads go; they stay there. Default: beside the model.", show_default=False)] = None,
    as_json: options.Json = False, quiet: options.Quiet = False, verbose: options.Verbose = False,
) -> None:  # fmt: skip
    """Fetch the published checkpoints from the hub, as much of them as is needed, and convert them."""
    console = options.open_console(ctx, as_json, quiet, verbose)
    _pull(console, _target(output), downloads, dtype)


def _pull(console: Console, target: Path, downloads: Path | None, dtype: str) -> None:
    from hicast.io.hub import FAST, LICENCES, STABLE_DIFFUSION, check_disk, fetch, list_needed, repo_folder
    from hicast.io.published_folder import find_published

    downloads = downloads or target.parent / ".downloads"
    for repo, terms in LICENCES.items():
        console.info(f"{repo}: {terms}")
    files = [file for repo in (FAST, STABLE_DIFFUSION) for file in list_needed(repo)]
    left = check_disk(files, downloads, target)
    console.info(f"{len(files)} files, {_mb(left)} to fetch into {downloads}")
    console.interrupt_advice = "the same command goes on with the download"
    with console.progress("fetching (MB)") as on_progress:
        fetch(files, downloads, lambda done, total: on_progress(done // 10**6, total // 10**6))
    source = find_published(repo_folder(FAST, downloads), repo_folder(STABLE_DIFFUSION, downloads))
    _convert(console, source, target, dtype, sum(file.size for file in files))
    console.info(f"the downloads in {downloads} are needed no more; remove them to free {_mb(_size(downloads))}")


def _verified(console: Console, model: str, renew: bool) -> None:
    from hicast.io.weights import resolve_model
    from hicast.models.verification import verify_model as verify

    folder, done = resolve_model(model, console.info), [0]
    total = _size(folder)
    with console.progress(f"hashing {folder.name}") as on_progress:

        def on_bytes(size: int) -> None:
            done[0] += size
            on_progress(done[0], total)

        checks = verify(folder, on_bytes, renew)
    bad = [check for check in checks if check.problems]
    console.document({"folder": str(folder), "whole": not bad, "checks": [{"name": c.name, "text": c.text, "problems": c.problems} for c in checks]})
    for check in checks:
        console.result(f"{check.name}: {'; '.join(check.problems) if check.problems else f'good ({check.text})'}")
    if bad:
        count = sum(len(check.problems) for check in bad)
        raise ModelError(f"model '{folder}': expected a whole model, found {count} problem{'s' if count > 1 else ''} in {', '.join(c.name for c in bad)}; fetch or convert it again")


def _convert(console: Console, source: PublishedFolder, target: Path, dtype: str, before: int) -> None:
    import torch

    from hicast.models.conversion import convert_published

    tallies = convert_published(source, target, getattr(torch, dtype), console.info)
    after = _size(target)
    console.info(f"files of {_mb(before)} became a model of {_mb(after)}")
    report = [{"source": t.source, "read": t.read, "stored": t.stored, "shared": t.shared, "dropped": t.dropped} for t in tallies]
    console.document({"output": str(target), "bytes_before": before, "bytes_after": after, "tensors": report})
    console.result(str(target))


def _is_own(folder: Path) -> bool:
    """Whether a model of ours has this name or lies there, or in the hub's cache."""
    from hicast.io.bases import INDEX_FILE, OWN_CLASS
    from hicast.io.hub_models import cached_model, is_hub_id
    from hicast.io.weights import load_json, resolve_model

    if is_hub_id(folder) and not cached_model(str(folder)):
        return False
    try:
        return load_json(resolve_model(folder) / INDEX_FILE).get("_class_name") == OWN_CLASS
    except ModelError:
        return False


def _write_whole(console: Console, model: Path, output: Path | None, base: Path | None, join: list[str], dtype: str | None) -> None:
    """Write a model of one's own with all that it refers to and the adapters named by `join`."""
    if base:
        raise UsageError(f"--base {base}: expected none for a model of your own, which names its base itself, found one; leave it out")
    if output is None:
        raise UsageError("--output: expected where a model of your own goes, found none; name a new folder")
    adapters = named_values("--join", join)
    for name in adapters:
        if name not in CONTROLS:
            raise UsageError(f"--join {name}: expected the name of a control, found {name}; {name_advice(name, CONTROLS)}")
    target = _target(output)
    import torch

    from hicast.models.whole import write_whole

    write_whole(model, target, getattr(torch, dtype) if dtype else None, adapters)
    parts = [part["part"] for part in _parts(target)]
    console.info(f"a model of {_mb(_size(target))}: {', '.join(parts)}")
    console.document({"output": str(target), "bytes_after": _size(target), "parts": parts})
    console.result(str(target))


def _target(output: Path | None) -> Path:
    """Where the converted model goes; raises UsageError where something is there already."""
    from hicast.io.model_places import PUBLISHED, models_folder

    target = output or models_folder() / PUBLISHED
    if target.exists():
        raise UsageError(f"--output {target}: expected a new folder, found one that is there already; name another or remove it")
    return target


def _parts(folder: Path, prefix: str = "") -> list[dict[str, Any]]:
    """Every weight file of a model folder, bases and the folder for clips left out."""
    from math import prod

    from hicast.io.bases import ADAPTERS
    from hicast.io.weights import CONTEXT_FILE, WEIGHTS_FILE, read_header, read_metadata

    found = []
    for path in (*sorted(folder.glob(f"*/{WEIGHTS_FILE}")), *sorted(folder.glob(f"{ADAPTERS}/*/{WEIGHTS_FILE}")), folder / CONTEXT_FILE):
        if not path.is_file():
            continue
        header = read_header(path)
        about = {key: value for key, value in read_metadata(path).items() if key not in ("format", "training")}
        name = path.stem if path.name == CONTEXT_FILE else path.parent.relative_to(folder).as_posix()
        dtypes = "/".join(sorted({dtype for dtype, _ in header.values()}))
        found.append({"part": prefix + name, "values": sum(prod(shape) for _, shape in header.values()), "dtype": dtypes,
                      "bytes": path.stat().st_size, "metadata": about})  # fmt: skip
    return found


def _about(metadata: dict[str, str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in sorted(metadata.items()) if key not in ("component", "format_version"))


def _size(folder: Path) -> int:
    from hicast.io.model_places import model_files

    return sum(path.stat().st_size for path in model_files(folder))


def _mb(size: int | None) -> str:
    if size is None:
        return "-"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
