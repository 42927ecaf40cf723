"""Drawings show what the arrays say."""

import numpy as np
import pytest
from PIL import Image

from internal_rl.colours import fill_colour
from internal_rl.envs import render

OBJECTS, WALLS = np.array([0, 5]), np.array([2])


def test_text_shows_colours_walls_and_the_agent():
    assert render.text(OBJECTS, WALLS, 4, 3) == "0 . #\n. @ 1\n. . ."
    assert render.text(OBJECTS, WALLS, 5, 3) == " 0  .  #\n .  . @1\n .  .  ."


def test_image_paints_every_thing_in_its_cell():
    picture = render.image(OBJECTS, WALLS, 4, 3, cell_pixels=40)
    assert picture.shape == (121, 121, 3) and picture.dtype == np.uint8
    # A point near the lower right corner of a cell, away from number and agent.
    corner = {cell: tuple(picture[cell // 3 * 40 + 36, cell % 3 * 40 + 36]) for cell in range(9)}
    assert corner[0] == fill_colour(0, 2) and corner[5] == fill_colour(1, 2)
    assert len({corner[cell] for cell in (1, 3, 4, 6, 7, 8)}) == 1
    assert len({corner[0], corner[5], corner[2], corner[1]}) == 4
    assert tuple(picture[60, 60]) != tuple(picture[60, 20])


def test_gif_has_a_frame_per_cell_with_gate_and_code(tmp_path):
    cells = [3, 4, 7, 8]
    beta = np.array([1.0, 0.1, 0.9])
    code = np.array([[0.5, -1.0], [0.5, -1.0], [-0.2, 0.3]])
    frames = render.episode_frames(OBJECTS, WALLS, cells, 3, beta=beta, code=code)
    assert len(frames) == 4
    assert not np.array_equal(frames[0][:, 121:], frames[1][:, 121:])
    (tmp_path / "episode.gif").write_bytes(render.as_gif(frames, seconds=0.1))
    with Image.open(tmp_path / "episode.gif") as animation:
        assert animation.n_frames == 4
        assert animation.size == (frames[0].shape[1], frames[0].shape[0])


def test_frames_without_a_metacontroller_are_plain_images():
    frames = render.episode_frames(OBJECTS, WALLS, [3, 4], 3)
    np.testing.assert_array_equal(frames[1], render.image(OBJECTS, WALLS, 4, 3))


def test_frames_of_observations_show_what_was_observed():
    observations = np.zeros((2, 9, 4), np.uint8)
    observations[:, [0, 5, 2], [0, 1, 2]] = 1
    observations[[0, 1], [3, 4], 3] = 1
    frames = render.frames_of_observations(observations.reshape(2, -1), 3, 2)
    for frame, cell in zip(frames, (3, 4), strict=True):
        np.testing.assert_array_equal(frame, render.image(OBJECTS, WALLS, cell, 3))


@pytest.mark.parametrize(
    ("beta", "code", "message"),
    [
        (np.ones(2), None, "one of them is missing"),
        (np.ones(5), np.ones((5, 2)), "have 5 and 5 steps, allowed is 2 or 1 for 2 frames"),
    ],
)
def test_logs_that_do_not_fit_are_refused(beta, code, message):
    with pytest.raises(ValueError, match=message):
        render.episode_frames(OBJECTS, WALLS, [3, 4], 3, beta=beta, code=code)
