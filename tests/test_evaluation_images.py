"""Judging pictures from end to end: pairs found by file or name, anchors and peers in one table, bad input told, a report in one file."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from hicast.cli import main
from hicast.errors import InputError, UsageError
from hicast.evaluation.pairing import Pair, all_pairs, match, match_by_name, read_pairs
from hicast.evaluation.runner import check_methods

QUICK = ["--size", "48", "--metrics", "cf,ge,lp,qs3,ssim,colors"]


def save(path, seed: int, size=(64, 48)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    colors = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(colors).resize(size, Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def scene(tmp_path, monkeypatch):
    """Three photos, two paintings, a pairs file, and results of two methods."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    for at, name in enumerate("abc"):
        save(tmp_path / "content" / f"{name}.png", at)
        save(tmp_path / "ours" / f"{at:03d}.png", 20 + at)
        shutil.copy(tmp_path / "content" / f"{name}.png", tmp_path / f"{at}.png")
        (tmp_path / "lazy").mkdir(exist_ok=True)
        shutil.move(tmp_path / f"{at}.png", tmp_path / "lazy" / f"{at:03d}.png")
    for at, name in enumerate(("red", "blue")):
        save(tmp_path / "style" / f"{name}.png", 10 + at, (40, 40))
    (tmp_path / "pairs.csv").write_text("content,style,kind\na.png,red.png,warm\nb.png,blue.png,cold\nc.png,red.png,warm\n")
    return tmp_path


def test_pairs_by_file(scene):
    pairs = read_pairs(scene / "pairs.csv")
    assert pairs[1] == Pair("001", scene / "content" / "b.png", scene / "style" / "blue.png", "cold")
    (scene / "spread.csv").write_bytes("\ufeffcontent, style, kind\r\na.png, red.png, warm\r\nb.png, blue.png, cold\r\n".encode())  # as spreadsheets do
    assert read_pairs(scene / "spread.csv") == pairs[:2]
    (scene / "ours" / "extra.png").write_bytes((scene / "ours" / "000.png").read_bytes())
    (scene / "ours" / "002.png").unlink()
    found = match(pairs, {"ours": scene / "ours"})
    assert found.unmatched == {"ours, results": ["extra.png"], "ours, pairs": ["002"]}
    assert found.notes() == ["ours, results: 1 without partner: extra.png", "ours, pairs: 1 without partner: 002"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("photo,style\n", "expected the columns content,style, found photo, style; name them in its first line"),
        ("content,style\n", "expected at least one pair below the first line, found none; add rows"),
        ("content,style\na.png,\n", "line 2: expected a content and a style, found one empty; complete the line"),
    ],
)
def test_bad_pairs_files(tmp_path, text, message):
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(InputError, match=re.escape(message)):
        read_pairs(tmp_path / "pairs.csv")


def test_pairs_by_name(scene):
    for name in ("a-red.png", "b_blue.png", "007_c_red.png", "what.png"):
        shutil.copy(scene / "ours" / "000.png", scene / "named" / name) if (scene / "named").is_dir() else save(scene / "named" / name, 1)
    found = match_by_name(scene / "content", scene / "style", {"ours": scene / "named"})
    assert [(pair.content.stem, pair.style.stem) for pair in found.pairs] == [("c", "red"), ("a", "red"), ("b", "blue")]
    assert found.unmatched == {"ours, results": ["what.png"]}
    single = match_by_name(scene / "content", scene / "style" / "red.png", {"x": scene / "content"})
    assert [pair.key for pair in single.pairs] == ["a", "b", "c"] and not single.unmatched
    assert [pair.key for pair in all_pairs(scene / "content", scene / "style")] == ["a-blue", "b-red", "c-blue"]
    with pytest.raises(InputError, match="expected results named after photo and painting, found 000.png"):
        match_by_name(scene / "content", scene / "style", {"ours": scene / "ours"})


def test_names_of_methods():
    with pytest.raises(UsageError, match="expected another name, found that of an anchor"):
        check_methods(["content"])
    with pytest.raises(UsageError, match="expected each name once, found it twice"):
        check_methods(["a", "a"])


