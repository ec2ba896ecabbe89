"""Models judged: sweeps, ablations and benches on a tiny random model with an adapter, and studies with made-up raters."""

import json
import re

import numpy as np
import pytest
import torch
import yaml
from diffusers import T2IAdapter
from PIL import Image

from hicast.cli import main
from hicast.config.stylize import StylizeSettings, load_style_preset
from hicast.encoders.autoencoder import ResidualAutoencoder
from hicast.encoders.style import StyleEncoder
from hicast.errors import InputError, SettingsError, UsageError
from hicast.evaluation import ablation, bench, study, sweep
from hicast.evaluation.pairing import Pair, Pairing
from hicast.evaluation.summary import Estimate
from hicast.io.clip_write import write_frames
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
        with pytest.raises(UsageError, match=re.escape(f"--sweep {word}: expected")):
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
    assert (preset["base"], preset["style_scale"], preset["adapters"]) == ("balanced", 1.5, {"edge": 1.0})
    assert load_style_preset(str(scene / "out" / "preset.yaml"))["style_scale"] == 1.5
    assert main.run([*words, "--sweep", "adapters.edge=0,1,0.5", "--overwrite", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert len(again["points"]) == 6 and again["points"][0] == found["points"][0]
    assert [path.stat().st_mtime_ns for path in files] == stamps
    assert main.run([*words, "--sweep", "adapters.depth=1", "-o", "other"]) == 2
    assert "adapters: expected some of edge, which the model has, found depth" in capsys.readouterr().err


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
    own = ["image model", "+ edge", "style scale 1.5", "without style scale"]
    assert list(found["methods"]) == ["content", "style", "color", *own, *(f"same: {name}" for name in own)]
    assert set(found["kinds"]) == {"warm", "cold"}
    assert found["methods"]["image model"] == found["methods"]["same: image model"] == found["methods"]["without style scale"]
    assert found["methods"]["image model"]["cf"] != found["methods"]["+ edge"]["cf"]
    clips = json.loads((scene / "out" / "clips" / "report.json").read_text())
    assert list(clips["methods"]) == ["content", "style", "color", "per frame", "temporal layers"]


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
    words = ["bench", "--model", str(model), "--sizes", "32,64", "--steps", "1,2", "--repeats", "1", "--frames", "2", "--device", "cpu"]
    assert main.run([*words, "-o", "first.json", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    parts = ["base", "adapter edge", bench.CLIP, bench.TEMPORAL]
    assert [(row["part"], row["size"], row["steps"]) for row in first["cases"]] == [(p, s, n) for s in (32, 64) for n in (1, 2) for p in parts]
    base = [row for row in first["cases"] if row["part"] == "base"]
    assert all(row["ratio"] == 1 and row["seconds"] > 0 and (row["memory_mib"] or 1) > 0 for row in base)
    assert main.run([*words, "--compare", "first.json"]) == 0
    assert "before" in capsys.readouterr().out
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
    earlier = {"cases": [{"part": "b", "size": 8, "steps": 1, "seconds": rows[1]["seconds"] / 2}]}
    assert [row["change"] for row in bench.compare(rows, earlier)] == [None, pytest.approx(2)]


def made_study(scene) -> tuple[dict, str]:
    pairs = [Pair("000", scene / "content/a.png", scene / "style/warm-red.png"), Pair("001", scene / "content/b.png", scene / "style/cold-blue.png")]
    results = {name: {"000": scene / f"{first}.png", "001": scene / f"{second}.png"}
               for name, first, second in (("ours", "content/a", "content/b"), ("secret", "style/warm-red", "style/cold-blue"))}  # fmt: skip
    page, key = study.write_study(Pairing(pairs, results), scene / "study")
    return json.loads(key.read_text()), page.read_text()


def test_a_study_hides_methods(scene):
    key, page = made_study(scene)
    assert len(key["items"]) == 4 and all(name in page for name in key["items"])
    assert "secret" not in page and "warm-red" not in page and not re.findall(r'(?:src|href)="(?!data:)', page)
    shown = json.loads(re.search(r"const STUDY=(\{.*?\});const|const STUDY=(\{.*?\});\n", page)[0].removeprefix("const STUDY=").rstrip(";\n"))
    assert [item["id"] for item in shown["items"]] == sorted(key["items"]) and len(shown["images"]) == 4


def test_ratings_are_summed_up(scene, capsys):
    key, _ = made_study(scene)
    (scene / "back").mkdir()
    for rater, (ours, secret) in {"x": (4, 2), "y": (5, 1)}.items():
        ratings = {name: ours if item["method"] == "ours" else secret for name, item in key["items"].items()}
        (scene / "back" / f"{rater}.json").write_text(json.dumps({"study": key["study"], "rater": rater, "ratings": ratings}))
    assert main.run(["eval", "study", "--results", "back", "-o", "study", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["methods"]["ours"] == {"mean": 4.5, "low": 4, "high": 5, "ratings": 4} and found["raters"] == 2
    assert found["agreement"] == pytest.approx(study.agreement(np.array([[4, 4, 2, 2], [5, 5, 1, 1]], float)))
    (scene / "back" / "z.json").write_text(json.dumps({"study": "other", "rater": "z", "ratings": {}}))
    with pytest.raises(InputError, match=f"expected ratings of study {key['study']}, found other"):
        study.read_ratings(sorted((scene / "back").iterdir()), scene / "study" / "key.json")


def test_agreement_by_hand():
    values = np.array([[1, 2, 3, np.nan], [1, 2, 4, 5]], float)
    within = (2 * 1) / 6  # one pair of raters differs by 1, counted both ways, over the six ratings that have a partner
    numbers = [1, 1, 2, 2, 3, 4]
    between = sum((a - b) ** 2 for a in numbers for b in numbers) / (6 * 5)
    assert study.agreement(values) == pytest.approx(1 - within / between)
    assert study.agreement(np.array([[1, 2, 3.0]] * 3)) == 1 and np.isnan(study.agreement(np.array([[1, np.nan]])))
    ratings = study.Ratings(np.array([[[1, 5]], [[1, 5]]], float), ["x", "y"], ["m"], ["p", "q"])
    assert study.mean_ratings(ratings)["m"] == Estimate(3.0, 1.0, 5.0, 4)
