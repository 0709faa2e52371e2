"""BlazePose: a detector of people, and 33 joints of each with depth.

Promises: what MediaPipe's pose solution gives, for several people; where its graph is public, each
step is as there (anchors, weighted suppression, region of a body, refinement by heat maps). With
`track`, the region of a person comes from the joints of the frame before, and the detector runs
only now and then.
Leaves out: smoothing, segmentation masks and world coordinates.

The method: Bazarevsky et al., BlazePose: On-device Real-time Body Pose Tracking (2020).
Shapes: A anchors of the detector, K key points of a detection, V joints.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from kineme.people.estimators.duplicates import without_duplicates
from kineme.people.estimators.eyesight import Eyesight
from kineme.people.estimators.frames import Frame, Region, checked, square_side, squares
from kineme.people.estimators.tflite import TfliteModel
from kineme.people.models import card_of, model_files
from kineme.people.poses import PersonPose, build_pose

Array = NDArray[np.float32]

DETECTOR_PIXELS, LANDMARK_PIXELS = 224, 256
NUM_JOINTS, NUM_LANDMARKS = 33, 39  # beyond the joints: 2 that say where the body is, 4 unused
_CENTRE, _SCALE = 33, 34  # landmarks: between the hips; a point on the circle around the body
_STRIDES = (8, 16, 32, 32, 32)  # of the detector's layers; those alike share a grid
_ANCHORS_A_LAYER = 2
_REGION_MARGIN = 1.25
_CANDIDATES = 2  # detections looked at more closely, to one person asked for
_KERNEL = 7  # cells of a heat map around a joint
_MIN_HEAT = 0.5
_FEW_PIXELS = 64  # long in the detector's picture: many smaller people are missed (eyesight.py)
_MOST_TILES = 16


@dataclass(frozen=True)
class BlazePoseSettings:
    """What can be set; the defaults are MediaPipe's where it has the setting.

    num_people: at most so many. min_detection: score of a detection. min_presence: the landmark
    model's own word on whether it sees a person. max_overlap: of boxes, beyond which detections
    are one. max_distance: of poses that are one person found twice, as a share of their size.
    min_visibility: of a joint that counts as seen. tiles: the detector also looks at a grid of
    squares, so many along the longer side (1: the whole frame only), for people who are small in
    the frame. track: take regions from the frame before. detect_every: frames from one detection to
    the next while somebody is tracked. num_threads: of each model.
    """

    num_people: int = field(default=6, metadata={"bounds": (1, 50)})
    min_detection: float = field(default=0.5, metadata={"bounds": (0.0, 1.0)})
    min_presence: float = field(default=0.5, metadata={"bounds": (0.0, 1.0)})
    max_overlap: float = field(default=0.3, metadata={"bounds": (0.0, 1.0)})
    max_distance: float = field(default=0.3, metadata={"bounds": (0.0, 10.0)})
    min_visibility: float = field(default=0.1, metadata={"bounds": (0.0, 1.0)})
    tiles: int = field(default=1, metadata={"bounds": (1, _MOST_TILES)})
    track: bool = False
    detect_every: int = field(default=5, metadata={"bounds": (1, 10_000)})
    num_threads: int = field(default=1, metadata={"bounds": (1, 256)})


class BlazePose:
    """People by BlazePose, layout mediapipe-33, depth in pixels about the hips as third axis."""

    layout: str = "mediapipe-33"
    settings_type: ClassVar[type[BlazePoseSettings]] = BlazePoseSettings

    def __init__(self, settings: BlazePoseSettings | None = None) -> None:
        self.settings = settings or BlazePoseSettings()
        paths = model_files(card_of("blazepose"))
        threads = self.settings.num_threads
        self._detector = TfliteModel(paths["pose_detection.tflite"], num_threads=threads)
        self._landmarks = TfliteModel(paths["pose_landmark_full.tflite"], num_threads=threads)
        self._anchors = anchor_centres()
        self.reset()

    def reset(self) -> None:
        self._regions: tuple[Region, ...] = ()  # of the people of the frame before
        self._num_since = 0  # frames since the last detection

    def eyesight(self, width: int, height: int) -> Eyesight:
        """How frames of that size are seen by the detector."""
        scale = DETECTOR_PIXELS / square_side(max(width, height), self.settings.tiles)

        def value_for(factor: float) -> int:
            wanted = DETECTOR_PIXELS / min(scale * factor, 1.0)  # pixels of a square
            more = range(self.settings.tiles + 1, _MOST_TILES + 1)
            sides = (square_side(max(width, height), tiles) for tiles in more)
            found = (n for n, side in zip(more, sides, strict=True) if side <= wanted)
            return next(found, _MOST_TILES) if scale < 1 and more else 0

        return Eyesight(scale, _FEW_PIXELS, "tiles", value_for)

    def detect(self, frame: NDArray[np.uint8]) -> tuple[PersonPose, ...]:
        """Everybody in an RGB frame, the surest first."""
        frame = checked(frame)
        regions = self._regions
        is_due = not regions or self._num_since + 1 >= self.settings.detect_every
        self._num_since = 0 if is_due else self._num_since + 1
        if is_due:
            regions += tuple(
                region for region in self.regions(frame) if not _is_among(region, regions)
            )
        found = [self._pose(frame, region) for region in regions]
        seen = [one for one in found if one is not None]
        kept = without_duplicates([pose for pose, _ in seen], self.settings.max_distance)
        kept = kept[: self.settings.num_people]
        if self.settings.track:
            following = {id(pose): region for pose, region in seen}
            self._regions = tuple(following[id(pose)] for pose in kept)
        return kept

    def regions(self, frame: Frame) -> tuple[Region, ...]:
        """Where the detector sees bodies, upright in their regions, the surest first."""
        found = [
            one
            for square in squares(frame, self.settings.tiles)
            for one in self._bodies(frame, square)
        ]
        bodies: tuple[Region, ...] = ()
        for _, body in sorted(found, key=lambda one: -one[0]):
            if body.size > 0 and not any(_is_alike(body, other) for other in bodies):
                bodies += (body,)
        return bodies[: _CANDIDATES * self.settings.num_people]

    def _bodies(self, frame: Frame, square: Region) -> list[tuple[float, Region]]:
        """(score, region) of the bodies that the detector sees in a square."""
        picture = square.cut(frame, DETECTOR_PIXELS).astype(np.float32) / np.float32(127.5) - 1
        values, logits = self._detector(picture, (2254, 12), (2254, 1))
        scores, boxes, points = decode_detections(
            values, logits[:, 0], self._anchors, min_score=self.settings.min_detection
        )
        chosen = weighted_suppression(scores, boxes, points, max_overlap=self.settings.max_overlap)
        return [(score, region_of_body(*square.to_frame(places[:2]))) for score, places in chosen]

    def _pose(self, frame: Frame, region: Region) -> tuple[PersonPose, Region] | None:
        """Somebody in a region, and the region of the next frame; None where there is nobody."""
        picture = region.cut(frame, LANDMARK_PIXELS, is_edge_repeated=True)
        values, presence, heat = self._landmarks(
            picture.astype(np.float32) / np.float32(255), (195,), (1,), (64, 64, NUM_LANDMARKS)
        )
        if presence[0] < self.settings.min_presence or not np.isfinite(values).all():
            return None
        values = values.reshape(NUM_LANDMARKS, 5)
        places = refine_by_heat(values[:, :2] / np.float32(LANDMARK_PIXELS), heat)
        places = region.to_frame(places)
        depth = values[:, 2:3] / LANDMARK_PIXELS * region.size
        visible = sigmoid(values[:NUM_JOINTS, 3:]).min(axis=1)
        pose = build_pose(
            np.concatenate([places, depth], axis=1)[:NUM_JOINTS],
            visible,
            score=float(presence[0]),
            min_confidence=self.settings.min_visibility,
        )
        if not pose.num_seen:
            return None
        return pose, region_of_body(places[_CENTRE], places[_SCALE])


def anchor_centres() -> Array:
    """(A, 2) x, y of the detector's anchors, 0 to 1, in the order of its outputs.

    A grid for each stride, as many anchors in a cell as the layers of that stride have together.
    """
    grids = []
    for stride in dict.fromkeys(_STRIDES):
        num_cells = DETECTOR_PIXELS // stride
        num_anchors = _ANCHORS_A_LAYER * _STRIDES.count(stride)
        centres = (np.arange(num_cells, dtype=np.float32) + 0.5) / num_cells
        y, x = np.meshgrid(centres, centres, indexing="ij")
        grids.append(np.repeat(np.stack([x, y], axis=-1).reshape(-1, 2), num_anchors, axis=0))
    return np.concatenate(grids)


def decode_detections(
    values: Array, logits: Array, anchors: Array, *, min_score: float
) -> tuple[Array, Array, Array]:
    """((D,) scores, (D, 4) boxes x0 y0 x1 y1, (D, K, 2) points), 0 to 1, of the D above a score.

    values: (A, 12) centre, size and K points in pixels of the detector's picture, all but the size
    about the anchor; logits: (A,).
    """
    scores = sigmoid(logits)
    chosen = scores >= min_score
    rows = values[chosen].reshape(-1, 6, 2) / np.float32(DETECTOR_PIXELS)
    centres, sizes = rows[:, 0] + anchors[chosen], rows[:, 1]
    boxes = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1)
    points: Array = rows[:, 2:] + anchors[chosen, None]
    return scores[chosen], boxes, points


def weighted_suppression(
    scores: Array, boxes: Array, points: Array, *, max_overlap: float
) -> list[tuple[float, Array]]:
    """(score, (K, 2) points) of each person, the surest first: means of overlapping detections.

    Weights are the scores, the highest of which stays; two overlap where intersection over union
    exceeds `max_overlap`.
    """
    order = np.argsort(-scores, kind="stable")
    chosen = []
    while order.size:
        overlaps = _overlaps(boxes[order[0]], boxes[order]) > max_overlap
        overlaps[0] = True  # a box without area overlaps nothing, not even itself
        group, order = order[overlaps], order[~overlaps]
        weights = scores[group] / scores[group].sum()
        chosen.append((float(scores[group[0]]), np.tensordot(weights, points[group], axes=1)))
    return chosen


def region_of_body(centre: Array, edge: Array) -> Region:
    """The square around a body: `centre` between the hips, `edge` on the circle around it, up."""
    x, y = float(edge[0] - centre[0]), float(edge[1] - centre[1])
    size = 2 * _REGION_MARGIN * float(np.hypot(x, y))
    return Region(float(centre[0]), float(centre[1]), size, float(np.arctan2(x, -y)))


def refine_by_heat(places: Array, heat: Array) -> Array:
    """(V, 2) places, 0 to 1, moved to the centre of the heat around them where there is any.

    heat: (H, W, V) logits. Of 7 x 7 cells about a joint, the mean place by their probabilities; a
    joint stays where it is if none of these reaches 0.5, or it lies outside.
    """
    height, width, num_joints = heat.shape
    cells = np.floor(places * (width, height)).astype(np.int64)
    inside = ((cells >= 0) & (cells < (width, height))).all(axis=1)
    steps = np.arange(_KERNEL) - _KERNEL // 2
    x = cells[:, 0, None] + steps  # (V, 7)
    y = cells[:, 1, None] + steps
    is_cell = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
    rows, columns = y.clip(0, height - 1)[:, :, None], x.clip(0, width - 1)[:, None, :]
    near = sigmoid(heat[rows, columns, np.arange(num_joints)[:, None, None]]) * is_cell
    total = near.sum(axis=(1, 2))
    mean_x = (near.sum(axis=1) * x).sum(axis=1) / np.maximum(total, 1e-9) / width
    mean_y = (near.sum(axis=2) * y).sum(axis=1) / np.maximum(total, 1e-9) / height
    moves = inside & (near.max(axis=(1, 2)) >= _MIN_HEAT)
    refined = np.where(moves[:, None], np.stack([mean_x, mean_y], axis=1), places)
    return refined.astype(np.float32)


def sigmoid(logits: Array) -> Array:
    """Probabilities, without overflow."""
    return np.asarray(1 / (1 + np.exp(-logits.clip(-80, 80))), np.float32)


def _overlaps(box: Array, boxes: Array) -> Array:
    """(D,) intersection over union of a box with others."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    shared = (high - low).clip(0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(axis=1)
    union = areas + (box[2:] - box[:2]).clip(0).prod() - shared
    return np.asarray(shared / np.maximum(union, 1e-12), np.float32)


def _is_among(region: Region, others: tuple[Region, ...]) -> bool:
    """Whether a region shows the body of one of the others: centres nearer than a sixth of it."""
    return any(_gap(region, other) < 1 / 6 for other in others)


def _is_alike(one: Region, other: Region) -> bool:
    """Whether two regions would give the same joints."""
    turn = abs(np.angle(np.exp(1j * (one.angle - other.angle))))
    ratio = max(one.size, other.size) / min(one.size, other.size)
    return bool(_gap(one, other) < 0.1 and ratio < 1.25 and turn < 0.35)


def _gap(one: Region, other: Region) -> float:
    """The distance of two centres as a share of the larger region."""
    distance = np.hypot(one.centre_x - other.centre_x, one.centre_y - other.centre_y)
    return float(distance / max(one.size, other.size))
