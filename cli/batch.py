"""Many inputs with one model: what stylizing pictures and stylizing videos have in common."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar

from hicast.config.stylize import StylizeSettings, asked_adapters, resolve_stylize
from hicast.errors import InputError, ModelError, UsageError, is_out_of_memory
from hicast.io.files import PlannedOutput, atomic_path, check_target, first_name
from hicast.io.hub_models import hub_model, is_hub_id
from hicast.io.images import to_tensor

from .console import Console
from .failures import explain, smaller_settings
from .guides import Guides, square_of
from .request import Request, check_device, chosen_engine
from .words import CONTROLS

if TYPE_CHECKING:
    from hicast.encoders.style import StyleCode
    from hicast.pipeline import HiCastPipeline

LOOK_KEYS = ("style_scale", "content_scale", "steps", "scheduler", "seed", "size", "keep_size", "tile", "keep_outside", "preserve_color",
             "content_latent", "square")  # fmt: skip
"""Settings that the pipeline takes by their names."""

OF_THIS_MACHINE = {"device", "max_megapixels", "compile", "offload"}
"""Settings that say nothing about the result and are not kept with it."""


@dataclass
class Batch(ABC):
    """The inputs of a request one after the other; the model is loaded when the first that can be read has been read."""

    noun: ClassVar[str]
    """One input in a word."""

    console: Console
    request: Request
    overwrite: bool
    skip_existing: bool
    save_settings: bool
    settings: StylizeSettings = field(init=False)
    pipeline: HiCastPipeline | None = None
    code: StyleCode | None = None
    """What the paintings are to the net; encoded once for all inputs."""
    guides: Guides | None = None
    """Maps and masks, once the model is loaded."""
    results: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin with the settings that hold before the model is known."""
        self.settings = self.request.settings

    def look_ahead(self, content: Any) -> None:
        """Tell what the work will take, before the model is loaded; raises MemoryLimitError where it cannot fit."""

    def begin_again(self) -> None:
        """Make room for another try at an input."""
        import gc

        import torch

        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @abstractmethod
    def read(self, item: PlannedOutput) -> Any:
        """The input, or what is to be known of it before the model is loaded."""

    @abstractmethod
    def stylize(self, item: PlannedOutput, content: Any, label: str) -> None:
        """Stylize what `read` gave, write the result and add it to `results`."""

    def run(self, plan: Sequence[PlannedOutput]) -> None:
        """Do all of `plan`; a file that cannot be done is reported and left behind.

        Raises UsageError, ModelError and all that loading the model raises, which no other file would escape.
        """
        ready = [item for item in plan if self._is_open(item)]
        for number, item in enumerate(ready, start=1):
            label = f"{name_of(item.source)} ({number}/{len(ready)})"
            try:
                content = self.read(item)
            except Exception as error:
                self.leave(item, error)
                continue
            if self.pipeline is None and self.needs_model:
                self._open_pipeline(content)
            try:
                self._stylize_somehow(item, content, label, patient=len(ready) > 1)
            except (UsageError, ModelError):
                raise
            except Exception as error:
                self.leave(item, error)
        if self.failed and len(plan) > 1:
            self.console.info(f"{len(self.failed)} of {len(plan)} {self.noun}s failed")

    def model(self) -> str | Path:
        """What to load of the model that the settings name."""
        return self.settings.model

    @property
    def needs_model(self) -> bool:
        """Whether the nets are used at all."""
        return True

    def look(self) -> dict[str, Any]:
        """What painting a picture and painting a clip are told alike."""
        return self.settings.model_dump(include=set(LOOK_KEYS)) | {"adapters": dict(self.settings.adapters)}

    def report(self) -> dict[str, Any]:
        """The JSON document of the run."""
        return {**self.record(), "results": self.results, "skipped": self.skipped, "failed": self.failed}

    def record(self) -> dict[str, Any]:
        """What a result remembers of its making."""
        used = self.settings if self.pipeline is None else self.settings.model_copy(update={"engine": self.pipeline.engine})
        return {**self.request.header, "settings": used.model_dump(mode="json", exclude=OF_THIS_MACHINE)}

    def done(self, item: PlannedOutput, **more: Any) -> None:
        """Report a result that has been written, and keep its settings beside it where that is wanted."""
        if self.save_settings and item.target:
            target = first_name(item.target)
            with atomic_path(target.with_name(f"{target.name}.json"), overwrite=True) as draft:
                draft.write_text(json.dumps(self.record(), indent=2) + "\n", encoding="utf-8")
        self.results.append({"input": name_of(item.source), "output": name_of(item.target), **more})
        self.console.result(str(item.target))

    def leave(self, item: PlannedOutput, error: Exception) -> None:
        """Report what has gone wrong with one input."""
        self.console.failure(error)
        self.failed.append({"input": name_of(item.source), "error": explain(error)[0]})

    def _stylize_somehow(self, item: PlannedOutput, content: Any, label: str, patient: bool) -> None:
        """Stylize; `patient` tries again with smaller settings where memory runs out, which then hold for what follows too."""
        while True:
            try:
                return self.stylize(item, content, label)
            except Exception as error:
                thrift = smaller_settings(self.settings) if patient and is_out_of_memory(error) else None
                if thrift is None:
                    raise
            words, self.settings = thrift
            self.console.info(f"{name_of(item.source)}: memory ran out; goes on with {words}, from here on")
            self.begin_again()

    def _is_open(self, item: PlannedOutput) -> bool:
        """Whether `item` can and should be done, as far as file names tell."""
        target = first_name(item.target) if item.target else None
        if self.skip_existing and target and target.is_file():
            self.console.info(f"{item.target}: already there, left as it is")
            self.skipped.append(str(item.target))
            return False
        try:
            if item.source and not item.source.exists() and not first_name(item.source).exists():
                raise InputError(f"{item.source}: expected a {self.noun}, found no such file; check the path")
            if target:
                check_target(target, self.overwrite)
        except Exception as error:
            self.leave(item, error)
            return False
        return True

    def _open_pipeline(self, content: Any) -> None:
        """Load the model and lay its defaults under all other settings; `content` is what it begins with."""
        check_device(self.settings)
        if is_hub_id(self.settings.model):
            hub_model(self.settings.model, self.console.info)
        self.look_ahead(content)
        from hicast.pipeline import HiCastPipeline

        start = perf_counter()
        chosen = self.settings
        more = {"adapters": chosen.adapter_folders} if chosen.adapter_folders else {}
        more |= {} if chosen.offload == "none" else {"offload": chosen.offload}
        more |= {"engine": chosen_engine(chosen, self.console.info), "on_note": self.console.info}
        self.pipeline = HiCastPipeline.from_pretrained(self.model(), device=chosen.device, dtype=chosen.dtype, **more)
        if chosen.compile:
            self.pipeline.compile()
        self.guides = self._open_guides(resolve_stylize(self.request.layers, self.pipeline.defaults))
        self.settings = self.guides.settings
        if self.settings.scheduler == "lcm" and not self.pipeline.takes_lcm:
            self.console.info(f"scheduler lcm: model {self.settings.model} does not say that it was distilled for it; where results are blurred, take dpmpp or unipc")
        paintings = [(to_tensor(style.pixels), weight) for style, weight in self.request.styles]
        self.code = self.pipeline.encode_style(paintings, **square_of(self.settings))
        self.console.detail(f"model {self.settings.model} loaded in {perf_counter() - start:.2f} s, engine {self.pipeline.engine}")
        self.console.detail(f"settings: {self.settings.model_dump_json()}")

    def _open_guides(self, settings: StylizeSettings) -> Guides:
        swept_controls = {key for key, _ in self.request.sweeps if key in CONTROLS}
        return Guides.open(settings, self.pipeline, self.console, asked_adapters(self.request.layers), swept_controls)


def name_of(path: Path | None) -> str:
    """A path for people; standard input and output are `-`."""
    return "-" if path is None else str(path)
