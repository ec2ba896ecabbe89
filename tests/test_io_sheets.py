"""Contact sheets hold every picture whole, in its place, under its label."""

import numpy as np
import pytest

from hicast.errors import UsageError
from hicast.io.sheets import LETTERBOX, contact_sheet

COLORS = [[(200, 0, 0), (0, 200, 0), (0, 0, 200)], [(200, 200, 0), (0, 200, 200), (200, 0, 200)]]


def flat(color, height=30, width=30):
    return np.full((height, width, 3), color, np.uint8)


def box(sheet, color):
    """Rows and columns (top, bottom, left, right) of the pixels of one colour."""
    rows, columns = np.nonzero((sheet == color).all(-1))
    return rows.min(), rows.max() + 1, columns.min(), columns.max() + 1


def test_grid_and_order():
    tiles = [[flat(color) for color in row] for row in COLORS]
    sheet = contact_sheet(tiles, ["top", "bottom"], ["x", "y", "z"], tile=64)
    boxes = np.array([[box(sheet, color) for color in row] for row in COLORS])
    assert sheet.dtype == np.uint8
    assert (boxes[..., 1] - boxes[..., 0] == 64).all() and (boxes[..., 3] - boxes[..., 2] == 64).all()
    assert (boxes[0, :, 1] <= boxes[1, :, 0]).all() and (boxes[:, :-1, 3] <= boxes[:, 1:, 2]).all()
    assert (boxes[0, :, 0] == boxes[0, 0, 0]).all() and (boxes[:, 0, 2] == boxes[0, 0, 2]).all()


def test_aspect_is_kept():
    sheet = contact_sheet([[flat((200, 0, 0), 20, 80), flat((0, 0, 200), 80, 20)]], ["r"], ["wide", "tall"], tile=64)
    top, bottom, left, right = box(sheet, (200, 0, 0))
    assert (bottom - top, right - left) == (16, 64)
    assert (sheet[top - 5, left] == LETTERBOX).all()
    top, bottom, left, right = box(sheet, (0, 0, 200))
    assert (bottom - top, right - left) == (64, 16)


def test_labels_are_drawn_and_shortened():
    def ink(sheet, top, left):
        """Dark pixels above and left of the first tile."""
        dark = (sheet < 128).all(-1)
        return dark[:top].sum(), dark[top:, :left].sum()

    def sheet(row, column):
        image = contact_sheet([[flat((255, 255, 0))]], [row], [column], tile=64)
        top, _, left, _ = box(image, (255, 255, 0))
        return image, ink(image, top, left)

    blank, (above, beside) = sheet("", "")
    assert above == beside == 0
    named, (above, beside) = sheet("row", "column")
    assert above > 0 and beside > 0 and named.shape[1] > blank.shape[1]
    long, (above, beside) = sheet("a label that is very much too long " * 9, "and another\n" * 9)
    assert above > 0 and beside > 0 and long.shape[1] <= blank.shape[1] + 64 and long.shape[0] == blank.shape[0]


def test_labels_must_match():
    with pytest.raises(UsageError, match=r"expected 1 rows of 2 pictures.*found rows of \[1\]"):
        contact_sheet([[flat((0, 0, 0))]], ["r"], ["x", "y"])
    with pytest.raises(UsageError, match="expected 0 rows"):
        contact_sheet([], [], ["x"])
