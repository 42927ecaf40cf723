"""Colours of areas."""

import pytest

from internal_rl.colours import OKABE_ITO, fill_colour


@pytest.mark.parametrize("count", [1, 4, 8, 9, 12])
def test_fills_are_light_and_differ(count):
    fills = [fill_colour(index, count) for index in range(count)]
    assert len(set(fills)) == count
    assert all(0 <= part <= 255 for fill in fills for part in fill)
    assert min(map(max, fills)) > 95


def test_a_fill_lies_between_the_colour_of_the_figures_and_white():
    for index, code in enumerate(OKABE_ITO):
        dark = [int(code[start : start + 2], 16) for start in (1, 3, 5)]
        expected = [0.4 * 255 + 0.6 * part for part in dark]
        assert fill_colour(index, 8) == pytest.approx(expected, abs=0.5)
