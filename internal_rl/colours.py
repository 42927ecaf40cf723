"""Colours that stay apart for colour-blind readers, shared by figures and pictures."""

import colorsys

# After Okabe and Ito, as red, green, blue in hexadecimal.
OKABE_ITO = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#F0E442",
    "#000000",
)
# Share of white in what fills an area.
_WHITE = 0.4


def fill_colour(index: int, count: int) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of the area of colour `index` in a world of `count`.

    The colour that figures give it, lightened; beyond eight, spread evenly over the hues.
    """
    if count > len(OKABE_ITO):
        red, green, blue = colorsys.hsv_to_rgb(index / count, 0.55, 0.92)
        return round(255 * red), round(255 * green), round(255 * blue)
    red, green, blue = bytes.fromhex(OKABE_ITO[index].removeprefix("#"))
    return tuple(round(255 * _WHITE + (1 - _WHITE) * part) for part in (red, green, blue))
