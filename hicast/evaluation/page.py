"""A web page in one file: no network, no other file, pictures inside."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO

import numpy as np
from PIL import Image

JPEG_QUALITY = 86

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#222;max-width:1180px;margin:2rem auto;padding:0 1rem;background:#fff}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.2rem}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
th,td{padding:3px 9px;text-align:right;border-bottom:1px solid #e4e4e4}th:first-child,td:first-child{text-align:left}
td small{color:#777;display:block;white-space:nowrap}td.best{font-weight:700}tr.anchor td{color:#777}.wide{overflow-x:auto}
.plots{display:flex;flex-wrap:wrap;gap:14px}svg{background:#fafafa;border:1px solid #eee}svg text{font:11px system-ui,sans-serif}
svg text.title{font-size:13px;font-weight:600}
.sheet{display:grid;gap:5px;overflow-x:auto;align-items:end}.sheet img{width:100%;display:block}.sheet div{font-size:11px;overflow-wrap:anywhere}
.pair{position:relative;width:512px;max-width:100%;aspect-ratio:1}.pair img{position:absolute;inset:0;width:100%;height:100%}
.pair .over{clip-path:inset(0 0 0 50%)}input[type=range]{width:512px;max-width:100%}
"""

_SLIDER = """
const shots=document.querySelectorAll('img[data-pair]'),find=(p,m)=>[...shots].find(i=>i.dataset.pair===p&&i.dataset.method===m);
const pair=document.getElementById('pair'),method=document.getElementById('method'),range=document.getElementById('range');
const under=document.getElementById('under'),over=document.getElementById('over');
under.onload=()=>{under.parentNode.style.aspectRatio=under.naturalWidth+'/'+under.naturalHeight;};
function show(){const a=find(pair.value,'content'),b=find(pair.value,method.value);under.src=a?a.src:'';over.src=b?b.src:'';over.style.visibility=b?'visible':'hidden';move();}
function move(){over.style.clipPath='inset(0 0 0 '+range.value+'%)';}
pair.onchange=method.onchange=show;range.oninput=move;show();
"""


def page(title: str, sections: Sequence[tuple[str, str]], script: str = "", style: str = "") -> str:
    """The HTML of a page of `sections`, headings with what stands below them; those without content are left out."""
    body = "".join(f"<section><h2>{escape(heading)}</h2>{inner}</section>" for heading, inner in sections if inner)
    end = f"<script>{script}</script>" if script else ""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
        f"<style>{_STYLE}{style}</style></head><body><h1>{escape(title)}</h1>{body}{end}</body></html>\n"
    )


def picture_uri(pixels: np.ndarray, side: int = 256) -> str:
    """`pixels`, uint8 (height, width, 3), reduced to at most `side` pixels a side, as a data URI."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = BytesIO()
    image.save(stream, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def sheet(rows: Sequence[tuple[str, str, Mapping[str, np.ndarray | None]]], columns: Sequence[str]) -> str:
    """A contact sheet of rows (key of the pair, label, picture by column); a picture that is not there leaves its place empty."""
    if not rows:
        return ""
    cells = ["<div></div>", *(f"<div><b>{escape(name)}</b></div>" for name in columns)]
    for key, label, pictures in rows:
        cells.append(f"<div>{escape(label)}</div>")
        for name in columns:
            pixels = pictures.get(name)
            if pixels is None:
                cells.append("<div>-</div>")
                continue
            words = f'data-pair="{escape(key)}" data-method="{escape(name)}" alt="{escape(f"{label}: {name}")}"'
            cells.append(f'<img {words} src="{picture_uri(pixels)}">')
    return f'<div class="sheet" style="grid-template-columns:110px repeat({len(columns)},minmax(90px,1fr))">{"".join(cells)}</div>'


def slider(pairs: Mapping[str, str], methods: Sequence[str]) -> tuple[str, str]:
    """A slider between content and result over the pictures of all sheets of the page: HTML and script.

    `pairs` are labels by key, `methods` those that can be chosen.
    """
    choice = "".join(f'<option value="{escape(key)}">{escape(label)}</option>' for key, label in pairs.items())
    others = "".join(f"<option>{escape(name)}</option>" for name in methods)
    inner = (
        f'<p><select id="pair">{choice}</select> <select id="method">{others}</select></p>'
        '<div class="pair"><img id="under" alt="content"><img id="over" class="over" alt="result"></div>'
        '<input id="range" type="range" min="0" max="100" value="50" aria-label="content or result">'
    )
    return inner, _SLIDER


def table(head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A table of ready HTML cells; each row has a class and its cells."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(f'<tr class="{kind}">{"".join(cells)}</tr>' for kind, cells in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def embedded(value: object) -> str:
    """`value` as JSON that may stand inside a script."""
    return json.dumps(value, ensure_ascii=False).replace("</", "<\\/")
