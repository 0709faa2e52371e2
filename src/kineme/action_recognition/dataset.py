"""Videos as whole batches of clips: decoded and cropped on the CPU, prepared on the device.

Shapes: N videos, B samples, R = B x clips rows; frames (R, T, H, W, C) uint8 until
`transform` makes them a model's input. A sample is a video, or one of the clips_per_video
random clips of it that an epoch sees.
Promises: a batch depends on (seed, epoch, indices) alone; both streams of a sample share
its moment, crop and flip. Where bad videos are passed over, training sees the next good one
in place of one that turns out bad, and says so.
Leaves out: finding videos (sources.py), decoding (clips.py), arithmetic (transforms.py,
data/clip_sampling.py).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kineme.action_recognition import clips, transforms
from kineme.action_recognition.model import is_stacked
from kineme.action_recognition.samples import Video, Videos, with_way_out
from kineme.action_recognition.stream_words import TAO_WORDS
from kineme.data import clip_sampling, mixing
from kineme.data.clip_sampling import Sampling
from kineme.data.randomness import uniform, uniform32
from kineme.errors import DataError
from kineme.network import Batch, Remarks

READERS = {"rgb": clips.read_rgb, "flow": clips.read_flow}


@dataclass(frozen=True)
class View:
    """How videos are seen. mode, num_segments: of the clips outside training."""

    spec: Any
    seed: int
    is_random: bool = False
    mode: str = "center"
    num_segments: int = 1
    repeats: int = 1
    skips_bad: bool = False

    @property
    def sampling(self) -> Sampling:
        model, short = self.spec.model, self.spec.dataset.short_clip
        short_clip = "loop" if short == "loop" else "pad"
        return Sampling(model.sample_strategy, model.sample_rate, short_clip)


def _idle_segments(view: View) -> Iterator[str]:
    """That a checkpoint's way of sampling, which no spec said, has no use for a setting."""
    if view.mode == "conv" and not view.is_random and view.sampling.strategy != "consecutive":
        yield (
            "video_num_segments has no effect: by the checkpoint, model.sample_strategy is "
            f"{view.sampling.strategy}, of which conv takes as many clips as a video has."
        )


