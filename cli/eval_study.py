"""`hicast eval study`: a blind rating by people, as a page to hand out, and the summary of what comes back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hicast.errors import InputError, UsageError

from . import eval_options as words
from . import options
from .console import Console
from .eval_images import OURS, check_request, paint


def eval_study(
    ctx: typer.Context,
    content: words.Content = None,
    style: words.Style = None,
    stylized: words.Stylized = None,
    pairs: words.Pairs = None,
    peers: words.Peers = None,
    model: words.Model = None,
    preset: words.Preset = None,
    set_words: options.Set = None,
    question: Annotated[str | None, typer.Option("--question", metavar="TEXT", show_default=False, help="What raters are asked.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=1, show_default=False, help="Only the first pairs.")] = None,
    results: Annotated[Path | None, typer.Option("--results", metavar="FOLDER", show_default=False, help="Files that raters sent back: summarise them.")] = None,
    key: Annotated[Path | None, typer.Option("--key", metavar="FILE", show_default=False, help="The study's key.json. Default: in the output folder.")] = None,
    output: words.Output = Path("study"),
    overwrite: words.Overwrite = False,
    device: options.Device = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Let people rate results without knowing whose they are; --results sums up what they gave."""
    console = options.open_console(ctx, as_json, quiet, verbose)
    if results is not None:
        if any((content, style, stylized, pairs, peers, model)):
            raise UsageError("expected --results or pictures to rate, found both; leave one out")
        _summarize(console, results, key or output / "key.json", output, overwrite)
        return
    folders = ({OURS: stylized} if stylized else {}) | words.named_paths("--peers", peers)
    check_request(content, style, pairs, folders, model)
    wanted = words.wanted_look(console, preset, set_words, model, device) if model else None
    from hicast.evaluation.pairing import Pairing
    from hicast.evaluation.runner import check_methods
    from hicast.evaluation.scene import pair_up
    from hicast.evaluation.study import KEY, PAGE, QUESTION, write_study
    from hicast.io.files import check_target

    name = words.model_name(model) if model else None
    check_methods([*folders, *([name] if name else [])])
    for file in (PAGE, KEY):
        check_target(output / file, overwrite)
    found = pair_up(content, style, pairs, folders)
    for note in found.notes():
        console.info(note)
    shown, results, failed = found.pairs[:limit], dict(found.results), []
    if wanted and name:
        results = {name: paint(console, wanted, {}, shown, output / name, failed), **results}
    for entry in failed:
        console.info(f"hicast: {entry['error']}")
    written = write_study(Pairing(shown, results), output, question=question or QUESTION, overwrite=overwrite)
    console.info(f"hand out {written[0].name} alone; keep {written[1].name}, which says whose results are whose")
    console.document({"files": [str(path) for path in written], "failed": failed})
    for path in written:
        console.result(str(path))
    if failed:
        raise typer.Exit(1)


def _summarize(console: Console, folder: Path, key: Path, output: Path, overwrite: bool) -> None:
    """Write and print the summary of the files in `folder`."""
    from hicast.evaluation.study import read_ratings, summarize, summary_page
    from hicast.io.files import atomic_path

    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of ratings, found no such folder; check the path")
    files = [path for path in sorted(folder.glob("*.json")) if path.resolve() != key.resolve()]
    found = summarize(read_ratings(files, key))
    texts = {"ratings.html": summary_page(found), "ratings.json": json.dumps(found, indent=1) + "\n"}
    for name, text in texts.items():
        with atomic_path(output / name, overwrite) as draft:
            draft.write_text(text, encoding="utf-8")
    if not console.json:
        rows = [(m, f"{row['mean']:.2f}", f"{row['low']:.2f} to {row['high']:.2f}", str(row["ratings"])) for m, row in found["methods"].items()]
        console.table(("method", "mean", "95 % interval", "ratings"), rows)
    alpha = "not defined" if found["agreement"] is None else f"{found['agreement']:.2f}"
    console.info(f"{found['raters']} raters, agreement (Krippendorff's alpha) {alpha}")
    console.document(found)
    console.result(str(output / "ratings.html"))
