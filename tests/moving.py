"""Clips with known motion, for the tests of optical flow."""

import cv2
import numpy as np

from kineme.data.flow import iterate_flow


def textured(height, width, seed=0):
    """Blobs of many sizes, (H, W) in 0..255: something to follow everywhere."""
    chance = np.random.default_rng(seed)
    image = np.zeros((height, width))
    for size in (2, 4, 8, 16):
        coarse = chance.normal(size=(height // size + 3, width // size + 3))
        shape = (width + 2 * size, height + 2 * size)
        image += size * cv2.resize(coarse, shape, interpolation=cv2.INTER_CUBIC)[:height, :width]
    return (image - image.min()) / np.ptp(image) * 255


def moving(num_frames, *, dx, dy, height=64, width=96, seed=0):
    """(T, H, W, 3): a picture that moves by (dx, dy) pixels a frame, sampled between pixels."""
    image = textured(height, width, seed)
    frames = []
    for t in range(num_frames):
        shift = np.float64([[1, 0, dx * t], [0, 1, dy * t]])
        moved = cv2.warpAffine(
            image, shift, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
        )
        frames.append(np.repeat(np.clip(np.rint(moved), 0, 255)[..., None], 3, axis=2))
    return np.stack(frames).astype(np.uint8)


def inside(flow):
    """Without the border, where what moves in was never seen."""
    return flow[..., 8:-8, 8:-8, :].reshape(-1, 2)


def compute_flow(frames, *, method="dis"):
    """(T, H, W, 3) -> (T - 1, H, W, 2) pixels per frame."""
    pairs = list(iterate_flow(frames, method=method))
    return np.stack(pairs) if pairs else np.zeros((0, *frames.shape[1:3], 2), np.float32)


def decode_flow(encoded, *, scaling, bound=20.0):
    """Bytes (..., H, W, 2) as pixels: the middle of the motions that each byte stands for.

    bound: of `fixed`; for `per_frame` the range of each frame, (...,).
    """
    steps = np.float32(127.999 if scaling == "per_frame" else 127.5)
    pixels = np.asarray(bound, np.float32) / steps
    if pixels.ndim:
        pixels = pixels[..., None, None, None]
    return (encoded.astype(np.float32) - np.float32(127.5)) * pixels
