"""The benchmark of engines: it runs on a tiny model, and its figures fit together."""

import importlib
import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs openvino: pip install openvino")
def test_figures_of_both_engines_fit_together(make_pipeline, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(FOLDER)
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    threads = torch.get_num_threads()
    make_pipeline(levels=2, style_side=32, side_range=[32, 64]).save_pretrained(tmp_path / "model")
    engines = importlib.import_module("engines")
    monkeypatch.setattr(importlib.import_module("rivals"), "magenta_networks", lambda count: (lambda painting: painting, lambda photo, code: photo))
    words = ["--model", str(tmp_path / "model"), "--sizes", "32", "--repeats", "1", "--threads", "1", "--frames", "2", "--json", str(tmp_path / "out.json")]
    try:
        engines.main(words)
    finally:
        torch.set_num_threads(threads)
        for name in ("engines", "stylize_image", "timing", "rivals"):
            sys.modules.pop(name, None)
    report = json.loads((tmp_path / "out.json").read_text())
    assert [(row["size"], row["way"]) for row in report["rows"]] == [(size, f"painting {way}") for size in (32, 384) for way in ("encoded anew", "known")]
    for row in (*report["rows"], *report["clips"]):
        assert row["torch_over_openvino"] == pytest.approx(row["seconds"]["torch"] / row["seconds"]["openvino"])
    assert report["rows"][2]["over_magenta"]["openvino"] == pytest.approx(report["rows"][2]["seconds"]["openvino"] / report["rows"][2]["seconds"]["magenta"])
    assert [row["way"] for row in report["clips"]] == ["clip, frame by frame"]
    (row,) = report["differences"]
    assert row["openvino_float32"] < 0.01 < 1 > max(row["openvino"], row["between"])
    assert "clip, frame by frame" in capsys.readouterr().out
