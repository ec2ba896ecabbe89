"""The mean of the nets of several models, and of adapters that all of them have, as a model.

    python benchmarks/average_models.py RUN RUN... --output FOLDER [--shares 0.6 0.4] [--keep-decoder]

Ends of one training, some way apart, average to a net that often is better than any of them ("model soups", arXiv 2203.05482). U-Net, content
projection and autoencoder are averaged, with `--keep-decoder` the autoencoder is that of the first model, and adapters where every model has
the same; all other parts are the first's.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from hicast.pipeline import HiCastPipeline


def main() -> None:
    """Read the models one after the other and write their mean."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="model folders, or names of shipped models")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--shares", type=float, nargs="+", help="of each model in the mean (default: equal)")
    parser.add_argument("--keep-decoder", action="store_true", help="take the autoencoder of the first model as it is")
    options = parser.parse_args()
    shares = options.shares or [1 / len(options.models)] * len(options.models)
    if len(shares) != len(options.models) or abs(sum(shares) - 1) > 1e-6:
        parser.error(f"--shares: expected {len(options.models)} that make 1, found {shares}")
    pipelines = [HiCastPipeline.from_pretrained(name, "cpu", "float32") for name in options.models]
    same_adapters = len({pipeline.adapters.names for pipeline in pipelines}) == 1
    for part in ("model", *["autoencoder"] * (not options.keep_decoder), *["adapters"] * same_adapters):
        states = [getattr(pipeline, part).state_dict() for pipeline in pipelines]
        if any({name: value.shape for name, value in state.items()} != {name: value.shape for name, value in states[0].items()} for state in states):
            parser.error(f"expected parts of one shape, found others in {part}; give ends of the same training")
        getattr(pipelines[0], part).load_state_dict(mean(states, shares))
    pipelines[0].save_pretrained(options.output)
    print(options.output)


def mean(states: Sequence[dict[str, Tensor]], shares: Sequence[float]) -> dict[str, Tensor]:
    """The mean of weights, by name."""
    return {name: sum(share * state[name] for share, state in zip(shares, states, strict=True)) for name in states[0]}


if __name__ == "__main__":
    main()
