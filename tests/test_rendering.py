"""Films of made-up people: the figure is where its joints are, and nothing else tells the label."""

import cv2
import numpy as np
import pytest

from kineme import rendering, synthetic
from kineme.figures import JOINTS
from kineme.rendering import Camera, film_exercises, hold_camera, project
from kineme.synthetic import Draws


def films(count, seed, **options):
    return list(film_exercises(count, seed, **{"num_frames": 6, "size": 48, **options}))


def test_a_film_is_the_same_every_time_and_another_with_another_seed():
    first, again, other = films(12, 4), films(12, 4), films(12, 5)
    assert [film.id for film in first] == [film.id for film in again]
    assert all(a.frames.tobytes() == b.frames.tobytes() for a, b in zip(first, again, strict=True))
    assert len({film.frames.tobytes() for film in first + other}) == 24


def test_a_film_does_not_depend_on_how_many_others_there_are():
    for few, many in zip(films(6, 4), films(18, 4), strict=False):
        assert few.id == many.id
        # A pose may differ in its last bits, and a coordinate then by its last step.
        assert (few.frames != many.frames).mean() < 1e-3


def test_films_show_the_people_and_labels_that_the_skeletons_have():
    made = synthetic.make_exercises(18, 7, num_frames=6, fps=10.0)
    shown = films(18, 7)
    assert [film.id for film in shown] == list(made.ids)
    assert [film.label for film in shown] == made.labels.tolist()
    assert {film.frames.shape for film in shown} == {(6, 48, 48, 3)}
    assert {film.frames.dtype for film in shown} == {np.dtype(np.uint8)}


def test_a_point_is_projected_as_worked_out_by_hand():
    camera = Camera(np.array([[4.0]]), np.array([[50.0]]), np.array([[[2.0, -1.0]]]))
    points = np.array([[[[0.0, 0.0, 0.0], [1.0, -0.5, 1.0]]]])  # one clip, one frame, two points
    pixels, pixels_per_metre = project(points, camera, 64)
    assert pixels[0, 0].tolist() == [[34.0, 31.0], [32 + 2 + 10, 32 - 1 - 5]]
    assert pixels_per_metre[0, 0].tolist() == [12.5, 10.0]


@pytest.fixture
def from_behind():
    """Pixels (N, T, V, 2) of joints, and painter of what is white where all else is black."""
    size, draw = 64, Draws(3, 6)
    figures = synthetic.pose_exercises(6, 3, num_frames=5)
    aimed = figures._replace(positions=figures.positions - np.array(rendering.AIM))
    views = (synthetic.View(180.0, 10.0),)
    seen, _ = synthetic.look_at(aimed, 3, bodies=synthetic.TRAIN_BODIES, views=views)
    camera = hold_camera(draw, np.arange(5) / 10, size)
    pixels, pixels_per_metre = project(seen, camera, size)
    room = np.zeros((3 * size, 3 * size, 3), np.uint8)

    def paint(i):
        strokes = rendering._plan_strokes(draw, pixels[i], pixels_per_metre[i], seen[i, :, :, 2])
        return rendering._paint(room, strokes, camera.shift[i], size).astype(float).sum(-1)

    return pixels, paint


def dress_in_white(monkeypatch, *names):
    colours = {name: np.full(3, 200.0 * (name in names)) for name in rendering._COLOURS}
    monkeypatch.setattr(rendering, "_dress", lambda draw: colours)


def test_the_hair_seen_from_behind_is_between_the_ears(monkeypatch, from_behind):
    dress_in_white(monkeypatch, "hair")
    pixels, paint = from_behind
    at = np.arange(64) + 0.5
    for i in range(6):
        light = paint(i)
        middle = np.stack([light.sum(1) @ at, light.sum(2) @ at], -1) / light.sum((1, 2))[:, None]
        ears = pixels[i][:, [JOINTS.index("left_ear"), JOINTS.index("right_ear")]].mean(1)
        assert np.abs(middle - ears).max() < 1
        assert np.abs(middle - ears).mean() < 0.4


