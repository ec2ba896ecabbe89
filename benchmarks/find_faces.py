"""Finds faces in photos and paintings, for `benchmarks/teach_subject.py`.

    pip install --no-deps facenet-pytorch==2.6.0
    python benchmarks/find_faces.py PHOTOS PAINTINGS --output faces.json

By MTCNN (Zhang et al., arXiv 1604.02878) as facenet-pytorch has it, MIT, weights included. Writes, for each picture's path, a list of [left,
top, right, bottom, how sure].
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from hicast.io.files import find_images
from hicast.io.images import load_picture
from PIL import Image
from tqdm import tqdm

SHORT_SIDE = 512
"""Pixels of the short side at which pictures are searched, for faces of 20 pixels and more."""


def main() -> None:
    """Search all pictures and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    from facenet_pytorch.models.mtcnn import MTCNN

    detector, found = MTCNN(keep_all=True, thresholds=[0.6, 0.7, 0.8], post_process=False), {}
    for file in tqdm([file for folder in given.folders for file in find_images(folder)]):
        picture = Image.fromarray(load_picture(file).pixels)
        scale = SHORT_SIDE / min(picture.size)
        boxes, sure = detector.detect(picture.resize(tuple(round(side * scale) for side in picture.size), Image.Resampling.BICUBIC))
        if boxes is not None:
            found[str(file)] = [[*(float(value) / scale for value in box), float(p)] for box, p in zip(boxes, sure, strict=True)]
    given.output.write_text(json.dumps(found))
    print(f"{given.output}: {sum(map(len, found.values()))} faces in {len(found)} pictures")


if __name__ == "__main__":
    main()
