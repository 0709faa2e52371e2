"""Time in 2D networks: channels shifted between frames, and frames that vote.

Lin, Gan, Han: TSM, Temporal Shift Module for Efficient Video Understanding, ICCV 2019;
Wang et al.: Temporal Segment Networks, ECCV 2016. Promises: no parameters, so that weights
of still images load as they are; a clip never sees the frames of another.
Leaves out: where in a network the shift stands (its residual branches decide).
Legend: N clips, T frames of a clip, C channels, H x W pixels.
"""

import torch
import torch.nn.functional as F


def frames_of(clips: torch.Tensor) -> tuple[torch.Tensor, int]:
    """(N, C, T, H, W) -> frames (N T, C, H, W) and T."""
    n, c, t, h, w = clips.shape
    return clips.transpose(1, 2).reshape(n * t, c, h, w), t


def shift_time(x: torch.Tensor, num_frames: int, fraction: float = 0.125) -> torch.Tensor:
    """Show each frame a share of its neighbours' channels.

    x: (N T, C, H, W). The first `fraction` of the channels comes from the next frame, as many
    after these from the frame before, the others stay; beyond the ends of a clip is zero.
    """
    folded = int(x.shape[1] * fraction)
    if folded == 0:
        return x
    n, c, h, w = x.shape
    if x.is_contiguous():
        shifted = _shift(x.reshape(-1, num_frames, c, h * w), folded, dim=2)
        return shifted.reshape(n, c, h, w)
    last = x.permute(0, 2, 3, 1).reshape(-1, num_frames, h * w, c)  # as it lies in memory
    return _shift(last, folded, dim=3).reshape(n, h, w, c).permute(0, 3, 1, 2)


def _shift(clips: torch.Tensor, folded: int, *, dim: int) -> torch.Tensor:
    """clips: (N, T, ., .) with its channels in `dim`."""
    after, before, here = clips.tensor_split((folded, 2 * folded), dim=dim)
    after = F.pad(after[:, 1:], (0, 0, 0, 0, 0, 1))
    before = F.pad(before[:, :-1], (0, 0, 0, 0, 1, 0))
    return torch.cat((after, before, here), dim=dim)


def consensus(logits: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Logits of frames (N T, classes) -> of clips (N, classes): their mean."""
    return logits.view(-1, num_frames, logits.shape[1]).mean(dim=1)
