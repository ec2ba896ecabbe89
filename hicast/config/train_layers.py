"""The settings of a training run from all places that may hold them: presets, `hicast.yaml`, words and flags."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from hicast.config.layers import Layer, gather, merge, read_command_layer
from hicast.config.presets import TRAINING, list_presets, load_preset
from hicast.config.problems import name_advice, validate
from hicast.config.train import OF_LATENTS, UNPUBLISHED_TERMS, AdapterTraining, ImageTraining, RepaintTraining
from hicast.config.train_run import TrainSettings
from hicast.errors import SettingsError, UsageError

FLAGS = {"start": "--from", "targets": "--set targets=FOLDER"}
"""Options whose name is not that of their key."""

REPETITION_CROP = 96
"""Least crop in pixels in which repeated motifs can be told."""

OTHER_LAYERS = {"texture_layers": "target_texture"}
"""Keys of layers that are not called by the name of their term."""

PUBLISHED_TERMS = ("control", "style", "latent")
"""Terms that the published stage `adapter` has; its content term is our `latent`."""


def resolve_training(stage: str, stages: Mapping[str, type[TrainSettings]], *, preset: str | None = None, words: Mapping[str, Any] | None = None,
                     flags: Mapping[str, Any] | None = None, problems: Iterable[str] = ()) -> TrainSettings:
    """The settings of a run of `stage`: preset, `hicast.yaml`, `words` (`--set`) and `flags`, the weakest first.

    A preset that `preset` does not name (the stage's own for the model, or one that `hicast.yaml` names) is weaker than
    `hicast.yaml`. Raises SettingsError with every problem of every place, after the `problems` that were found before. Contradictions
    are among them as far as they are of sound values; none are told where the preset or the file cannot be read.
    """
    words, flags = dict(words or {}), dict(flags or {})
    own, of_file = _own_layer(stage, stages)
    values = dict(own.values) if own else {}
    named = values.pop("preset", None)
    name = preset or named or default_preset(stage, str(merge(values, words, flags).get("model", "compact")))
    look, of_preset = _preset_layer(name, stage)
    project = [Layer(own.origin, values)] if own else []
    below = [*project, look] if preset else [look, *project]
    settings, of_values, left_out = gather([*below, Layer("--set", words), Layer("command line", flags)], stages[stage])
    found = [*problems, *of_file, *of_preset, *of_values]
    if settings and not of_preset and (own or not of_file):
        found += [sentence for sentence in contradictions(settings) if not left_out.intersection(re.findall(r"\w+", sentence))]
    if found:
        raise SettingsError(found)
    return settings


def load_training_preset(name: str, stages: Mapping[str, type[TrainSettings]]) -> dict[str, Any]:
    """Keys and values of a training preset, checked against those of its stage among `stages`, where it names one.

    Raises SettingsError with all its problems, UsageError for an unknown name.
    """
    values = load_preset(name, TRAINING)
    if (stage := values.get("stage")) is not None:
        if stage not in list(stages):
            raise SettingsError([f"preset {name}: stage: expected one of {', '.join(stages)}, found {stage}; correct it"])
        validate(values, stages[stage], f"preset {name}")
    return values


def default_preset(stage: str, model: str) -> str:
    """The preset that a stage takes unless told otherwise: that of the model, else the compact model's."""
    name = f"{model}-{stage}"
    return name if name in list_presets(TRAINING) else f"compact-{stage}"


def contradictions(settings: TrainSettings) -> list[str]:
    """One sentence for each pair of settings that cannot both be meant."""
    found = []
    if settings.batch_size % settings.accumulate:
        found.append(f"accumulate: expected a divisor of batch_size {settings.batch_size}, found {settings.accumulate}")
    if not any(settings.losses.values()):
        found.append("losses: expected a weight above 0, found none; raise one")
    if settings.crop > settings.image_side:
        found.append(f"crop: expected at most image_side {settings.image_side}, found {settings.crop}; change one of them")
    if settings.losses.get("repetition") and settings.crop < REPETITION_CROP:
        found.append(f"crop: expected {REPETITION_CROP} or more for the loss repetition, found {settings.crop}; change one of them")
    dropped = getattr(settings, "drop_style", 0) + getattr(settings, "drop_content", 0)
    if dropped > 1:
        found.append(f"drop_style, drop_content: expected a sum of at most 1, found {dropped:g}; lower one")
    if getattr(settings, "base", None) and settings.start:
        found.append("--base, --from: expected one of them to start from, found both; drop one")
    if getattr(settings, "vae", None) and not settings.base:
        found.append("vae: expected --base too, whose autoencoder it takes the place of, found none; add it or leave vae out")
    if getattr(settings, "reference", False):
        found += _beside_reference(settings)
    if settings.device == "cpu":
        found += [f"{key}: expected bfloat16 or float32 on a CPU, found float16; change it or the device" for key in halves(settings)]
    if isinstance(settings, AdapterTraining) and settings.maps and settings.self_pairs and not settings.reference:
        found.append(f"self_pairs: expected 0 with maps, which paintings have none of, found {settings.self_pairs:g}; leave one out")
    if isinstance(settings, AdapterTraining) and bool(settings.partial) != bool(settings.losses.get("outside")):
        weight = settings.losses.get("outside", 0)
        found.append(f"partial, losses.outside: expected both above 0 or both 0, found {settings.partial:g} and {weight:g}; set both")
    if isinstance(settings, RepaintTraining):
        found += _without_layers(settings)
    if isinstance(settings, ImageTraining):
        found += _without_gradient(settings)
    return found


def halves(settings: TrainSettings) -> list[str]:
    """Keys of precisions that are float16, which only a GPU computes in."""
    return [key for key in ("autocast", "frozen_dtype") if getattr(settings, key) == "float16"]


def _without_layers(settings: RepaintTraining) -> list[str]:
    """Terms in use that lack the layers they read; those of `distribution` are measured where those of `style` are."""
    terms = {key: key.removesuffix("_layers") for key in type(settings).model_fields if key.endswith("_layers")} | OTHER_LAYERS
    found = [
        f"{key}: expected a layer with a weight for the loss {term}, found none; give one a weight, or set losses.{term}=0"
        for key, term in terms.items()
        if settings.losses.get(term) and not any(getattr(settings, key).values())
    ]
    missing = [name for name in settings.distribution_layers if name not in settings.style_layers]
    if settings.losses.get("distribution") and missing:
        known = ", ".join(settings.style_layers) or "none"
        found.append(f"distribution_layers: expected layers of style_layers ({known}), found {', '.join(missing)}; name them there, if only with 0")
    return found


def _without_gradient(settings: ImageTraining) -> list[str]:
    """Terms that nothing which learns has a part in."""
    weighed = [name for name, weight in settings.losses.items() if weight]
    if "decoder" not in settings.trained and "reconstruction" in weighed:
        return ["losses.reconstruction: expected a decoder that learns, found it frozen; add decoder to trained, or set the loss to 0"]
    dead = [name for name in weighed if name in OF_LATENTS and "net" not in settings.trained]
    return [f"losses: expected no weight for {', '.join(dead)}, which only the net changes, found the decoder alone in trained; set it to 0"] if dead else []


def _beside_reference(settings: TrainSettings) -> list[str]:
    """What `reference` does not go with: the published stages have other terms, and that for clips leaves the first frame out."""
    weighed = [name for name, weight in settings.losses.items() if weight]
    if settings.stage == "temporal":
        found = []
        if "warp" in weighed:
            found.append(f"reference: expected no weight for warp, which is not published, found {settings.losses['warp']:g}; set losses.warp=0")
        if settings.frames < 3:
            found.append(f"reference: expected frames of at least 3, found {settings.frames}; raise it")
        return found
    own = sorted(UNPUBLISHED_TERMS.intersection(weighed)) if settings.stage == "image" else [
        name for name in weighed if name not in PUBLISHED_TERMS
    ]  # fmt: skip
    known = "latent, noise, style, gram, adversarial and patch" if settings.stage == "image" else ", ".join(PUBLISHED_TERMS)
    return [f"losses: expected only {known} with reference, found {', '.join(own)}; set them to 0"] if own else []


def require(settings: TrainSettings, keys: Iterable[str | tuple[str, ...]], where: str) -> None:
    """Raise UsageError in one line where one of `keys`, or `targets` for terms of that, has no value.

    Of a tuple of keys one must have a value. `where` names the command in it.
    """
    aimed = any(weight for name, weight in settings.losses.items() if name.startswith("target"))
    wanted = [(key,) if isinstance(key, str) else key for key in (*keys, *(["targets"] if aimed else []))]
    missing = [group for group in wanted if not any(getattr(settings, key) for key in group)]
    if missing:
        options = ", ".join(" or ".join(FLAGS.get(key, f"--{key}") for key in group) for group in missing)
        lines = ", ".join(" or ".join(f"train.{key}" for key in group) for group in missing)
        raise UsageError(f"{where}: expected {options}, found none; give it, or write {lines} in hicast.yaml")


def _preset_layer(name: Any, stage: str) -> tuple[Layer, list[str]]:
    """A preset, and what is wrong with it: then the layer is empty."""
    origin = f"preset {name}"
    if not isinstance(name, str):
        return Layer(origin, {}), [f"{origin}: expected its name, found {name}; write a name or a .yaml file"]
    try:
        values = load_preset(name, TRAINING)
    except UsageError as error:
        return Layer(origin, {}), getattr(error, "problems", [str(error)])
    if values.get("stage", stage) != stage:
        return Layer(origin, {}), [f"{origin}: expected one for the stage {stage}, found one for {values['stage']}; take another"]
    return Layer(origin, values), []


def _own_layer(stage: str, stages: Mapping[str, type[TrainSettings]]) -> tuple[Layer | None, list[str]]:
    """What `hicast.yaml` says of `stage`: keys under `train`, then those under `train` and the stage's name; and what is wrong there.

    Keys of other stages, and losses that only they have, are left to them.
    """
    layer, problems = read_command_layer("train", stages[stage])
    if layer is None:
        return None, problems
    known = {"preset"} | {_key(kind, name) for kind in stages.values() for name in kind.model_fields}
    ours = {"preset"} | {_key(stages[stage], name) for name in stages[stage].model_fields}
    sections = {name: layer.values[name] for name in stages if name in layer.values}
    shared = {key: value for key, value in layer.values.items() if key not in stages}
    problems += [
        f"{layer.origin}: train.{key}: expected a known key, found {key}; {name_advice(key, sorted({*known, *stages}))}"
        for key in shared
        if key not in known
    ]
    problems += [
        f"{layer.origin}: train.{name}: expected keys with values, found {section}"
        for name, section in sections.items()
        if not isinstance(section, Mapping)
    ]
    shared = _with_own_losses({key: value for key, value in shared.items() if key in ours}, stage, stages)
    section = sections.get(stage)
    return Layer(layer.origin, merge(shared, section if isinstance(section, Mapping) else {})), problems


def _with_own_losses(values: dict[str, Any], stage: str, stages: Mapping[str, type[TrainSettings]]) -> dict[str, Any]:
    """`values` for all stages without the losses that other stages have and `stage` lacks."""
    losses = values.get("losses")
    if not isinstance(losses, Mapping):
        return values
    names = {other: get_args(get_args(kind.model_fields["losses"].annotation)[0]) for other, kind in stages.items()}
    foreign = {name for known in names.values() for name in known} - set(names[stage])
    kept = {name: weight for name, weight in losses.items() if name not in foreign}
    return {key: value for key, value in values.items() if key != "losses"} | ({"losses": kept} if kept else {})


def _key(kind: type[TrainSettings], name: str) -> str:
    """The key of a field as users write it."""
    return kind.model_fields[name].alias or name
