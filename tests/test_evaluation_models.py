"""Models judged: sweeps, ablations and benches on a tiny random model with an adapter and temporal layers."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import T2IAdapter
from PIL import Image

from hicast.cli import main
from hicast.config.adapters import AdapterUse
from hicast.config.stylize import StylizeSettings, load_style_preset
from hicast.encoders.autoencoder import ResidualAutoencoder
from hicast.encoders.style import StyleEncoder
from hicast.errors import SettingsError, UsageError
from hicast.evaluation import ablation, bench, sweep, sweep_report
from hicast.evaluation.clips import read_clip
from hicast.evaluation.painted import paint_clip, paint_pairs
from hicast.evaluation.painter import Painter
from hicast.evaluation.pairing import Pair
from hicast.io.clip_write import write_frames
from hicast.io.images import load_picture
from hicast.models.hicast_model import HiCastModel
from hicast.models.temporal import TemporalLayers
from hicast.models.unet import ContentProjection, build_unet
from hicast.pipeline import HiCastPipeline

CHANNELS = 8
UNET = {
    "in_channels": 2 * CHANNELS, "out_channels": CHANNELS, "block_out_channels": (32, 32), "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 32, "encoder_hid_dim": 768, "encoder_hid_dim_type": "text_proj", "time_cond_proj_dim": 32,
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A saved model with one adapter and temporal layers."""
    torch.manual_seed(0)
    net = HiCastModel(build_unet(UNET), ContentProjection(CHANNELS, CHANNELS, 128), content_skip=True)
    adapter = T2IAdapter(in_channels=3, channels=[32, 32], num_res_blocks=1, downscale_factor=8, adapter_type="full_adapter")
    scheduler = {"prediction_type": "sample", "timestep_spacing": "trailing", "clip_sample": False}
    index = {"defaults": {"steps": 1}, "style_side": 32, "side_range": [32, 64]}
    pipeline = HiCastPipeline(net, ResidualAutoencoder(CHANNELS, (8, 8, 8)), StyleEncoder(token_grid=2, clamp=6.0), scheduler, index=index,
                              adapters={"edge": adapter}, temporal=TemporalLayers.for_unet(net.unet))  # fmt: skip
    folder = tmp_path_factory.mktemp("models") / "tiny"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def scene(tmp_path, monkeypatch):
    """Two photos, two paintings, a clip and a pairs file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    for seed, name in enumerate(("content/a", "content/b", "style/warm-red", "style/cold-blue")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        colors = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(colors).resize((64, 64), Image.Resampling.BICUBIC).save(tmp_path / f"{name}.png")
    (tmp_path / "pairs.csv").write_text("content,style\na.png,warm-red.png\nb.png,cold-blue.png\n")
    write_frames([np.asarray(Image.open(tmp_path / "content" / "a.png"))] * 3, tmp_path / "clips" / "a.mkv")
    return tmp_path


def point(cf: float, style: float) -> sweep.Point:
    return sweep.Point({"style_scale": cf}, {"cf": cf, "ge": style, "lp": style, "qs3": cf + 2 * style})


def test_axes_and_plans():
    assert sweep.parse_axis("adapters.edge=0,0.5,1") == sweep.Axis("adapters.edge", (0, 0.5, 1))
    assert sweep.parse_axis("style_scale=0.5..1.5") == sweep.Axis("style_scale", bounds=(0.5, 1.5))
    for word in ("color=1", "style_scale", "style_scale=a", "style_scale=2..1", "adapters.=1"):
        with pytest.raises(UsageError, match=re.escape(f"--sweep {word}: expected") + ".*; "):
            sweep.parse_axis(word)
    grid = sweep.plan([sweep.parse_axis("style_scale=0,1"), sweep.parse_axis("steps=1,2")], None)
    assert grid == [{"style_scale": s, "steps": n} for s in (0, 1) for n in (1, 2)]
    axes = [sweep.parse_axis("style_scale=0.5..1.5"), sweep.parse_axis("adapters.edge=0,1")]
    looks = sweep.plan(axes, 20, seed=3)
    assert looks[:7] == sweep.plan(axes, 7, seed=3) and looks != sweep.plan(axes, 20, seed=4)
    assert all(0.5 <= look["style_scale"] <= 1.5 and look["adapters.edge"] in (0, 1) for look in looks)
    with pytest.raises(UsageError, match="expected values for a grid, found a range"):
        sweep.plan(axes, None)
    assert sweep.settings_at(StylizeSettings(), {"adapters.edge": 0.5, "steps": 2.0, "style_scale": 1.5}).model_dump()["adapters"] == {"edge": 0.5}
    with pytest.raises(SettingsError, match="--sweep: style_scale: expected a number from 0 to 2, found 3"):
        sweep.settings_at(StylizeSettings(), {"style_scale": 3})


def test_front_and_choices():
    points = [point(1.0, 0.1), point(0.8, 0.6), point(0.7, 0.55), point(0.3, 0.8)]
    assert sweep.front(points) == [3, 1, 0]
    assert [sweep.choose(points, rule) for rule in ("knee", "content", "style", "qs3", "2")] == [1, 0, 3, 1, 2]
    with pytest.raises(UsageError, match="--choose: expected knee, content, style, qs3 or a number below 4, found 9"):
        sweep.choose(points, "9")


def test_sweep_goes_on_and_leaves_a_preset(scene, model, capsys):
    words = ["eval", "sweep", "--pairs", "pairs.csv", "--model", str(model), "--size", "48", "-o", "out", "--sweep", "style_scale=0.5,1.5"]
    assert main.run([*words, "--sweep", "adapters.edge=0,1", "--choose", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [p["values"] for p in found["points"]] == [{"style_scale": s, "adapters.edge": e} for s in (0.5, 1.5) for e in (0, 1)]
    assert found["points"][0]["means"]["cf"] != found["points"][1]["means"]["cf"]  # the adapter acts
    files = sorted((scene / "out" / "points").iterdir())
    stamps = [path.stat().st_mtime_ns for path in files]
    assert len(files) == 4 and (scene / "out" / "sweep.html").read_text().count("<svg") == 7
    preset = yaml.safe_load((scene / "out" / "preset.yaml").read_text())
    assert {**preset, "description": ""} == {"description": "", "style_scale": 1.5, "content_scale": 1.0, "adapters": {"edge": 1.0}, "steps": 1}
    assert load_style_preset(str(scene / "out" / "preset.yaml"))["style_scale"] == 1.5
    assert main.run([*words, "--sweep", "adapters.edge=0,1,0.5", "--overwrite", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert len(again["points"]) == 6 and again["points"][0] == found["points"][0]
    assert [path.stat().st_mtime_ns for path in files] == stamps
    assert main.run([*words, "--sweep", "adapters.depth=1", "-o", "other"]) == 2
    assert "adapters: expected some of edge, which the model has, found depth" in capsys.readouterr().err


def test_a_sweep_of_a_preset_file_measures_the_look_it_leaves(scene, model, capsys):
    (scene / "mine.yaml").write_text("base: bold\nsize: 40\nadapters: {edge: 0.5}\n")
    words = ["eval", "sweep", "--pairs", "pairs.csv", "--limit", "1", "--model", str(model), "--size", "48", "-o", "out", "--preset", "mine.yaml",
             "--set", "steps=2", "--sweep", "content_scale=1,1.2", "--choose", "1"]  # fmt: skip
    assert main.run(words) == 0
    left = load_style_preset(str(scene / "out" / "preset.yaml"))
    kept = {key: left[key] for key in ("style_scale", "content_scale", "adapters", "size", "steps")}
    assert kept == {"style_scale": 1.15, "content_scale": 1.2, "adapters": {"edge": 0.5}, "size": 40, "steps": 2}
    point = json.loads((scene / "out" / "sweep.json").read_text())["points"][1]
    capsys.readouterr()
    assert main.run(["eval", "images", "--pairs", "pairs.csv", "--model", str(model), "--size", "48", "-o", "again", "--metrics", "cf",
                     "--preset", "out/preset.yaml", "--json"]) == 0  # fmt: skip
    again = json.loads(capsys.readouterr().out)
    assert again["pairs"][0]["scores"]["tiny"]["cf"] == pytest.approx(point["means"]["cf"], abs=1e-6)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--sweep", "steps=1", "--sweep", "steps=2"], "--sweep steps: expected each setting once, found it twice; list all its values in one"),
        (["--sweep", "steps=1,2", "--choose", "2"], "--choose: expected knee, content, style, qs3 or a number below 2, found 2"),
        (["--sweep", "steps=1", "--size", "16"], "--size: expected 32 or more, found 16; raise it"),
        (["--sweep", "adapters.depth=0,1"], "adapters: expected some of edge, which the model has, found depth"),
        (["--sweep", "steps=1", "--model", "none"], "model: expected compact or a folder, found 'none', which is neither"),
    ],
)
def test_bad_sweeps_are_told_before_anything_is_painted(scene, model, capsys, words, message):
    assert main.run(["eval", "sweep", "--pairs", "pairs.csv", "--model", str(model), "-o", "out", *words]) in (1, 2)
    assert message in " ".join(capsys.readouterr().err.split()) and not (scene / "out").exists()


def test_heat_maps_of_every_two_settings():
    points = [sweep.Point({"a": x, "b": y, "c": z}, {"cf": x, "ge": y, "lp": z}) for x in (0, 1) for y in (0, 1) for z in (0, 1)]
    page = sweep_report.sweep_page(points, 0, {"cf": "CF"})
    assert page.count("<svg") == 1 + 3  # the front, and a with b, a with c, b with c
    assert ">0.5</text>" in sweep_report.heat(points, "b", "c", "cf", "CF")  # a mean over a


def test_variants_of_a_look():
    looks = ablation.variants(StylizeSettings(style_scale=1.5, adapters={"edge": 0.3}), ["edge", "depth"], 0.7)
    assert list(looks) == ["image model", "+ edge", "+ depth", "all adapters", "style scale 1.5", "without style scale"]
    held = {name: look.model_dump()["adapters"] for name, look in looks.items()}
    assert held["image model"] == {} and looks["image model"].style_scale == 1
    assert held["+ depth"] == {"depth": 0.7} and held["all adapters"] == {"edge": 0.7, "depth": 0.7}
    assert held["style scale 1.5"] == held["without style scale"] == {"edge": 0.3}
    assert list(ablation.variants(StylizeSettings(), [])) == ["image model"]
    assert ablation.slug("old: + edge 1.5") == "old-edge-1.5"


def test_ablation_from_end_to_end(scene, model, capsys):
    words = ["eval", "ablation", "--pairs", "pairs.csv", "--model", str(model), "--preset", "bold", "--video", "clips", "--size", "48",
             "--metrics", "cf,ge,lp,qs3,edge", "--kinds-from-names", "--against", f"same={model}", "-o", "out", "--json"]  # fmt: skip
    assert main.run(words) == 0
    found = json.loads(capsys.readouterr().out)
    own = ["image model", "+ edge", "style scale 1.15", "without style scale"]
    assert list(found["methods"]) == ["content", "style", "color", *own, *(f"same: {name}" for name in own)]
    assert set(found["kinds"]) == {"warm", "cold"}
    assert found["methods"]["image model"] == found["methods"]["same: image model"] == found["methods"]["without style scale"]
    assert found["methods"]["image model"]["cf"] != found["methods"]["+ edge"]["cf"]
    clips = json.loads((scene / "out" / "clips" / "report.json").read_text())
    assert list(clips["methods"]) == ["content", "style", "color", "per frame", "temporal layers", "same: per frame", "same: temporal layers"]
    assert found["clips"]["methods"] == clips["methods"] and clips["methods"]["per frame"] == clips["methods"]["same: per frame"]
    painted = [*(scene / "out" / "clips" / "per-frame").glob("*.mkv"), scene / "out" / "edge" / "000.png"]
    stamps = [path.stat().st_mtime_ns for path in painted]
    (scene / "pairs.csv").write_text("content,style\na.png,warm-red.png\nb.png,cold-blue.png\ngone.png,cold-blue.png\n")
    assert main.run([*words, "--overwrite"]) == 1
    out, err = capsys.readouterr()
    assert len(painted) == 2 and [path.stat().st_mtime_ns for path in painted] == stamps
    assert err.count("content/gone.png: expected a picture, found no such file") == 1 and "1 file could not be used" in err
    bad = ["eval", "images", "--pairs", "pairs.csv", "--model", str(model), "--metrics", "lpips", "--weights", "lpips=content", "-o", "bad"]
    assert main.run(bad) == 1 and not (scene / "bad").exists()  # weights are opened before anything is painted
    assert "weights: expected .safetensors or .pth files in content, found none" in capsys.readouterr().err
    few = ["eval", "ablation", "--pairs", "pairs.csv", "--model", str(model), "--metrics", "fid", "--weights", "inception=none", "-o", "few"]
    assert main.run(few) == 2 and not (scene / "few").exists()
    assert "fid: expected 2048 pairs or more, found 3, with which it means nothing" in capsys.readouterr().err


def test_all_of_a_look_counts(scene, model):
    pipeline = HiCastPipeline.from_pretrained(model, "cpu", "float32")
    pair, plain = Pair("000", scene / "content/a.png", scene / "style/warm-red.png"), StylizeSettings(model=str(model), size=64)
    first = Painter(pipeline).image(pair, plain)
    for more in ({"preserve_color": True}, {"content_scale": 1.5}, {"adapters": {"edge": 1.0}}, {"seed": 1}, {"size": 32}):
        assert not np.array_equal(Painter(pipeline).image(pair, plain.model_copy(update=more)), first), more
    small = Painter(pipeline).image(pair, plain.model_copy(update={"size": 32, "keep_size": True}))
    assert small.shape == (32, 32, 3)
    with pytest.raises(UsageError, match="keep_outside: expected none where many pairs are judged, found True; leave it out"):
        Painter(pipeline).check(plain.model_copy(update={"keep_outside": True}))


def test_clips_are_painted_with_adapters_and_found_again(scene, model):
    painter = Painter(HiCastPipeline.from_pretrained(model, "cpu", "float32"))
    pair, plain = Pair("a", scene / "clips/a.mkv", scene / "style/warm-red.png"), StylizeSettings(model=str(model), size=64)
    with_edge = plain.model_copy(update={"adapters": {"edge": AdapterUse(1.0)}})
    path = paint_clip(painter, pair, plain, scene / "out", str(model))["a"]
    first, stamp = read_clip(path, 64), path.stat().st_mtime_ns
    assert paint_clip(painter, pair, plain, scene / "out", str(model)) == {"a": path} and path.stat().st_mtime_ns == stamp
    paint_clip(painter, pair, with_edge, scene / "out", str(model))
    assert not np.array_equal(read_clip(path, 64), first)
    with ablation.nullified(painter):
        paint_clip(painter, pair, with_edge, scene / "out", str(model))
    assert json.loads((scene / "out" / "a.json").read_text())["temporal"] is False
    failed: list = []
    gone = Pair("b", scene / "clips/b.mkv", pair.style)
    assert paint_clip(painter, gone, plain, scene / "out", str(model), failed=failed) == {} and failed[0]["file"].endswith("b.mkv")


def test_a_photo_that_changed_is_painted_anew(scene, model):
    painter, settings = Painter(HiCastPipeline.from_pretrained(model, "cpu", "float32")), StylizeSettings(model=str(model), size=32)
    pair = Pair("000", scene / "content/a.png", scene / "style/warm-red.png")
    first = load_picture(paint_pairs(painter, [pair], settings, scene / "out", str(model))["000"]).pixels
    Image.fromarray(255 - np.asarray(Image.open(pair.content))).save(pair.content)
    again = paint_pairs(Painter(painter.pipeline), [pair], settings, scene / "out", str(model))["000"]
    assert not np.array_equal(load_picture(again).pixels, first)
    again.write_bytes(b"half a file")
    paint_pairs(painter, [pair], settings, scene / "out", str(model))
    assert load_picture(again).pixels.shape == (64, 64, 3)


def test_a_model_is_judged_from_end_to_end(scene, model, capsys):
    words = ["eval", "images", "--pairs", "pairs.csv", "--model", str(model), "--size", "48", "--metrics", "cf", "-o", "out", "--json"]
    assert main.run([*words, "--set", "adapters.edge=1"]) == 0
    first = json.loads(capsys.readouterr().out)["methods"]["tiny"]
    result = scene / "out" / "tiny" / "000.png"
    stamp = result.stat().st_mtime_ns
    assert main.run([*words, "--set", "adapters.edge=1", "--overwrite"]) == 0 and result.stat().st_mtime_ns == stamp
    capsys.readouterr()
    assert main.run([*words, "--overwrite"]) == 0 and result.stat().st_mtime_ns != stamp
    assert json.loads(capsys.readouterr().out)["methods"]["tiny"] != first
    assert main.run(["eval", "video", "--content", "clips", "--style", "style/warm-red.png", "--model", str(model), "--size", "48",
                     "--metrics", "cf", "-o", "clip-out", "--json"]) == 0  # fmt: skip
    assert json.loads(capsys.readouterr().out)["methods"]["tiny"]["pairs"] == 1


def test_bench_counts_rounds_and_compares(scene, model, capsys):
    words = ["bench", "--model", str(model), "--repeats", "1", "--warm-up", "0", "--frames", "2", "--device", "cpu"]
    assert main.run([*words, "--sizes", "32,40", "--steps", "1,2", "-o", "first.json", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    parts = ["base", "adapter edge", bench.CLIP, bench.TEMPORAL]
    assert [(row["part"], row["size"], row["steps"]) for row in first["cases"]] == [(p, s, n) for s in (32, 40) for n in (1, 2) for p in parts]
    base = [row for row in first["cases"] if row["part"] == "base"]
    assert all(row["ratio"] == 1 and row["seconds"] > 0 and (row["memory_mib"] or 1) > 0 for row in base)
    weights = {row["part"]: row["weights_mib"] for row in first["cases"]}
    assert weights["adapter edge"] > weights["base"] == weights[bench.CLIP] < weights[bench.TEMPORAL]
    (scene / "first.json").write_text(json.dumps(first | {"threads": first["threads"] + 1}))
    assert main.run([*words, "--sizes", "32", "--compare", "first.json"]) == 0
    out, err = capsys.readouterr()
    assert "before" in out and f"threads was {first['threads'] + 1}, now {first['threads']}" in err
    (scene / "bad.json").write_text("{}")
    assert main.run([*words, "--compare", "bad.json"]) == 1
    assert main.run([*words, "--adapters", "depth"]) == 2
    assert main.run(["bench", "--sizes", "8"]) == 2
    assert "--sizes: expected whole numbers of 32 or more apart by commas, found 8" in capsys.readouterr().err


def test_bench_takes_turns_and_compares_by_case():
    order = []
    wanted = [bench.Case(name, 8, 1, lambda name=name: order.append(name)) for name in ("base", "b")]
    rows = bench.measure(wanted, "cpu", warm_up=1, repeats=2)
    assert order[:6] == ["base", "b", "b", "base", "base", "b"] and rows[0]["ratio"] == 1
    earlier = {"cases": [{"part": "b", "size": 8, "steps": 1, "seconds": rows[1]["seconds"] / 2, "working_mib": 4.0}]}
    rows[1]["working_mib"] = 6.0
    found = bench.compare(rows, earlier)
    assert [row["change"] for row in found] == [None, pytest.approx(2)] and [row["memory_change"] for row in found] == [None, 1.5]
    assert bench.differences({"device": "cpu", "threads": 2}, {"device": "cuda", "threads": 2}) == ["device was cuda, now cpu"]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory of a process is told by Linux alone")
def test_memory_is_that_of_the_run():
    small, large = (bench.peak_memory(lambda count=count: np.ones(count * 2**20, np.uint8).sum(), "cpu") for count in (1, 200))
    assert 190 < large[1] < 260 and small[1] < 60 and large[0] > large[1]


def test_a_study_of_a_model_stylizes_first(scene, model):
    assert main.run(["eval", "study", "--pairs", "pairs.csv", "--model", str(model), "--limit", "1", "-o", "study"]) == 0
    assert [item["method"] for item in json.loads((scene / "study" / "key.json").read_text())["items"].values()] == ["tiny"]
    assert (scene / "study" / "tiny" / "000.png").is_file()
