"""How often steps say what windows say, and how often each is right.

Small models of ST-GCN learn the demo's six exercises from windows of 64 frames; people and views
of the test are new, and exercise for 224 frames. Every 20 frames a window is looked at alone; the
steps' answer is the mean over the same 64 frames (pose_classification/steps/stepped_model.py).
Once as the demo has it (34 joints in space about the pelvis, normalize none), and in a picture
(coco's 17 joints and confidence, people who walk as they exercise) with windows centred or scaled.

    python benchmarks/streaming_agreement.py [--samples N] [--epochs N] [--test N] [--seed N]
        [--weights FOLDER] [--normalize NAME ...]
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from kineme import synthetic
from kineme.figures import JOINTS
from kineme.pose_classification import transforms
from kineme.pose_classification.layouts import LAYOUTS
from kineme.pose_classification.model import STGCN
from kineme.pose_classification.steps.stepped_model import SteppedModel
from kineme.pose_classification.steps.values import SteppedValues

WINDOW, NUM_FRAMES, EVERY, FPS = 64, 224, 20, 15.0
SETTINGS = ("none", "center_minmax", "center")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=288, help="to learn from")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--test", type=int, default=36, help="people looked at")
    parser.add_argument("--seed", type=int, default=9, help="of the people looked at")
    parser.add_argument("--weights", type=Path, help="kept here, and taken from here if there")
    parser.add_argument("--normalize", nargs="+", default=SETTINGS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for normalize in arguments.normalize:
        layout = LAYOUTS["nvidia" if normalize == "none" else "coco"]
        model = trained(normalize, layout, arguments)
        compare(normalize, layout, model.eval(), arguments.test, arguments.seed)


@torch.inference_mode()
def compare(normalize, layout, model, num_samples, seed) -> None:
    x, labels = people(normalize, num_samples, seed, NUM_FRAMES, is_new=True)
    ends = range(WINDOW, NUM_FRAMES + 1, EVERY)
    windows = [prepared(x[:, :, end - WINDOW : end], normalize, layout) for end in ends]
    whole = torch.stack([torch.cat([model(part) for part in one.split(12)]) for one in windows])
    whole = whole.argmax(2)  # (E, N)
    answers = torch.stack([stepped(model, one, normalize, layout, ends) for one in x.split(1)])
    steps = answers.argmax(2).t()
    is_early = torch.tensor([end < WINDOW + 48 for end in ends])
    for name, chosen in (("all", is_early | True), ("later than 3 s", ~is_early)):
        same = (steps == whole)[chosen].float().mean()
        right = [(one == labels)[chosen].float().mean() for one in (whole, steps)]
        print(
            f"{normalize:<14} {name:<15} the same label {100 * same:.1f} %; right: "
            f"windows {100 * right[0]:.1f} %, steps {100 * right[1]:.1f} %",
            flush=True,
        )


def stepped(model, x, normalize, layout, ends) -> torch.Tensor:
    """(E, K) logits over the last window before each end, with all the frames after it."""
    ours, values = SteppedModel(model, window=NUM_FRAMES), SteppedValues(normalize, layout, WINDOW)
    steps = ours.begin()
    for frame in x.unbind(2):
        for one in values.update(frame):
            ours.step(steps, one)
    ours.finish(steps)
    return torch.cat([ours.answer(steps, (end - WINDOW, end)) for end in ends])


def trained(normalize, layout, arguments) -> STGCN:
    torch.manual_seed(0)
    model = STGCN(6, 3, layout=layout, dropout=0.0)
    path = arguments.weights and arguments.weights / f"{normalize}.pt"
    if path and path.is_file():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model
    began, size, room = time.monotonic(), 16, 48
    x, labels = people(normalize, arguments.samples, 3, WINDOW + room, is_new=False)
    optimizer = torch.optim.Adam(model.parameters(), weight_decay=5e-4)
    num_steps = arguments.epochs * (len(x) // size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1.5e-3, total_steps=num_steps, pct_start=0.15
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(arguments.epochs):
        for rows in torch.randperm(len(x), generator=generator).split(size)[: len(x) // size]:
            starts = torch.randint(0, room, (len(rows),), generator=generator).tolist()
            parts = [x[i, :, at : at + WINDOW] for i, at in zip(rows, starts, strict=True)]
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(prepared(torch.stack(parts), normalize, layout))
                loss = F.cross_entropy(logits, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    print(f"{normalize}: learned in {time.monotonic() - began:.0f} s", flush=True)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), path)
    return model


def prepared(x, normalize, layout) -> torch.Tensor:
    """Windows as the room normalises them."""
    present = transforms.present_joints(x)
    if normalize != "none":
        origin = transforms.origins(x, present, layout)
        x = transforms.move(x, present, layout, origin=origin, turn=None)
    return transforms.min_max(x, present, layout) if normalize == "center_minmax" else x


def people(normalize, num_samples, seed, num_frames, *, is_new):
    """(N, 3, T, V, 1) and labels (N)."""
    known = synthetic.TRAIN_BODIES, synthetic.TRAIN_VIEWS
    new = synthetic.HELD_OUT_BODIES, synthetic.HELD_OUT_VIEWS
    bodies, views = new if is_new else known
    if normalize == "none":
        made = synthetic.make_exercises(
            num_samples, seed, bodies=bodies, views=views, num_frames=num_frames, fps=FPS
        )
        return torch.from_numpy(made.data), torch.from_numpy(made.labels)
    figures = synthetic.pose_exercises(
        num_samples, seed, bodies=bodies, num_frames=num_frames, fps=FPS
    )
    return in_picture(figures, seed, bodies, views), torch.from_numpy(figures.labels)


def in_picture(figures, seed, bodies, views) -> torch.Tensor:
    """x, y of people who walk to one side, in widths of the picture, and confidence."""
    seen, _ = synthetic.look_at(figures, seed, bodies=bodies, views=views)
    draw, rng = synthetic.Draws(seed, len(seen)), np.random.default_rng(seed)
    seen = seen + synthetic.estimator_noise(draw, seen.shape)
    at = [JOINTS.index(joint) for joint in LAYOUTS["coco"].joints]
    there = synthetic.joints_seen(draw, seen.shape[1])[:, :, at]
    shape = (len(seen), 1, 1, 1)
    place, speed = rng.uniform(-0.9, 0.9, shape), rng.normal(0, 0.12, shape)  # metres, m/s
    seconds = np.arange(seen.shape[1])[None, :, None, None] / FPS
    scale = 1.2 / (4 + rng.uniform(-1, 2, shape))
    x = (seen[:, :, at, :1] + place + np.clip(speed * seconds, -1.5, 1.5)) * scale * 0.5625
    y = seen[:, :, at, 1:2] * scale
    confidence = there * rng.uniform(0.6, 1, there.shape)
    values = np.concatenate([x * there[..., None], y * there[..., None], confidence[..., None]], -1)
    return torch.from_numpy(values.transpose(0, 3, 1, 2).astype(np.float32))[..., None]


if __name__ == "__main__":
    main()
