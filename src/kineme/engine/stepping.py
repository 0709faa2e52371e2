"""One step of training: forward, backward and update; on a GPU recorded once and replayed.

Promises: a step whose gradient is not finite leaves weights that are not to be kept, and says so;
random numbers of a step follow from its seed, recorded or not.
Leaves out: learning rates and seeds of steps, what is made of the figures (actions/train.py).

A small model asks a GPU for thousands of short kernels a step, and asking takes longer than they
do. A CUDA graph asks once for all of them: the kernels of a step are recorded while it is taken
for the second time, with the batch, the learning rate and the share of averaged weights at fixed
places in memory, and every later step fills these and plays the recording.

B samples of a batch, R rows (model inputs) of them, C classes.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import nn

from kineme.engine import optim
from kineme.engine.objective import Objective, answers_of
from kineme.engine.training import Training
from kineme.errors import ResourceError
from kineme.network import Batch

SKIPS_ABSENT = "skips_absent"  # says a model whose work depends on who is there


@dataclass(frozen=True)
class Figures:
    """Of a step in one process. loss: of a stream, summed over the rows. norm: of the gradient,
    before it was clipped."""

    loss: float
    num_correct: float
    norm: float


class Step:
    """Takes steps of `training`. model, optimizer: as Fabric wraps them; grad_clip: 0 for none.

    is_scaled: the precision passes over steps that are not finite by itself.
    is_recorded: replay a CUDA graph, on the one GPU that the fabric has.
    """

    def __init__(
        self,
        fabric: Fabric,
        training: Training,
        model: nn.Module,
        optimizer: Any,
        objective: Objective,
        *,
        grad_clip: float,
        is_scaled: bool = False,
        is_recorded: bool = False,
    ) -> None:
        self.fabric, self.training, self.model = fabric, training, model
        self.optimizer, self.objective = optimizer, objective
        self.grad_clip, self.is_scaled, self.is_recorded = grad_clip, is_scaled, is_recorded
        self._on_gpu = fabric.device.type == "cuda"
        modules = training.module.modules()
        self._skips_absent = any(getattr(module, SKIPS_ABSENT, False) for module in modules)
        self.last_norm = math.nan  # of the gradient, before it was clipped
        self._stream: torch.cuda.Stream | None = None
        self._share = torch.zeros((), device=fabric.device)  # of the way of averaged weights
        if is_recorded:
            self._stream = cast(Any, torch.cuda.Stream)(fabric.device)
        self.forget()

    def __call__(self, batch: Batch, *, rate: float, seed: int) -> Figures:
        """Learn from a batch on the device, prepared for the model.

        Where the gradient is not finite, and not `is_scaled`, the weights may be spoiled.
        """
        optim.set_rate(self.training.optimizer, rate)
        if not self.training.module.training:
            self.training.module.train()
        torch.manual_seed(seed)  # dropout
        with self._own_stream():
            is_like_others = not (batch.lacks_people and self._skips_absent)
            take = self._replay if self._is_warm and is_like_others else self._take
            figures = Figures(*take(batch))
        self.last_norm = figures.norm
        return figures

    def forget(self) -> None:
        """Record anew: the state of the training has been replaced."""
        self._recording: _Recording | None = None
        self._is_warm = False
        if self._stream:  # steps that are not replayed take the same numbers from the same places
            optim.keep_rate_on(self.training.optimizer, self.fabric.device)

    @contextlib.contextmanager
    def _own_stream(self) -> Iterator[None]:
        """A recording may not be made on the stream that all else uses."""
        if self._stream is None:
            yield
            return
        outside = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(outside)
        with torch.cuda.stream(self._stream):
            yield
        outside.wait_stream(self._stream)

    def _take(self, batch: Batch) -> list[float]:
        self.optimizer.zero_grad()
        figures: list[float] = self._learn(batch).tolist()
        if self.is_scaled or math.isfinite(figures[2]):
            self._say_share()
            self.optimizer.step()
            self._average()
            self._is_warm = self._stream is not None
        return figures

    def _replay(self, batch: Batch) -> list[float]:
        if self._recording is None:
            self._recording = self._record(batch)
        self._say_share()
        figures: list[float] = self._recording.replay(batch).tolist()
        return figures

    def _record(self, batch: Batch) -> "_Recording":
        """Raises ResourceError where the model does what cannot be recorded."""
        try:
            return _Recording(self, batch)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise ResourceError(
                "train.cuda_graph",
                "a step whose kernels can be recorded",
                str(error).splitlines()[0] if str(error) else "one that cannot",
                "Set train.cuda_graph=false: slower, and the same otherwise.",
            ) from error

    def _say_share(self) -> None:
        """How far averaged weights go in this step, where a recording looks for it."""
        if self.training.averaged and self._stream:
            self._share.fill_(self.training.averaged.next_share())

    def _average(self) -> None:
        averaged, module = self.training.averaged, self.training.module
        if averaged and self._stream:
            averaged.move(module, self._share)
        elif averaged:
            averaged.update(module)

    def _learn(self, batch: Batch) -> torch.Tensor:
        """Gradients, clipped; (3,) float64 as `Figures`."""
        logits = self.model(**batch.inputs).float()  # (R, C) or (R, S, C)
        loss = self.objective(logits, batch, self.fabric)
        self.fabric.backward(loss)
        if self._on_gpu:
            optim.align_gradients(self.training.module)
        if self.grad_clip > 0:
            norm = self.fabric.clip_gradients(
                self.model, self.optimizer, max_norm=self.grad_clip, error_if_nonfinite=False
            )
        else:
            norm = optim.gradient_norm(self.training.module)
        targets = batch.labels[batch.sample_of_row]
        correct = (answers_of(logits.detach()).argmax(dim=1) == targets).sum()
        num_streams = logits.shape[1] if logits.dim() == 3 else 1
        shown = (loss.detach() / num_streams).double() * len(targets)
        return torch.stack([shown, correct.double(), norm.detach().double()])  # type: ignore[union-attr]


class _Recording:
    """A CUDA graph of a step that `step` took before, for batches like `batch`."""

    def __init__(self, step: Step, batch: Batch) -> None:
        training = step.training
        self.batch = _kept(batch)
        step.optimizer.zero_grad()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=step._stream):
            self.figures = step._learn(self.batch)
            training.optimizer.step()
            step._average()
        # what the recording writes to stays, whatever becomes of the parameters' own gradients
        self.gradients = [parameter.grad for parameter in training.module.parameters()]

    def replay(self, batch: Batch) -> torch.Tensor:
        """A step on `batch`; (3,) as `Figures`."""
        own, given = _tensors(self.batch), _tensors(batch)
        for mine, other in zip(own, given, strict=True):
            mine.copy_(other)
        if isinstance(self.batch.mixed_share, torch.Tensor):
            self.batch.mixed_share.fill_(float(batch.mixed_share))
        self.graph.replay()
        return self.figures


def _kept(batch: Batch) -> Batch:
    """A copy at a place of its own, whose share of mixing can be written to."""
    share = batch.mixed_share
    if batch.mixed_labels is not None:
        share = torch.tensor(float(share), device=batch.labels.device)
    mixed = None if batch.mixed_labels is None else batch.mixed_labels.clone()
    return replace(
        batch,
        inputs={name: x.clone() for name, x in batch.inputs.items()},
        labels=batch.labels.clone(),
        sample_of_row=batch.sample_of_row.clone(),
        mixed_labels=mixed,
        mixed_share=share,
    )


def _tensors(batch: Batch) -> list[torch.Tensor]:
    """What a batch tells a step, beside the share of mixing."""
    mixed = [] if batch.mixed_labels is None else [batch.mixed_labels]
    return [*batch.inputs.values(), batch.labels, batch.sample_of_row, *mixed]