def test_one_table_with_anchors_and_peers(scene, capsys):
    words = ["eval", "images", "--pairs", "pairs.csv", "--stylized", "ours", "--peers", "lazy=lazy", "-o", "out", *QUICK]
    assert main.run([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["methods"]) == ["content", "style", "color", "stylized", "lazy"] and set(found["kinds"]) == {"warm", "cold"}
    means = found["methods"]
    assert means["content"]["cf"] == pytest.approx(1, abs=1e-5) and means["style"]["ge"] == pytest.approx(1, abs=1e-5)
    for name in ("cf", "ge", "lp", "ssim"):  # a method that gives the photo back is scored like the photo
        assert means["lazy"][name] == pytest.approx(means["content"][name], abs=1e-6)
    rows = list(csv.DictReader((scene / "out" / "pairs.csv").open()))
    assert len(rows) == 15 and set(rows[0]) >= {"pair", "content", "style", "kind", "method", "CF (VGG-16)", "colours"}
    ours = [float(row["CF (VGG-16)"]) for row in rows if row["method"] == "stylized"]
    assert means["stylized"]["cf"] == pytest.approx(np.mean(ours)) and means["stylized"]["pairs"] == 3
    text = (scene / "out" / "report.md").read_text()
    assert "no published score" in text and "## Worst pairs" in text and "- stylized, by qs3: " in text
    assert main.run(words) == 1  # the report is there already
    assert "add --overwrite" in capsys.readouterr().err


def test_order_and_batch_change_nothing(scene, capsys):
    words = ["eval", "images", "--stylized", "ours", "--json", *QUICK]
    assert main.run([*words, "--pairs", "pairs.csv", "--batch", "1", "-o", "one"]) == 0
    one = json.loads(capsys.readouterr().out)
    (scene / "other.csv").write_text("content,style\nc.png,red.png\nb.png,blue.png\na.png,red.png\n")
    (scene / "ours" / "000.png").rename(scene / "x.png")
    (scene / "ours" / "002.png").rename(scene / "ours" / "000.png")
    (scene / "x.png").rename(scene / "ours" / "002.png")
    assert main.run([*words, "--pairs", "other.csv", "--batch", "5", "-o", "two"]) == 0
    two = json.loads(capsys.readouterr().out)
    for method, row in one["methods"].items():
        assert two["methods"][method] == pytest.approx(row, abs=2e-3)
    assert one["pairs"][0]["scores"]["stylized"] == pytest.approx(two["pairs"][2]["scores"]["stylized"], abs=2e-3)


def test_bad_pictures_are_counted_and_sizes_told(scene, capsys):
    (scene / "ours" / "001.png").write_bytes(b"no picture")
    save(scene / "ours" / "002.png", 3, (30, 30))
    words = ["eval", "images", "--pairs", "pairs.csv", "--stylized", "ours", "-o", "out", *QUICK, "--json"]
    assert main.run(words) == 1
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["methods"]["stylized"]["pairs"] == 2 and found["methods"]["content"]["pairs"] == 3
    assert [entry["file"] for entry in found["failed"]] == ["ours/001.png"] and "1 file could not be used" in err
    assert found["notes"] == ["stylized: 1 of 2 results have another size than their photo; all are compared at 48 x 48"]
    (scene / "content" / "a.png").write_bytes(b"no picture")
    assert main.run([*words, "--overwrite"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["methods"]["content"]["pairs"] == 2 and found["methods"]["stylized"]["pairs"] == 1


@pytest.mark.parametrize(
    "words, message",
    [
        (["--content", "content", "--style", "style"], "expected --stylized, --peers or --model, found none"),
        (["--stylized", "none", "--pairs", "pairs.csv"], "none: expected a folder of pictures, found no such folder"),
        (["--stylized", "empty", "--pairs", "pairs.csv"], "empty: expected pictures (.jpg, "),
        (["--stylized", "ours", "--pairs", "pairs.csv", "--metrics", "cf,nice"], "expected names of metrics, found nice"),
        (["--peers", "ours", "--pairs", "pairs.csv"], "expected NAME=VALUE, found ours"),
        (["--stylized", "ours", "--pairs", "pairs.csv", "--size", "8"], "--size: expected 32 or more, found 8"),
        (["--stylized", "ours", "--pairs", "pairs.csv", "--metrics", "fid"], "--metrics fid: expected its weights, found none"),
        (["--stylized", "ours", "--pairs", "pairs.csv", "--metrics", ","], "--metrics: expected names of metrics apart by commas, found none"),
        (["--stylized", "ours", "--pairs", "pairs.csv", "--weights", "vgg=x"], "--weights vgg: expected what weights are for, found vgg; did you mean vgg19?"),
        (["--stylized", "ours", "--pairs", "pairs.csv", "--extractor", "color=x"], "--extractor color: expected the name of a control, found color"),
        (["--model", "compact", "--pairs", "pairs.csv", "--metrics", "fid", "--weights", "inception=x"], "fid: expected 2048 pairs or more, found 3"),
        (["--model", "none", "--pairs", "pairs.csv"], "model: expected compact or a folder, found 'none', which is neither"),
    ],
)
def test_bad_requests_are_one_line(scene, capsys, words, message):
    (scene / "empty").mkdir()
    assert main.run(["eval", "images", *words]) in (1, 2)
    err = capsys.readouterr().err
    assert message in " ".join(err.split()) and "Traceback" not in err and not (scene / "evaluation").exists()


@pytest.mark.parametrize("words", [("images", "--stylized", "ours"), ("video", "--stylized", "ours"), ("study", "--stylized", "ours"), ("sweep",), ("ablation",)])
@pytest.mark.parametrize(
    "given, found",
    [
        ((), "found neither; name the photos and the paintings"),
        (("--content", "content"), "found --content alone; add --style"),
        (("--style", "style"), "found --style alone; add --content"),
    ],
)
def test_what_is_missing_to_make_pairs_is_told(scene, capsys, words, given, found):
    assert main.run(["eval", *words, *given, "-o", "out"]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"hicast: expected --content and --style, or --pairs, {found}\n") and not (scene / "out").exists()


def test_the_page_is_one_file(scene, capsys):
    assert main.run(["eval", "images", "--pairs", "pairs.csv", "--stylized", "ours", "-o", "out", *QUICK]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "out/report.html"
    text = (scene / "out" / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:)', text) and "http" not in re.sub(r"data:[^\"]*", "", text)
    assert text.count("<svg") == 7 and text.count('data-method="stylized"') == 3 and 'type="range"' in text
    assert "Content against style" in text and "Worst pairs of stylized by QS3 (VGG-16)" in text