def test_every_joint_is_on_the_figure_and_the_figure_is_no_larger(monkeypatch, from_behind):
    dress_in_white(monkeypatch, *rendering._COLOURS)
    pixels, paint = from_behind
    body = [i for i, name in enumerate(JOINTS) if not name.endswith(("eye", "thumb", "pinky"))]
    for i in range(6):
        for light, joints in zip(paint(i), pixels[i], strict=True):
            column, row = joints[body].astype(int).T
            inside = (column >= 0) & (column < 64) & (row >= 0) & (row < 64)
            assert (light[row[inside], column[inside]] > 0).all()
            painted = np.argwhere(light > 0)[:, ::-1] + 0.5
            assert (painted.min(0) > joints.min(0) - 5).all()  # 5 pixels are 0.2 m
            assert (painted.max(0) < joints.max(0) + 5).all()


def test_the_room_moves_with_the_camera_and_the_figure():
    """A white spot of the room goes right and down by the shift, as projected points do."""
    size, side = 32, 96
    room = np.zeros((side, side, 3), np.uint8)
    room[side // 2 - 2 : side // 2 + 2, side // 2 - 2 : side // 2 + 2] = 255
    nobody = rendering._Strokes(*(np.zeros((2, 0, 2, 2, 2)), np.zeros((2, 0, 2)),
                                  np.zeros((2, 0)), np.zeros((0, 2, 3))))  # fmt: skip
    still, moved = rendering._paint(room, nobody, np.array([[0.0, 0.0], [5.0, 3.0]]), size)
    np.testing.assert_array_equal(np.argwhere(still[..., 0] == 255).mean(0), [15.5, 15.5])
    np.testing.assert_array_equal(np.argwhere(moved[..., 0] == 255).mean(0), [18.5, 20.5])


def share_told(features, labels):
    """Share of the second half whose label the class means of the first half tell."""
    known = np.arange(len(labels)) < len(labels) // 2
    means = np.stack([features[known & (labels == label)].mean(0) for label in range(6)])
    distances = (((features[~known, None] - means) / features.std(0)) ** 2).sum(-1)
    return (distances.argmin(1) == labels[~known]).mean()


def test_neither_room_nor_light_nor_clothes_nor_camera_tells_the_label():
    """1 in 6 by chance; a spread of 2.2 % over 300 films leaves it below a quarter."""
    labels, features = np.arange(600) % 6, []
    camera = hold_camera(Draws(11, 600), np.arange(24) / 10, 48)
    for i in range(600):
        draw = Draws(11, np.array([i]))
        room = cv2.resize(rendering._build_scene(draw, 16), (4, 4), interpolation=cv2.INTER_AREA)
        clothes = np.concatenate([*rendering._dress(draw).values()])
        light = [draw("exposure", 0, 1)[0, 0], draw("grain size", 0, 1)[0, 0]]
        held = [*camera.shift[i].mean(0), *camera.shift[i].std(0), *camera.focal_length[i]]
        features.append([*room.reshape(-1), *clothes, *light, *held])
    assert share_told(np.array(features), labels) < 0.25


def test_the_corners_of_films_do_not_tell_the_label_and_the_middle_does():
    shown = films(180, 2, num_frames=5)
    frames = np.stack([film.frames for film in shown]).astype(float)
    labels = np.array([film.label for film in shown])
    corners = frames[:, :, [0, 1, 2, 3, -4, -3, -2, -1]][:, :, :, [0, 1, 2, 3, -4, -3, -2, -1]]
    looks = [corners.mean((1, 2, 3)), corners.std((1, 2, 3))]
    assert share_told(np.concatenate(looks, axis=1), labels) < 0.27
    moving = frames.mean(-1).std(1)  # where something moves
    moving = np.stack([cv2.resize(x, (8, 8), interpolation=cv2.INTER_AREA) for x in moving])
    assert share_told(moving.reshape(180, -1), labels) > 0.33


def test_rooms_clothes_and_cameras_differ_from_film_to_film():
    shown = films(60, 9, num_frames=2)
    middle = np.stack([film.frames[0].mean((0, 1)) for film in shown])
    assert middle.std(0).min() > 8
    camera = hold_camera(Draws(9, 60), np.arange(24) / 10, 48)
    shaking = np.abs(np.diff(camera.shift, axis=1)).mean((1, 2))
    assert 0 < shaking.min() < 0.2 < shaking.max() < 1.5
    assert np.abs(camera.shift).max() < 12  # within the room that is painted: half of 48, halved
