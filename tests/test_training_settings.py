"""Settings of training: their places, what is missing, what is wrong."""

from pathlib import Path

import pytest
from PIL import Image

from hicast.cli.main import run
from hicast.config.presets import list_presets, load_preset
from hicast.config.train import AdapterTraining, AutoencoderTraining, ImageTraining
from hicast.config.train_layers import contradictions, default_preset, require, resolve_training
from hicast.config.train_run import TrainSettings
from hicast.errors import SettingsError, UsageError
from hicast.training.run import STAGES

KINDS = {name: kind.settings for name, kind in STAGES.items()}


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    """A working folder and a user's configuration folder that are empty."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def _resolve(stage: str = "image", **more) -> TrainSettings:
    return resolve_training(stage, KINDS, **more)


def test_stages_and_their_settings_agree():
    assert all(kind.settings().stage == name for name, kind in STAGES.items())


@pytest.mark.parametrize("name", list_presets("train"))
def test_every_shipped_preset_can_be_used(name):
    values = load_preset(name, "train")
    assert values["description"].endswith(".")
    assert not contradictions(_resolve(values["stage"], preset=name))


def test_presets_of_the_compact_model_mean_what_they_say():
    settings = _resolve("autoencoder")
    assert settings.autoencoder == {"latent_channels": 24, "widths": [32, 64, 128]} and settings.model == "compact"
    assert (settings.steps, settings.accumulate, settings.rate) == (7000, 1, "cosine")


def test_weak_to_strong_preset_file_words_flags():
    Path("hicast.yaml").write_text("seed: 5\ntrain: {steps: 11, batch_size: 12, crop: 64, style_side: 96}\n")
    settings = _resolve(words={"batch_size": 10, "crop": 96}, flags={"crop": 160, "content": ["a"]})
    assert (settings.seed, settings.steps, settings.batch_size, settings.crop, settings.style_side) == (5, 11, 10, 160, 96)
    assert settings.content == (Path("a"),) and settings.ema == load_preset("compact-image", "train")["ema"]
    assert _resolve(preset="debug-image").steps == load_preset("debug-image", "train")["steps"]


def test_file_holds_folders_and_sections_of_stages():
    Path("hicast.yaml").write_text(
        "train:\n  content: photos\n  style: [a, b]\n  style_side: 128\n  from: runs/x\n"
        "  image: {output: runs/image}\n  autoencoder: {output: runs/ae, latent_noise: 0.2}\n"
    )
    image, autoencoder = _resolve(), _resolve("autoencoder")
    assert image.content == (Path("photos"),) and image.style == (Path("a"), Path("b")) and image.start == "runs/x"
    assert (image.output, image.style_side) == (Path("runs/image"), 128)
    assert (autoencoder.output, autoencoder.latent_noise) == (Path("runs/ae"), 0.2)


def test_file_names_the_preset_and_the_model():
    Path("hicast.yaml").write_text("model: debug\ntrain: {steps: 3}\n")
    assert (_resolve().steps, _resolve().crop) == (3, 32)
    assert default_preset("image", "some/folder") == "compact-image"


def test_unknown_keys_of_the_file_come_together():
    Path("hicast.yaml").write_text("train: {contnet: a, steps: 3, image: 4, setps: 5}\n")
    with pytest.raises(SettingsError) as caught:
        _resolve()
    assert len(caught.value.problems) == 3 and "did you mean content?" in caught.value.problems[0]


def test_problems_of_all_places_come_together():
    with pytest.raises(SettingsError) as caught:
        _resolve(words={"losses": {"styel": 1}, "steps": 0, "zoom": [0.9, 0.2], "learning_rat": 1}, flags={"crop": 100})
    text = str(caught.value)
    assert len(caught.value.problems) == 5
    assert "did you mean style?" in text and "did you mean learning_rate?" in text
    assert "zoom: expected the smaller number first, found 0.9 before 0.2" in text


def test_contradictions_come_together():
    with pytest.raises(SettingsError) as caught:
        _resolve(words={"batch_size": 6, "accumulate": 4, "crop": 512, "drop_style": 0.8, "drop_content": 0.5})
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["accumulate", "crop", "drop_style, drop_content"]
    assert contradictions(ImageTraining(autocast="float16", device="cpu"))
    assert contradictions(AutoencoderTraining(losses={"l1": 0}))
    assert contradictions(ImageTraining(losses={"repetition": 1}, crop=64))


def test_problems_of_every_place_come_together_whatever_they_are(capsys):
    Path("hicast.yaml").write_text("stile: 1\ntrain: {setps: 5, accumulate: 3, batch_size: 4, image: {crop: 100}}\n")
    words = ["--set", "steps", "--set", "drop_style=0.8", "--set", "drop_content=0.5", "--set", "image_side=90", "--max-minutes", "0"]
    assert run(["train", "--stage", "image", "--preset", "debug-image", *words]) == 2
    found = capsys.readouterr().err.removeprefix("hicast: ").split("; ")
    assert [problem for problem in found if ": expected" in problem] == [
        "--set steps: expected KEY=VALUE, found steps",
        "--max-minutes: expected a number above 0, found 0",
        "hicast.yaml: stile: expected a command or a shared key, found stile",
        "hicast.yaml: train.setps: expected a known key, found setps",
        "hicast.yaml: crop: expected a whole number at least 32 and that is a multiple of 32, found 100",
        "accumulate: expected a divisor of batch_size 4, found 3",
        "drop_style, drop_content: expected a sum of at most 1, found 1.3",
    ]


@pytest.mark.parametrize("preset, problem", [("compact-image", "preset compact-image: expected one for the stage autoencoder, found one for image"),
                                             ("compact-imag", "expected the name of a preset or a .yaml file, found compact-imag; did you mean")])
def test_preset_that_cannot_be_taken_hides_nothing(preset, problem):
    with pytest.raises(SettingsError) as caught:
        _resolve("autoencoder", preset=preset, words={"latent_noise": -1, "batch_size": 5, "accumulate": 2})
    first, second = caught.value.problems
    assert first.startswith(problem) and second == "--set: latent_noise: expected a number at least 0, found -1"


def test_file_that_cannot_be_read_hides_nothing():
    Path("hicast.yaml").write_text("train: {steps: [1}\n")
    with pytest.raises(SettingsError) as caught:
        _resolve(words={"crop": 1})
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["hicast.yaml", "--set"]
    Path("hicast.yaml").write_text("train: {preset: 3}\n")
    with pytest.raises(SettingsError, match="preset 3: expected its name, found 3; write a name or a .yaml file"):
        _resolve()


def test_contradictions_of_values_that_are_refused_are_not_told():
    with pytest.raises(SettingsError) as caught:
        _resolve(words={"losses": {"styel": 1, "repetition": 1}, "crop": 63, "batch_size": 6, "accumulate": "x"}, preset="debug-image")
    assert sorted(problem.split(":")[1].strip() for problem in caught.value.problems) == ["accumulate", "crop", "losses.styel"]


def test_losses_in_the_file_are_left_to_the_stages_that_have_them():
    Path("hicast.yaml").write_text("train:\n  losses: {control: 2, style: 0.5, warp: 3}\n  image: {losses: {lattice: 9}}\n")
    image, adapter, temporal, autoencoder = (_resolve(stage).losses for stage in ("image", "adapter", "temporal", "autoencoder"))
    assert image["style"] == 0.5 and image["lattice"] == 9 and "control" not in image
    assert (adapter["control"], adapter["style"], temporal["warp"]) == (2, 0.5, 3)
    assert autoencoder == _resolve("autoencoder", preset="compact-autoencoder").losses
    Path("hicast.yaml").write_text("train: {losses: {contrl: 2}, image: {losses: {control: 1}}}\n")
    with pytest.raises(SettingsError) as caught:
        _resolve()
    assert [problem.split(":")[1].strip() for problem in caught.value.problems] == ["losses.contrl", "losses.control"]


def test_terms_of_targets_need_a_folder():
    settings = ImageTraining(losses={"target_gram": 1.0}, content="a", style="b", output="c")
    with pytest.raises(UsageError, match="expected --set targets=FOLDER, found none; give it, or write train.targets in hicast.yaml"):
        require(settings, ("content", "style", "output"), "train --stage image")
    require(ImageTraining(losses={"style": 1.0}, content="a", style="b", output="c"), ("content",), "train --stage image")


def test_an_autoencoder_takes_the_place_of_a_bases():
    advice = "vae: expected --base too, whose autoencoder it takes the place of, found none; add it or leave vae out"
    assert advice in contradictions(ImageTraining(vae="a.safetensors", start="runs/image"))
    assert advice not in contradictions(ImageTraining(vae="a.safetensors", base="stock"))


def test_terms_that_nothing_changes_are_told():
    assert contradictions(ImageTraining(losses={"style": 1, "reconstruction": 1})) == [
        "losses.reconstruction: expected a decoder that learns, found it frozen; add decoder to trained, or set the loss to 0"
    ]
    alone = ImageTraining(losses={"style": 1, "latent": 1, "reconstruction": 1}, trained=("decoder",))
    assert contradictions(alone) == [
        "losses: expected no weight for latent, which only the net changes, found the decoder alone in trained; set it to 0"
    ]
    assert not contradictions(ImageTraining(losses={"style": 1, "latent": 1, "reconstruction": 1}, trained=("net", "decoder")))


def test_terms_beside_the_published_ones_are_told():
    published = ImageTraining(reference=True, losses={"latent": 1, "adversarial": 1, "patch": 2, "color": 1, "content": 0})
    assert contradictions(published) == [
        "losses: expected only latent, noise, style, gram, adversarial and patch with reference, found color; set them to 0"
    ]


def test_layers_that_are_not_measured_are_told():
    with pytest.raises(SettingsError) as caught:
        _resolve(preset="debug-image", words={"losses": {"distribution": 1}, "distribution_layers": {"relu1_2": 1, "relu4_3": 1}})
    assert caught.value.problems == [
        "distribution_layers: expected layers of style_layers (relu1_2, relu2_2), found relu4_3; name them there, if only with 0"
    ]
    words = {"losses": {"distribution": 1}, "distribution_layers": {"relu4_3": 1}, "style_layers": {"relu4_3": 0}}
    assert _resolve(preset="debug-image", words=words).style_layers == {"relu1_2": 2, "relu2_2": 1, "relu4_3": 0}
    none = ImageTraining(losses={"gram": 1, "target_texture": 1}, gram_layers={"relu1_2": 0}, texture_layers={}, content_layers={})
    assert [problem.split(" for ")[1] for problem in contradictions(none)] == [
        "the loss gram, found none; give one a weight, or set losses.gram=0",
        "the loss target_texture, found none; give one a weight, or set losses.target_texture=0",
    ]


def test_contradictions_of_the_adapter_stage():
    published = AdapterTraining(reference=True, losses={"control": 1, "gram": 0.1, "color": 0})
    assert contradictions(published) == ["losses: expected only control, style, latent with reference, found gram; set them to 0"]
    mapped = AdapterTraining(maps="maps", self_pairs=0.2)
    assert contradictions(mapped) == ["self_pairs: expected 0 with maps, which paintings have none of, found 0.2; leave one out"]
    assert not contradictions(AdapterTraining(maps="maps", self_pairs=0.2, reference=True))
    for losses, partial in (({"control": 1}, 0.5), ({"control": 1, "outside": 1}, 0.0)):
        found = contradictions(AdapterTraining(losses=losses, partial=partial))
        assert found == [f"partial, losses.outside: expected both above 0 or both 0, found {partial:g} and {losses.get('outside', 0)}; set both"]
    assert not contradictions(AdapterTraining(losses={"control": 1, "outside": 1}, partial=0.5))


def test_preset_of_another_stage_is_refused():
    with pytest.raises(UsageError, match="preset compact-image: expected one for the stage autoencoder, found one for image"):
        _resolve("autoencoder", preset="compact-image")


def test_what_is_missing_is_said_in_one_line(capsys):
    assert run(["train", "--stage", "image", "--content", "photos"]) == 2
    assert capsys.readouterr().err == (
        "hicast: train --stage image: expected --style, --output, found none; give it, or write train.style, train.output in hicast.yaml\n"
    )
    require(ImageTraining(content=["a"]), ["content"], "here")
    assert run(["train", "--stage", "adapter", "--content", "photos", "--style", "paintings", "--output", "out"]) == 2
    assert capsys.readouterr().err == (
        "hicast: train --stage adapter: expected --control, found none; give it, or write train.control in hicast.yaml\n"
    )
    assert run(["train", "--stage", "image", "--control", "edge", "--content", "a", "--style", "b", "--output", "out"]) == 2
    assert "command line: control: expected a known key, found control" in capsys.readouterr().err


def _folders() -> list[str]:
    """Options for the folders `photos` and `paintings`, which are made, with a picture in each."""
    for name in ("photos", "paintings"):
        Path(name).mkdir()
        Image.new("RGB", (40, 40)).save(Path(name) / "a.png")
    return ["--content", "photos", "--style", "paintings"]


@pytest.mark.parametrize("output", ["taken", "taken/run"])
def test_output_that_is_a_file_is_told_before_anything_is_measured(capsys, monkeypatch, output):
    Path("taken").write_text("mine")
    monkeypatch.setattr("hicast.cli.train.check_data", lambda *_: pytest.fail("data were listed"))
    assert run(["train", "--stage", "image", *_folders(), "--output", output]) == 1
    assert capsys.readouterr().err == f"hicast: --output {output}: expected a folder, there already or new, found a file at taken; name another\n"
    assert Path("taken").read_text() == "mine"


def test_advice_where_memory_runs_out_names_settings_of_training(capsys, monkeypatch):
    def run_out(*_):
        raise MemoryError

    monkeypatch.setattr("hicast.cli.train.check_data", run_out)
    assert run(["train", "--stage", "image", *_folders(), "--output", "out"]) == 1
    line = capsys.readouterr().err
    assert all(key in line for key in ("batch_size", "accumulate", "crop", "gradient_checkpointing=true"))
    assert "--size" not in line and "--tile" not in line


def test_empty_folder_is_one_error_before_anything_is_loaded(capsys):
    Path("photos").mkdir()
    assert run(["train", "--stage", "autoencoder", "--content", "photos", "--output", "out"]) == 1
    line = capsys.readouterr().err
    assert "below photos, found none of them" in line and line.count("\n") == 1 and not Path("out").exists()
