"""The mean of the nets of several models, as a model.

    python benchmarks/average_models.py RUN RUN... --output FOLDER

Ends of one training, some way apart, average to a net that often is better than any of them ("model soups", arXiv 2203.05482). U-Net and
content projection are averaged, all other parts are those of the first model.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hicast.pipeline import HiCastPipeline


def main() -> None:
    """Read the models one after the other and write their mean."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="model folders, or names of shipped models")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    first, *others = (HiCastPipeline.from_pretrained(name, "cpu", "float32") for name in options.models)
    total = {name: value.clone() for name, value in first.model.state_dict().items()}
    for other in others:
        values = other.model.state_dict()
        if {name: value.shape for name, value in values.items()} != {name: value.shape for name, value in total.items()}:
            parser.error("expected nets of one shape, found others; give ends of the same training")
        for name, value in values.items():
            total[name] += value
    first.model.load_state_dict({name: value / len(options.models) for name, value in total.items()})
    first.save_pretrained(options.output)
    print(options.output)


if __name__ == "__main__":
    main()
