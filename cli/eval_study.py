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
from .eval_images import OURS, check_request


def eval_study(
    ctx: typer.Context,
    content: words.Content = None,
    style: words.Style = None,
    stylized: words.Stylized = None,
    pairs: words.Pairs = None,
    peers: words.Peers = None,
    question: Annotated[str | None, typer.Option("--question", metavar="TEXT", show_default=False, help="What raters are asked.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=1, show_default=False, help="Only the first pairs.")] = None,
    results: Annotated[Path | None, typer.Option("--results", metavar="FOLDER", show_default=False, help="Files that raters sent back: summarise them.")] = None,
    key: Annotated[Path | None, typer.Option("--key", metavar="FILE", show_default=False, help="The study's key.json. Default: in the output folder.")] = None,
    output: words.Output = Path("study"),
    overwrite: words.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Let people rate results without knowing whose they are; --results sums up what they gave."""
    console = options.open_console(ctx, as_json, quiet, verbose)
    if results is not None:
        if any((content, style, stylized, pairs, peers)):
            raise UsageError("expected --results or pictures to rate, found both; leave one out")
        _summarize(console, results, key or output / "key.json", output, overwrite)
        return
    folders = ({OURS: stylized} if stylized else {}) | words.named_paths("--peers", peers)
    check_request(content, style, pairs, folders, None)
    from hicast.evaluation.pairing import Pairing
    from hicast.evaluation.scene import pair_up
    from hicast.evaluation.study import QUESTION, write_study

    found = pair_up(content, style, pairs, folders)
    for note in found.notes():
        console.info(note)
    written = write_study(Pairing(found.pairs[:limit], found.results), output, question=question or QUESTION, overwrite=overwrite)
    console.info(f"hand out {written[0].name}; keep {written[1].name}, which says whose results are whose")
    console.document({"files": [str(path) for path in written]})
    for path in written:
        console.result(str(path))


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
