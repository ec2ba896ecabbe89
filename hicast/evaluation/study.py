"""A blind rating by people: a page in one file, the key that stays with whoever runs the study, and what the ratings say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hicast.errors import InputError, UsageError
from hicast.evaluation.page import embedded, page, picture_uri, table
from hicast.evaluation.pairing import Pairing
from hicast.evaluation.summary import LEVEL, RESAMPLES, Estimate
from hicast.io.files import atomic_path
from hicast.io.images import load_picture

SCALE = (1, 2, 3, 4, 5)
WORDS = ("bad", "poor", "fair", "good", "excellent")
"""The five points, as in ITU-R BT.500."""

QUESTION = "How good is the result as the photo painted in the style of the painting?"
PAGE, KEY = "study.html", "key.json"

_SCRIPT = """
const items=STUDY.items,images=STUDY.images;let order=[],at=0,rater='',answers={};
const el=i=>document.getElementById(i);
function hash(t){let h=2166136261;for(const c of t){h^=c.codePointAt(0);h=Math.imul(h,16777619);}return h>>>0;}
function random(a){return()=>{a=(a+0x6D2B79F5)|0;let t=Math.imul(a^a>>>15,1|a);t=t+Math.imul(t^t>>>7,61|t)^t;return((t^t>>>14)>>>0)/4294967296;};}
function shuffled(n,seed){const o=[...Array(n).keys()],r=random(seed);for(let i=n-1;i>0;i--){const j=Math.floor(r()*(i+1));[o[i],o[j]]=[o[j],o[i]];}return o;}
function kept(write){try{const k=STUDY.id+rater;if(write)localStorage.setItem(k,JSON.stringify(answers));else answers=JSON.parse(localStorage.getItem(k)||'{}');}catch(e){}}
function begin(){rater=el('rater').value.trim();if(!rater)return;kept(false);order=shuffled(items.length,hash(STUDY.id+rater));el('start').hidden=true;el('rating').hidden=false;
at=order.findIndex(k=>!(items[k].id in answers));if(at<0){at=items.length-1;finish();}else show();}
function show(){const it=items[order[at]];el('count').textContent=(at+1)+' / '+items.length;for(const k of['content','style','result'])el(k).src=images[it[k]];
for(const b of document.querySelectorAll('.points button'))b.classList.toggle('on',answers[it.id]===+b.value);el('back').disabled=at===0;}
function finish(){el('rating').hidden=true;el('end').hidden=false;}
function rate(v){answers[items[order[at]].id]=v;kept(true);if(at+1<items.length){at++;show();}else finish();}
function back(){if(at>0){at--;show();}}
function save(){const data=JSON.stringify({study:STUDY.id,rater,order:order.map(k=>items[k].id),ratings:answers},null,1);
const a=document.createElement('a');a.href=URL.createObjectURL(new Blob([data],{type:'application/json'}));a.download='ratings-'+rater.replace(/[^\\w-]+/g,'_')+'.json';a.click();}
el('go').onclick=begin;el('back').onclick=back;el('save').onclick=save;
for(const b of document.querySelectorAll('.points button'))b.onclick=()=>rate(+b.value);
document.onkeydown=e=>{if(!el('rating').hidden&&'12345'.includes(e.key)&&e.key)rate(+e.key);};
"""
_STYLE = ".three{display:flex;gap:12px;flex-wrap:wrap}.three img{width:340px;max-width:100%}.points button{font-size:1rem;padding:8px 14px;margin:4px}.on{background:#1f6f8b;color:#fff}"


@dataclass(frozen=True)
class Ratings:
    """What raters gave: `values[rater, method, pair]`, NaN where nothing was given, with the names along each axis."""

    values: np.ndarray
    raters: list[str]
    methods: list[str]
    pairs: list[str]


def write_study(pairing: Pairing, folder: Path, *, question: str = QUESTION, side: int = 384, seed: int = 0, overwrite: bool = False) -> list[Path]:
    """Write the page for raters and the key of its items to `folder`; methods stand in the key alone.

    Only pairs that every method has a result of are shown. Raises InputError where there are none, or a picture is broken.
    """
    shown = [pair for pair in pairing.pairs if all(pair.key in files for files in pairing.results.values())]
    if not shown or not pairing.results:
        raise InputError("study: expected pairs that every method has a result of, found none; check the folders")
    places = [("content", pair.content) for pair in shown] + [("style", pair.style) for pair in shown]
    uris: dict[str, str] = {}
    names: dict[Path, str] = {}

    def put(path: Path) -> str:
        if path not in names:
            uri = picture_uri(load_picture(path).pixels, side)
            names[path] = hashlib.sha256(uri.encode()).hexdigest()[:12]
            uris[names[path]] = uri
        return names[path]

    for _, path in places:
        put(path)
    items, key = [], {}
    for pair in shown:
        for method, files in pairing.results.items():
            name = hashlib.sha256(f"{seed}/{method}/{pair.key}".encode()).hexdigest()[:12]
            items.append({"id": name, "content": put(pair.content), "style": put(pair.style), "result": put(files[pair.key])})
            key[name] = {"method": method, "pair": pair.key}
    items.sort(key=lambda item: item["id"])
    number = hashlib.sha256("".join(key).encode()).hexdigest()[:12]
    texts = {
        PAGE: study_page(question, {"id": number, "items": items, "images": dict(sorted(uris.items()))}),
        KEY: json.dumps({"study": number, "question": question, "items": key}, indent=1, ensure_ascii=False) + "\n",
    }
    for name, text in texts.items():
        with atomic_path(folder / name, overwrite) as draft:
            draft.write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def study_page(question: str, study: Mapping[str, Any]) -> str:
    """The HTML for raters."""
    from html import escape

    buttons = "".join(f'<button value="{point}">{point} {word}</button>' for point, word in zip(SCALE, WORDS, strict=True))
    body = (
        '<div id="start"><p>Your name or a made-up one: <input id="rater"> <button id="go">Begin</button></p></div>'
        f'<div id="rating" hidden><p><b>{escape(question)}</b> <span id="count"></span></p><div class="three">'
        '<div>photo<br><img id="content" alt="photo"></div><div>painting<br><img id="style" alt="painting"></div>'
        '<div>result<br><img id="result" alt="result"></div></div>'
        f'<p class="points">{buttons}</p><p><button id="back">Back</button> Keys 1 to 5 do as well.</p></div>'
        '<div id="end" hidden><p>That was all. <button id="save">Save the ratings</button> and send the file back.</p></div>'
    )
    return page("Rating", [("Photo, painting, result", body)], f"const STUDY={embedded(study)};{_SCRIPT}", _STYLE)


def read_ratings(files: Sequence[Path], key_file: Path) -> Ratings:
    """The ratings in `files`, a file for each rater, put in order by the key; raises InputError for files of another study."""
    key = _json(key_file)
    items = key.get("items")
    if not isinstance(items, dict) or not items:
        raise InputError(f"{key_file}: expected the key of a study, found none; give the file that hicast eval study wrote")
    methods = list(dict.fromkeys(item["method"] for item in items.values()))
    pairs = list(dict.fromkeys(item["pair"] for item in items.values()))
    raters, values = [], np.full((len(files), len(methods), len(pairs)), np.nan)
    for row, file in enumerate(files):
        found = _json(file)
        if found.get("study") != key.get("study"):
            raise InputError(f"{file}: expected ratings of study {key.get('study')}, found {found.get('study')}; leave it out or give its key")
        rater, given = found.get("rater"), found.get("ratings")
        if not isinstance(rater, str) or not isinstance(given, dict):
            raise InputError(f"{file}: expected a rater and ratings, found {'no ratings' if rater else 'no rater'}; get the file again")
        if rater in raters:
            raise InputError(f"{file}: expected one file for each rater, found a second of {rater}; leave one out")
        raters.append(rater)
        for name, value in given.items():
            if name not in items or isinstance(value, bool) or value not in SCALE:
                raise InputError(f"{file}: expected ratings from 1 to 5 of known items, found {name}: {value}; get the file again")
            values[row, methods.index(items[name]["method"]), pairs.index(items[name]["pair"])] = value
    if not raters:
        raise UsageError("study: expected files of ratings, found none; name the folder that they lie in")
    return Ratings(values, raters, methods, pairs)


def mean_ratings(ratings: Ratings, seed: int = 0) -> dict[str, Estimate]:
    """Mean of each method with the interval of its bootstrap over raters and over pairs at once."""
    random, found = np.random.default_rng(seed), {}
    people, pairs = len(ratings.raters), len(ratings.pairs)
    rows = random.integers(0, people, (RESAMPLES, people, 1))
    columns = random.integers(0, pairs, (RESAMPLES, 1, pairs))
    for at, method in enumerate(ratings.methods):
        values = ratings.values[:, at]
        known, filled = ~np.isnan(values), np.nan_to_num(values)
        count = known[rows, columns].sum((1, 2))
        means = filled[rows, columns].sum((1, 2))[count > 0] / count[count > 0]
        low, high = np.quantile(means, ((1 - LEVEL) / 2, (1 + LEVEL) / 2)) if len(means) else (np.nan, np.nan)
        found[method] = Estimate(float(filled.sum() / max(known.sum(), 1)), float(low), float(high), int(known.sum()))
    return found


def agreement(values: np.ndarray) -> float:
    """Krippendorff's alpha, for intervals, of ratings (raters, items): 1 is full agreement, 0 that of chance.

    NaN where no item has two ratings or all are the same. Source: Krippendorff 2004, Content Analysis, chapter 11.
    """
    units = [column[~np.isnan(column)] for column in values.T]
    units = [unit for unit in units if len(unit) > 1]
    if not units:
        return float("nan")
    everything = np.concatenate(units)
    within = sum(np.square(unit[:, None] - unit[None]).sum() / (len(unit) - 1) for unit in units) / len(everything)
    between = np.square(everything[:, None] - everything[None]).sum() / (len(everything) * (len(everything) - 1))
    return float(1 - within / between) if between else float("nan")


def summarize(ratings: Ratings) -> dict[str, Any]:
    """Everything as one JSON document."""
    alpha = agreement(ratings.values.reshape(len(ratings.raters), -1))
    return {
        "raters": len(ratings.raters),
        "pairs": len(ratings.pairs),
        "agreement": None if np.isnan(alpha) else alpha,
        "methods": {m: {"mean": e.mean, "low": e.low, "high": e.high, "ratings": e.count} for m, e in mean_ratings(ratings).items()},
    }


def summary_page(found: Mapping[str, Any]) -> str:
    """The summary as HTML."""
    rows = [("", [f"<td>{name}</td>", *(f"<td>{row[key]:.2f}</td>" for key in ("mean", "low", "high")), f"<td>{row['ratings']}</td>"])
            for name, row in found["methods"].items()]  # fmt: skip
    alpha = "not defined" if found["agreement"] is None else f"{found['agreement']:.2f}"
    note = f"<p>{found['raters']} raters, {found['pairs']} pairs; agreement (Krippendorff's alpha) {alpha}.</p>"
    return page("Ratings", [("Means of 1 to 5, with 95 % bootstrap intervals", note + table(["method", "mean", "low", "high", "ratings"], rows))])


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected a JSON file of a study, found: {getattr(error, 'strerror', None) or error}; check the path") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: expected a JSON file of a study, found no keys in it; check the path")
    return found
