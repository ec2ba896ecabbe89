"""A model whose decoder has more residual blocks, to go on training from.

    python benchmarks/deepen_decoder.py MODEL --blocks 2 3 4 --output FOLDER

`--blocks` counts those at 1/2, 1/4 and 1/8 of the picture's size. The added ones begin as the identity, so that the model
written makes the same pictures ("Net2Net", arXiv 1511.05641); a stage with `trained: [net, decoder]` makes use of them. Latents stay what
they were, and with them adapters and temporal layers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from hicast.pipeline import HiCastPipeline


def main() -> None:
    """Read the model, deepen its decoder and write the whole."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model folder, or name of a shipped model")
    parser.add_argument("--blocks", type=int, nargs=3, required=True, metavar=("HALF", "QUARTER", "EIGHTH"))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0, help="of the added blocks' first convolutions")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    pipeline = HiCastPipeline.from_pretrained(options.model, "cpu", "float32")
    try:
        pipeline.autoencoder = pipeline.autoencoder.deepened(tuple(options.blocks))
    except ValueError as error:
        parser.error(str(error))
    pipeline.save_pretrained(options.output)
    print(options.output)


if __name__ == "__main__":
    main()
