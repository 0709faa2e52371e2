"""Two made-up people in one picture: the truth that comes with it is true."""

from dataclasses import replace

import numpy as np
import pytest

from kineme import rendering, scenes
from kineme.figures import JOINTS
from kineme.rendering import Seen
from kineme.scenes import HEIGHT, WIDTH, make_scene


@pytest.fixture(scope="module")
def crossing():
    return make_scene(5, 3, has_contact=True, seconds=10, fps=5)


def test_a_scene_is_the_same_every_time_and_another_with_another_number(crossing):
    again = make_scene(5, 3, has_contact=True, seconds=10, fps=5)
    other = make_scene(5, 4, has_contact=True, seconds=10, fps=5)
    for one, two, three in zip(crossing.people, again.people, other.people, strict=True):
        assert one.pixels.tobytes() == two.pixels.tobytes()
        assert np.abs(one.pixels - three.pixels).max() > 20


def test_exercises_follow_each_other_and_fill_the_time():
    for index in range(6):
        scene = make_scene(6, index, has_contact=False, seconds=12, fps=5, num_parts=3)
        for labels in scene.labels:
            changes = np.flatnonzero(np.diff(labels)) + 1
            assert len(changes) == 2
            assert np.abs(changes - (20, 40)).max() <= 20 / 6 + 1


def test_without_contact_outlines_never_touch_and_with_it_people_change_sides(crossing):
    for index in range(6):
        apart = make_scene(7, index, has_contact=False, seconds=10, fps=5)
        assert (apart.boxes(0)[:, 2] < apart.boxes(1)[:, 0]).all()
        assert not apart.is_hidden(0).any()
    middles = [crossing.joints(person).mean(axis=1)[:, 0] for person in (0, 1)]
    side = np.sign(middles[0] - middles[1])
    assert (side[0], side[-1]) in ((-1, 1), (1, -1))


def test_the_nearer_hides_the_farther_and_not_the_other_way(crossing):
    depths = [seen.depths.mean() for seen in crossing.people]
    near, far = int(np.argmin(depths)), int(np.argmax(depths))
    assert not crossing.is_hidden(near).any()
    hidden = crossing.is_hidden(far).mean(axis=1)
    assert hidden.max() > 0.3
    assert hidden[0] == hidden[-1] == 0


def test_a_joint_is_hidden_where_the_other_is_painted_over_it(monkeypatch, crossing):
    """The near one is painted red, the far one green: hidden joints lie on red."""
    depths = [seen.depths.mean() for seen in crossing.people]
    far = int(np.argmax(depths))
    paints = {id(draw): colour for draw, colour in zip(
        crossing.draws[1:], ((200, 0, 0), (0, 200, 0)) if far else ((0, 200, 0), (200, 0, 0)),
        strict=True)}  # fmt: skip
    names = set(rendering._COLOURS)
    monkeypatch.setattr(
        rendering, "_dress", lambda draw: {n: np.array(paints[id(draw)], float) for n in names}
    )
    monkeypatch.setattr(rendering, "_exposed", lambda draw, frames, count, size: frames)
    hidden = crossing.is_hidden(far)
    moments = np.flatnonzero(hidden.mean(axis=1) > 0.3)[:2].tolist()
    assert moments
    part = replace(
        crossing,
        people=tuple(Seen(*(values[moments] for values in one)) for one in crossing.people),
        shift=crossing.shift[moments],
    )
    for t, frame in zip(moments, part.frames(), strict=True):
        assert frame.shape == (HEIGHT, WIDTH, 3)
        for joint in range(len(JOINTS)):
            x, y = np.floor(crossing.joints(far)[t, joint]).astype(int)
            if not (0 <= x < WIDTH and 0 <= y < HEIGHT):
                continue
            red, green = frame[y, x, :2].astype(int)
            assert not hidden[t, joint] or red > green, (t, JOINTS[joint])


def test_pixels_of_the_picture_are_those_of_the_middle_rows(crossing):
    top = (scenes.WIDTH - scenes.HEIGHT) // 2
    np.testing.assert_array_equal(
        crossing.joints(0), crossing.people[0].pixels - np.array([0, top])
    )
    seen = crossing.boxes(0)
    assert (seen[:, 0] < crossing.joints(0)[..., 0].min(axis=1)).all()
