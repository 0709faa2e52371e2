"""Signs that training goes wrong although it runs: said, not acted on.

Promises: an epoch is held against what guessing reaches on the same samples with the same loss,
and only after enough steps: the first epochs of a training that learns are no alarm.
Leaves out: a loss that is not finite, which ends a run (actions/train.py).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kineme.engine.chance import Chance

EXPLODED = 10.0  # times the loss of guessing
EXPLODED_AT_ONCE = 1000.0  # the same of the first epoch: a fresh CTR-GCN of 3 classes was at 20
ENOUGH = (5, 100)  # epochs and steps after which a model has learned something
ENOUGH_AT_REST = (2, 1000)  # where the loss does not even fall
CLEARLY_BELOW = 0.9  # of the loss of guessing; there, something is learned
ABOVE = 1.05  # times the loss of guessing; what is above it has learned nothing that helps
FAR_ABOVE = 1.2
STILL_FALLING = 0.01  # of the loss of guessing, from epoch to epoch
ONE_SIDED = 0.5  # share of the largest class from which answering it alone is tempting


def is_guessing(figures: Mapping[str, float], chance: Chance) -> bool:
    """Whether an epoch's train_loss and train_acc are no better than chance.

    That is: as often right as the largest class is there, within two standard errors, with a
    loss that is not clearly lower than that of guessing; or a loss above it.
    """
    if chance.accuracy == 1:
        return False
    loss = figures["train_loss"] / chance.loss if chance.loss else 1.0
    error = math.sqrt(chance.accuracy * (1 - chance.accuracy) / chance.num_samples)
    is_no_better = figures["train_acc"] <= chance.accuracy + 2 * error
    return loss > ABOVE or (is_no_better and loss > CLEARLY_BELOW)


def is_falling(figures: Mapping[str, float], before: Mapping[str, float], chance: Chance) -> bool:
    """Whether the loss has become lower since the epoch before."""
    fall = before.get("train_loss", figures["train_loss"]) - figures["train_loss"]
    return chance.loss is not None and fall > STILL_FALLING * chance.loss


def learning_alarm(
    figures: Mapping[str, float],
    before: Mapping[str, float],
    chance: Chance,
    *,
    rate: float,
    samples_per_step: int,
    is_frozen: bool = False,
) -> str:
    """What to tell of a training that guesses, with the likely cause; "" where it learns.

    before: the figures of the epoch before, where there are any. rate: the highest one.
    is_frozen: whether no gradient reaches the weights.
    """
    if not is_guessing(figures, chance):
        return ""
    loss, known = figures["train_loss"], chance.loss
    guessing = f"{chance.accuracy:.3f}" + (f" and {known:.3g}" if known else "")
    seen = f"train_acc {figures['train_acc']:.3f}" + (
        f" and train_loss {loss:.3g}" if known else ""
    )
    steps = f"steps of {samples_per_step} samples"
    if is_frozen or rate == 0:
        cause = "The weights stand still: the rate is 0, or no gradient reaches them."
    elif known and loss > FAR_ABOVE * known:
        cause = f"The rate, {rate:g}, is likely too high for {steps}: try a tenth of it."
    elif is_falling(figures, before, chance):
        cause = f"The loss still falls: the rate, {rate:g}, is likely too low for {steps}."
    elif chance.accuracy > ONE_SIDED:
        cause = "It may name the largest class alone: set train.class_weights: balanced."
    else:
        cause = (
            f"Check that labels belong to their samples; if they do, the rate, {rate:g}, is too "
            f"high or too low for {steps}: try a tenth of it, then ten times."
        )
    return f"It is not learning: {seen} are no better than guessing ({guessing}). {cause}"


@dataclass
class Watch:
    """What is told of the epochs of a training; that it explodes or does not learn, once each.

    settings: `train`. rate: the highest learning rate.
    """

    chance: Chance
    settings: Any
    rate: float
    steps_per_epoch: int
    samples_per_step: int
    is_told: bool = False
    has_exploded: bool = False

    def warnings(
        self, figures: Mapping[str, float], before: Mapping[str, float], *, epoch: int, norm: float
    ) -> list[str]:
        """Of `epoch` (from 0) with its figures and those before it; norm: of the gradient."""
        texts = []
        if not self.has_exploded:
            texts = [_explosion(figures, before, self.chance, epoch=epoch, rate=self.rate)]
            self.has_exploded = bool(texts[0])
        if norm == 0:
            texts.append(f"All gradients are zero at the end of epoch {epoch + 1}.")
        num_epochs = epoch + 1 - self.settings.optim.warmup_epochs
        done = num_epochs, num_epochs * self.steps_per_epoch
        rests = not is_falling(figures, before, self.chance)
        is_due = _reaches(done, ENOUGH) or (rests and _reaches(done, ENOUGH_AT_REST))
        if is_due and not self.is_told:
            alarm = learning_alarm(
                figures,
                before,
                self.chance,
                rate=self.rate,
                samples_per_step=self.samples_per_step,
                is_frozen=norm == 0,
            )
            texts.append(f"Epoch {epoch + 1}: {alarm}" if alarm else "")
            self.is_told = bool(alarm)
        return [text for text in texts if text]


def _reaches(done: tuple[int, int], needed: tuple[int, int]) -> bool:
    return all(ours >= least for ours, least in zip(done, needed, strict=True))


def _explosion(
    figures: Mapping[str, float],
    before: Mapping[str, float],
    chance: Chance,
    *,
    epoch: int,
    rate: float,
) -> str:
    """That the loss of `epoch` (from 0) is far above guessing and does not fall, or ""."""
    if chance.loss is None or is_falling(figures, before, chance):
        return ""
    limit = EXPLODED if before else EXPLODED_AT_ONCE
    if figures["train_loss"] <= limit * max(chance.loss, math.log(2)):
        return ""
    return (
        f"train_loss {figures['train_loss']:.3g} of epoch {epoch + 1} is far above guessing"
        f" ({chance.loss:.3g}): is the learning rate, {rate:g}, too high?"
    )