class ClipDataset:
    """N x repeats samples; implements `network.Dataset`."""

    def __init__(self, videos: Videos, view: View) -> None:
        self.videos, self.view = videos, view
        self.ids: Sequence[str] = [video.id for video in videos.items] * view.repeats
        self.labels: NDArray[np.int64] = np.tile(videos.labels, view.repeats)
        self.notes: Sequence[str] = (*videos.notes, *_idle_segments(view))

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, indices: NDArray[np.int64], epoch: int) -> Batch:
        """Decode, scale and crop the clips of each sample. Raises DataError."""
        model = self.view.spec.model
        frames: dict[str, list[NDArray[np.uint8]]] = {stream: [] for stream in model.streams}
        of_row: list[int] = []
        failed: dict[int, str] = {}
        damaged: dict[int, str] = {}
        labels = self.labels[indices]
        for place, index in enumerate(indices):
            seen = self._seen(int(index), epoch)
            if isinstance(seen, str) and self.view.is_random:
                labels[place], seen = self._stand_in(int(index), epoch, seen)
            if isinstance(seen, str):
                failed[int(index)] = seen
                continue
            rows, damage = seen
            for stream, found in rows.items():
                frames[stream].append(found)
            of_row += [place] * len(next(iter(rows.values())))
            if damage:
                damaged[int(index)] = damage
        inputs = {
            stream: torch.from_numpy(np.concatenate(found))
            for stream, found in frames.items()
            if found
        }
        return Batch(
            inputs,
            torch.from_numpy(labels),
            torch.from_numpy(np.asarray(indices, np.int64)),
            torch.tensor(of_row, dtype=torch.int64),
            remarks=Remarks(failed=failed, damaged=damaged),
        )

    def transform(self, batch: Batch, epoch: int) -> Batch:
        """Mirror, colour, normalise and lay out all rows where they lie; mix samples."""
        view, options = self.view, self.view.spec.dataset.augmentation_config
        if view.is_random:
            rows = batch.indices.numpy()[batch.sample_of_row.cpu().numpy()]
            device = next(iter(batch.inputs.values())).device

            def draw(name: str, size: int) -> torch.Tensor:
                """(R, size) in [0, 1), the same for both streams."""
                values = uniform32(view.seed, epoch, rows, name=name, size=size)
                return torch.from_numpy(values).to(device)

        inputs = {}
        for stream, x in batch.inputs.items():
            if view.is_random and options.horizontal_flip_prob > 0:
                is_flipped = draw("flip", 1)[:, 0] < options.horizontal_flip_prob
                x = transforms.flip(x, is_flipped, stream)
            x = transforms.as_unit(x)
            if view.is_random and stream == "rgb" and options.color_jitter > 0:
                x = transforms.color_jitter(x, draw("colour", 3), options.color_jitter)
            mean, std = normalisation(options, stream)
            x = transforms.normalise(x, mean, std)
            inputs[stream] = transforms.pack(x, is_stacked=is_stacked(view.spec))
        batch = replace(batch, inputs=inputs)
        alpha = options.mixup_alpha
        if not view.is_random or alpha <= 0:
            return batch
        mixed: Batch = mixing.mixed(
            batch, transforms.mixup, alpha=alpha, seed=view.seed, epoch=epoch
        )
        return mixed

    def frames_of(self, index: int) -> NDArray[np.uint8]:
        """(T, H, W, 3): a few frames of a sample as it is, for people to look at.

        One black frame where these cannot be read: they are others than the model saw.
        """
        video = self.videos.items[index % len(self.videos.items)]
        try:
            return self._shown(video)
        except DataError:
            return np.zeros((1, *_shown_size(video.size), 3), np.uint8)

    def _shown(self, video: Video) -> NDArray[np.uint8]:
        has_colour = video.is_file or bool(video.rgb)
        available = video.num_frames if has_colour else video.num_flow
        picks = np.unique(np.linspace(0, max(available - 1, 0), 8).round().astype(np.int64))
        if has_colour:
            return clips.read_rgb(video, picks, size=_shown_size(video.size)).frames
        return clips.as_colours(clips.read_flow(video, picks, size=_shown_size(video.size)).frames)

    def _seen(self, index: int, epoch: int) -> tuple[dict[str, NDArray[np.uint8]], str] | str:
        """Frames (K, T, H, W, C) of each stream of a sample and their damage; or why not."""
        place = index % len(self.videos.items)
        if place in self.videos.failed:
            return self.videos.failed[place]
        video = self.videos.items[place]
        try:
            return self._read(video, index, epoch)
        except DataError as error:
            if not self.view.skips_bad:
                problems = [with_way_out(problem) for problem in error.problems]
                raise DataError.of(problems) from error
            problem = error.problems[0]
            return f"expected {problem.expected}, got {problem.received}"

    def _stand_in(
        self, index: int, epoch: int, reason: str
    ) -> tuple[np.int64, tuple[dict[str, NDArray[np.uint8]], str]]:
        """Label and frames of the next sample that can be read: a step needs all its rows."""
        for step in range(1, len(self.videos.items)):
            other = (index + step) % len(self)
            seen = self._seen(other, epoch)
            if not isinstance(seen, str):
                told = f"it cannot be read ({reason}); {self.ids[other]!r} is seen in its place"
                return self.labels[other], (seen[0], told)
        raise DataError(self.ids[index], "a video that can be read", f"none at all: {reason}")

    def _read(
        self, video: Video, index: int, epoch: int
    ) -> tuple[dict[str, NDArray[np.uint8]], str]:
        model, options = self.view.spec.model, self.view.spec.dataset.augmentation_config
        size = (model.input_height, model.input_width)
        plan = transforms.crop_plan(video.size, size, options, self._draw("crop", index, epoch, 2))
        rows, damage = {}, ""
        for stream, chosen in self._frames(video, index, epoch).items():
            found = READERS[stream](video, chosen.reshape(-1), size=plan.decode_size)
            cropped = transforms.apply_plan(found.frames, plan)
            rows[stream] = cropped.reshape(*chosen.shape, *cropped.shape[1:])
            damage = damage or found.damage
        return rows, damage

    def _frames(self, video: Video, index: int, epoch: int) -> Mapping[str, NDArray[np.int64]]:
        """(K, T) indices of each stream."""
        view, model, sampling = self.view, self.view.spec.model, self.view.sampling
        lengths = model.lengths
        longest = max(lengths.values())
        num_frames = video.num_flow if "flow" in lengths else video.num_frames
        num_frames = max(num_frames, 1)
        if view.is_random:
            draws = self._draw("frames", index, epoch, longest)
            clip = clip_sampling.train_clip(num_frames, longest, sampling, draws)
            shorter = self._draw("frames of the shorter", index, epoch, longest)
            return clip_sampling.by_stream(clip, lengths, sampling, shorter)
        found = clip_sampling.eval_clips(
            num_frames,
            longest,
            sampling,
            mode=view.mode,
            num_segments=view.num_segments,
            has_tail=model.input_type == "3d",
        )
        return clip_sampling.by_stream(found, lengths, sampling)

    def _draw(self, name: str, index: int, epoch: int, size: int) -> Any:
        """(size,) in [0, 1) for a sample; None outside training."""
        if not self.view.is_random:
            return None
        return uniform(self.view.seed, epoch, np.asarray([index]), name=name, size=size)[0]


def normalisation(options: Any, stream: str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of a stream, as `augmentation_config` says."""
    prefix = TAO_WORDS[stream]
    return getattr(options, f"{prefix}_input_mean"), getattr(options, f"{prefix}_input_std")


def _shown_size(size: tuple[int, int]) -> tuple[int, int]:
    height, width = (max(1, part) for part in size)
    return 96, max(1, round(width * 96 / height))
