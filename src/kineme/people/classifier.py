"""What people do in a window, by a checkpoint of pose classification.

Promises: the checkpoint decides the model, its joints, sampling, normalisation, how many people it
sees at once and from where on somebody is unknown; a window's answer depends on nothing outside
it; what there is to say of all this is in `notes`.
Leaves out: which windows there are, and who is nearest to whom (timeline.py).

Shapes: B windows, T frames, V joints, C channels, M persons, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from kineme.data import sampling
from kineme.data.origin import is_alike
from kineme.engine import checkpoint as checkpoints
from kineme.engine.calibration import Calibration, load_calibration
from kineme.network import load_network
from kineme.people.estimators import ESTIMATORS
from kineme.people.timeline import Window
from kineme.pose_classification.dataset import View, prepare
from kineme.pose_classification.layout_mapping import in_picture, map_layout
from kineme.pose_classification.layouts import Layout, layout_of
from kineme.pose_classification.training_data import training_data_of

_NETWORK = "pose_classification"
_WINDOW_SECONDS = 2.0  # where the checkpoint does not say how many frames it sees
_SHORTEST_SECONDS, _LONGEST_SECONDS = 1.0, 4.0  # where it does not say of how many seconds
_SHORTEST_CLIP_SECONDS, _LONGEST_CLIP_SECONDS = 0.5, 10.0  # where it does


class PoseClassifier:
    """A trained model, asked on windows of joints in pixels.

    source: the layout of these joints. size: (width, height) of the video. key: of an encrypted
    checkpoint. uses_threshold: windows less familiar than the checkpoint's threshold are unknown.
    is_alone: nobody else is shown. estimator: what finds these joints, "" for anything.
    picks_window: how long windows are is left to `window_seconds`. fps: of the video, 0 where it is
    not known. mapping: of joints. num_persons: that a window should hold. threshold: the one in
    use, None where there is none; has_threshold: whether the checkpoint has one. sees_others:
    whether it learned from several people at a time. cautions: what to know before its answers are
    relied on.
    """

    def __init__(
        self,
        path: str | Path,
        source: Layout,
        size: tuple[int, int],
        *,
        key: str | None = None,
        uses_threshold: bool = True,
        is_alone: bool = False,
        estimator: str = "",
        picks_window: bool = True,
        fps: float = 0.0,
    ) -> None:
        network = load_network(_NETWORK)
        loaded = checkpoints.load_checkpoint(path, key)
        spec = checkpoints.trained_spec(network, loaded)
        self.path, self.names = loaded.path, network.class_names(spec)
        self.layout: Layout = layout_of(spec.model)
        self.mapping = map_layout(source, self.layout)
        self._size, self._spec = size, spec
        found = load_calibration(loaded.facts, where=str(loaded.path))
        self._temperature = found.temperature if found else 1.0
        self.has_threshold = found is not None
        self._known_from = found if uses_threshold else None
        self.threshold = self._known_from.threshold if self._known_from else None
        self._view = View(settings=spec.dataset, layout=self.layout, seed=0, is_random=False)
        learned = training_data_of(loaded.facts, where=str(loaded.path))
        self._learned = learned
        persons = learned.num_persons or spec.dataset.num_persons or self.layout.num_persons
        self._num_places = max(persons, 1 if spec.model.persons == "mean" else 2)
        is_whole = spec.dataset.sampling == "none"
        self._padded_frames = learned.padded_frames if is_whole else 0
        self._num_learned = learned.max_persons or self._num_places
        self.num_persons = 1 if is_alone else self._num_learned
        self._model = checkpoints.build_trained(network, spec, loaded).eval()
        told = (self.mapping.told(), checkpoints.plain_note(loaded, key), self._people_note())
        self.notes = tuple(filter(None, told))
        cautions = (
            _trust_note(found), self._axes_note(source), self._alone_note(),
            self._estimator_note(estimator),
            self._length_note() if picks_window else "", self._rate_note(fps),
            self._padding_note(),
        )  # fmt: skip
        self.cautions = tuple(filter(None, cautions))

    def window_seconds(self, fps: float) -> float:
        """How long a window should be: as long as what the model learned from; where that is not
        known, the frames that it sees, of a video of that rate."""
        if seconds := self._learned_seconds():
            return min(max(seconds, _SHORTEST_CLIP_SECONDS), _LONGEST_CLIP_SECONDS)
        settings = self._spec.dataset
        is_uniform = settings.sampling == "uniform"
        num_frames = settings.num_frames if is_uniform else max(settings.window_size, 0)
        if not num_frames or fps <= 0:
            return _WINDOW_SECONDS
        return float(min(max(num_frames / fps, _SHORTEST_SECONDS), _LONGEST_SECONDS))

    def _learned_seconds(self) -> float:
        """What the model saw of a clip in training; 0.0 where nothing says it."""
        settings, origin = self._spec.dataset, self._learned.origin
        if settings.sampling != "uniform" and settings.window_size > 0 and origin.fps:
            return float(min(origin.clip_seconds, settings.window_size / origin.fps))
        return origin.clip_seconds

    def classify(self, windows: Sequence[Window]) -> NDArray[np.float32]:
        """(B, K) probabilities, each window's its own; all 0 where it looks like no class."""
        return self._shares(torch.stack([self._logits(window) for window in windows]))

    def _shares(self, logits: torch.Tensor) -> NDArray[np.float32]:
        """(B, K) probabilities of logits (B, K); all 0 where they look like no class."""
        shares: NDArray[np.float32] = (logits / self._temperature).softmax(dim=1).numpy()
        if self._known_from is not None:
            shares[self._known_from.unknown(logits.log_softmax(dim=1).numpy())] = 0
        return shares

    @property
    def sees_others(self) -> bool:
        return self._num_learned > 1

    def _people_note(self) -> str:
        if self.num_persons < 2:
            return ""
        others = "the nearest other" if self.num_persons == 2 else "the nearest others"
        return f"the model sees {self.num_persons} people at a time: each person with {others}"

    def _axes_note(self, source: Layout) -> str:
        """That the model learned from joints of another space than that of pictures."""
        learned = self._learned
        told = []
        if learned.y_up > 0:
            told.append("whose second axis grows upwards: those of the video are turned over")
        if learned.has_depth and source.num_axes < 3:
            told.append("with depth, and sees those of the video flat, without any")
        if not told:
            return ""
        return (
            f"the model learned from joints {', '.join(told)}: another camera than its own. Its "
            "answers may mean little; train it on people that the same estimator found"
        )

    def _alone_note(self) -> str:
        if self.num_persons == self._num_learned:
            return ""
        return (
            f"the model learned from samples of {self._num_learned} people, and sees each person "
            "with nobody else (--alone, --step): what takes two may go by another name"
        )

    def _estimator_note(self, estimator: str) -> str:
        known = self._learned.origin.estimator
        if not estimator or known in ("", estimator):
            return ""
        told = (
            f"the model learned from people that {known} found, and sees those of {estimator}, "
            "whose joints lie and tremble otherwise"
        )
        return f"{told}; --estimator {known} is like its training" if known in ESTIMATORS else told

    def _length_note(self) -> str:
        seconds = self._learned_seconds()
        if seconds <= _LONGEST_CLIP_SECONDS:
            return ""
        return (
            f"the model learned from clips of {seconds:.0f} s, and sees windows of "
            f"{_LONGEST_CLIP_SECONDS:.0f} s: --window says otherwise"
        )

    def _rate_note(self, fps: float) -> str:
        """That a model of all frames sees movement at another speed than in training."""
        learned = self._learned.origin.fps
        if self._spec.dataset.sampling != "none" or is_alike(fps, learned):
            return ""
        return (
            f"the model learned from all frames of {learned:g} a second (dataset.sampling none), "
            f"and sees those of {fps:g}: movement is {learned / fps:.2g} times as fast to it. One "
            "that is trained with dataset.sampling=uniform does not mind"
        )

    def _padding_note(self) -> str:
        if self._spec.dataset.sampling != "none" or self._learned.num_frames:
            return ""
        return (
            "the checkpoint does not say of how many frames its training samples were "
            "(dataset.sampling none): if zeros followed the shorter ones, windows lack these, and "
            "inference may answer otherwise. Train it again, which writes that down"
        )

    def _values(self, people: Sequence[Window]) -> list[NDArray[np.float32]]:
        """(C, T, V) of each of the people of a window, in the frames that the model sees: as of a
        training sample, none after the last that shows anybody is chosen. What is not seen is
        zero, and so are frames after the end where training had such."""
        found = [self._in_picture(one.joints, one.confidence) for one in people]
        settings = self._spec.dataset
        if settings.sampling == "uniform":
            shown = np.flatnonzero(np.any([one.any(axis=(1, 2)) for one in found], axis=0))
            length = shown.max(initial=0) + 1
            frames = sampling.uniform_indices(np.array([length]), settings.num_frames)[0]
            found = [one[frames] for one in found]
        num_missing = max(self._padded_frames - len(found[0]), 0)
        padding = ((0, num_missing), (0, 0), (0, 0))
        return [np.pad(one, padding).transpose(2, 0, 1) for one in found]

    def _in_picture(
        self, joints: NDArray[np.float32], confidence: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """(T, V, C) the model's joints as shares of the picture, of those (T, V', D) found."""
        joints, confidence = self.mapping.apply(joints, confidence)
        values = in_picture(
            joints,
            confidence,
            width=self._size[0],
            height=self._size[1],
            num_channels=self._spec.model.input_channels,
            num_axes=self.layout.num_axes,
        )
        if self._learned.y_up > 0:  # of pictures it grows downwards
            values[..., 1] *= -1
        return values

    def _logits(self, window: Window) -> torch.Tensor:
        """(K,) of one window, alone: batches of other sizes round otherwise. Places M for which
        there is nobody are zero, as in training."""
        people = self._values((window, *window.others)[: self._num_places])
        x = np.zeros((1, *people[0].shape, self._num_places), np.float32)
        for place, values in enumerate(people):
            x[0, ..., place] = values
        with torch.inference_mode():
            prepared = prepare(torch.from_numpy(x), self._view, np.zeros(1, np.int64), 0)
            logits: torch.Tensor = self._model(skeleton=prepared)[0].float()
        return logits


def _trust_note(calibration: Calibration | None) -> str:
    if calibration is not None:
        return ""
    return (
        "the checkpoint has no calibration: its probabilities may be far too high, and nobody is "
        "unknown for being unfamiliar. Training with validation data "
        "(dataset.val_dataset.data_path) fits both; take its best.pth"
    )
