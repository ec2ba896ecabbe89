"""A model whose adapters or temporal layers do more, or less, at the weight they are used with.

    python benchmarks/strengthen.py MODEL --adapter seg=2.6 --temporal 1.15 --output FOLDER

What a light adapter adds to the net is multiplied by its number; what temporal layers change, their way from the identity, by theirs. So a
strength that was found to suit a net becomes that of weight 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import T2IAdapter
from torch import nn

from hicast.models.temporal_layers import TemporalAttention, TemporalConvolution
from hicast.pipeline import HiCastPipeline


def main(words: Sequence[str] | None = None) -> None:
    """Read the model, change what is named, write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model folder, or name of a shipped model")
    parser.add_argument("--adapter", action="append", default=[], metavar="NAME=X", help="an adapter and its factor; repeat for several")
    parser.add_argument("--temporal", type=float, metavar="X", help="factor of the temporal layers")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(words)
    pipeline = HiCastPipeline.from_pretrained(options.model, "cpu", "float32")
    with torch.no_grad():
        for word in options.adapter:
            name, _, factor = word.partition("=")
            if name not in pipeline.adapters.names:
                parser.error(f"--adapter {word}: expected one of {', '.join(pipeline.adapters.names)}, found {name}")
            if pipeline.adapters.adapters[name].config.adapter_type != "light_adapter":
                parser.error(f"--adapter {word}: expected a light adapter, found {pipeline.adapters.adapters[name].config.adapter_type}")
            strengthen_adapter(pipeline.adapters.adapters[name], float(factor))
        if options.temporal is not None:
            strengthen_temporal(pipeline.temporal, options.temporal)
    pipeline.save_pretrained(options.output)
    print(options.output)


def strengthen_adapter(adapter: T2IAdapter, factor: float) -> None:
    """Multiply the features of every level of a light adapter; each level goes on from those of the one before."""
    levels = list(adapter.adapter.body)
    for level, following in zip(levels, [*levels[1:], None], strict=True):
        level.out_conv.weight.mul_(factor)
        level.out_conv.bias.mul_(factor)
        if following is not None:
            following.in_conv.weight.div_(factor)


def strengthen_temporal(layers: nn.Module, factor: float) -> None:
    """Multiply what every temporal convolution and attention changes of its input."""
    for module in layers.modules():
        if isinstance(module, TemporalConvolution):
            start = nn.init.dirac_(torch.empty_like(module.weight), module.groups)
            module.weight.copy_(torch.lerp(start, module.weight, factor))
            module.bias.mul_(factor)
        elif isinstance(module, TemporalAttention):
            module.attention.to_out[0].weight.mul_(factor)
            module.attention.to_out[0].bias.mul_(factor)


if __name__ == "__main__":
    main()
