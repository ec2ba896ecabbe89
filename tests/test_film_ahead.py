"""How far decoding and encoding may be from painting."""

from types import SimpleNamespace

import pytest

from hicast.io.film_encode import BUFFER, DEPTH, frames_ahead


@pytest.mark.parametrize("side, window, ahead", [(256, 24, 24), (256, 1, DEPTH), (2048, 24, BUFFER // (3 * 2048**2)), (8192, 24, DEPTH)])
def test_a_window_of_frames_waits_as_far_as_memory_bears_it(side, window, ahead):
    assert frames_ahead(window, SimpleNamespace(width=side, height=side)) == ahead
