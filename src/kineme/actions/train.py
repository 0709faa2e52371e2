"""Train a network: one visible loop.

Promises: the same spec gives the same weights; a run that was stopped anywhere and
resumed ends with the weights of one that was not, bitwise. SIGTERM and SIGINT leave a
checkpoint; a loss that is not finite leaves the last good one. Every sample of the
validation data counts once, whatever the number of processes.
Leaves out: what a sample and a model are (the rooms), how state is kept (engine/training.py).

B samples of a batch, R rows (model inputs) of them, C classes.
"""

import contextlib
import math
import signal
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from kineme.data.randomness import derived_seed
from kineme.engine import checkpoint as checkpoints
from kineme.engine import health, journal, launching, optim, results, runtime, validation
from kineme.engine.chance import chance_of
from kineme.engine.checkpoint import Checkpoint
from kineme.engine.feeding import Feed, build_feed, steps_per_epoch, training_requests
from kineme.engine.keeping import Keeper, changed_data, model_facts
from kineme.engine.memory import keep_freed_memory
from kineme.engine.names import METRIC
from kineme.engine.objective import Objective, load_teacher
from kineme.engine.predict import predict
from kineme.engine.progress import track
from kineme.engine.results import Run
from kineme.engine.scalars import Scalars, open_scalars
from kineme.engine.start import (
    Start,
    build_data,
    data_notes,
    find_start,
    left_out_note,
    start_from,
)
from kineme.engine.stepping import Figures, Step, can_be_recorded, is_scaled
from kineme.engine.training import Progress, Training, new_training, roll_back
from kineme.engine.validation import Validation
from kineme.errors import QualityError
from kineme.network import VAL, Batch, Common, Dataset, Network, PreparedBatches, Request
from kineme.signals import Interrupted, StopRequest, patient_signals
from kineme.spec.load import with_values


def run(network: Network, spec: Any) -> Mapping[str, Any]:
    """Train as `spec` says; returns the last figures and the best. Raises KinemeError."""
    with results.claim(spec, "train") as folder:
        start = find_start(network, spec, folder)
        with results.open_run(network, "train", start.spec) as a_run:
            devices, device_note = runtime.asked_devices(spec, "train")
            precision = spec.train.precision
            notes = (*start.notes, device_note, runtime.cpu_precision_note(devices, precision))
            for text in filter(None, notes):
                a_run.note(text)
            a_run.status("Starting Training Loop.", status="STARTED")
            a_run.kpi = launching.launch(
                train_here, network, start, a_run, devices=devices, precision=precision
            )
    return a_run.kpi


@dataclass
class _Job:
    """What the loop works with, in one process."""

    fabric: Fabric
    network: Network
    spec: Any
    run: Run
    training: Training
    step: Step
    feed: Feed
    prepared: PreparedBatches | None  # in place of what is fed, where the data lie on a GPU
    val_feed: Feed | None
    steps_per_epoch: int
    keeper: Keeper
    watch: health.Watch
    damaged: dict[int, str] = field(default_factory=dict)  # samples, and what was wrong
    num_damaged_told: int = 0
    stop: StopRequest = field(default_factory=StopRequest)
    scalars: Scalars = field(default_factory=Scalars)

    @property
    def common(self) -> Common:
        return self.network.common(self.spec)

    @property
    def samples_per_step(self) -> int:
        return int(self.spec.dataset.batch_size) * self.fabric.world_size


def train_here(fabric: Fabric, network: Network, start: Start, a_run: Run) -> dict[str, Any]:
    """The share of one process."""
    seed = fabric.broadcast(start.spec.train.seed)  # a seed that was drawn, on each node
    start = replace(start, spec=with_values(start.spec, {"train.seed": seed}))
    if fabric.device.type == "cpu":
        keep_freed_memory()
    cudnn = start.spec.train.cudnn
    with (
        a_run.joined(is_writer=fabric.is_global_zero),
        runtime.repeatable(seed, deterministic=cudnn.deterministic, benchmark=cudnn.benchmark),
    ):
        job = _prepare(fabric, network, start, a_run)
        first_step = job.training.progress.global_step
        with (
            open_scalars(job.spec, a_run, first_step=first_step) as job.scalars,
            patient_signals() as job.stop,
            contextlib.ExitStack() as open_feeds,
        ):
            for feed in filter(None, (job.feed, job.val_feed)):
                open_feeds.callback(feed.close)
            return _loop(job)


def _prepare(fabric: Fabric, network: Network, start: Start, a_run: Run) -> _Job:
    """Data, model and state, restored where there is something to continue."""
    spec, settings, common = start.spec, start.spec.train, network.common(start.spec)
    data, val_data = _load_data(network, spec, a_run)
    steps = steps_per_epoch(len(data), spec.dataset.batch_size, fabric.world_size)
    samples_per_step = spec.dataset.batch_size * fabric.world_size
    if text := optim.scaling_note(settings.optim, samples_per_step):
        a_run.say(text)
    module = network.build_model(spec)
    if start.checkpoint is None:
        for part, path in common.pretrained.items():
            _load_pretrained(network, spec, module, a_run, part=part, path=path)
    is_recorded = common.is_recorded and can_be_recorded(fabric, settings.precision)
    if fabric.device.type == "cuda":
        a_run.say(f"Steps of training are {'recorded and' if is_recorded else 'not'} replayed.")
    optimizer = optim.build_optimizer(
        module, settings.optim, head=network.head, can_be_recorded=is_recorded
    )
    model, wrapped = fabric.setup(module, optimizer)  # moves the module to its device
    training = new_training(
        module, optimizer, settings, steps_per_epoch=steps, samples_per_step=samples_per_step
    )
    chance = chance_of(
        data.labels,
        settings,
        num_classes=len(network.class_names(spec)),
        is_distilled=common.distillation is not None,
    )
    facts = model_facts(network, spec, data, val_data) | {"chance": chance.facts()}
    job = _Job(
        fabric=fabric,
        network=network,
        spec=spec,
        run=a_run,
        training=training,
        step=Step(
            fabric,
            training,
            model,
            wrapped,
            _objective(fabric, network, spec, data),
            grad_clip=common.grad_clip,
            is_scaled=is_scaled(settings.precision),
            is_recorded=is_recorded,
        ),
        feed=build_feed(network, spec, data),
        prepared=_kept_data(fabric, network, data, a_run),
        val_feed=build_feed(network, spec, val_data) if val_data else None,
        steps_per_epoch=steps,
        keeper=Keeper(a_run, fabric, training, network.prefix, facts, spec.encryption_key),
        watch=health.Watch(chance, settings, training.schedule.highest, steps, samples_per_step),
    )
    if text := left_out_note(len(data), num_steps=steps, samples_per_step=samples_per_step):
        a_run.note(text)
    if start.checkpoint:
        _continue(job, checkpoints.load_checkpoint(start.checkpoint, spec.encryption_key))
    return job


def _objective(fabric: Fabric, network: Network, spec: Any, data: Dataset) -> Objective:
    """The distance to labels, and to a teacher where there is one."""
    num_classes, asked = len(network.class_names(spec)), network.common(spec).distillation
    teacher = load_teacher(network, spec, asked, fabric.device) if asked else None
    loss = optim.build_loss(spec.train, data.labels, num_classes=num_classes, device=fabric.device)
    return Objective(loss, teacher)


def _load_data(network: Network, spec: Any, a_run: Run) -> tuple[Dataset, Dataset | None]:
    """Training and, if there is any, validation data."""
    data, val_data = build_data(network, spec)
    for text in data_notes(spec, data, val_data):
        a_run.note(text)
    return data, val_data


def _kept_data(
    fabric: Fabric, network: Network, data: Dataset, a_run: Run
) -> PreparedBatches | None:
    """Batches of data that lie on the GPU, where there is one and they fit."""
    if fabric.device.type != "cuda" or network.keep_on is None:
        return None
    kept = network.keep_on(data, fabric.device)
    a_run.say(
        "The training data lie on the GPU; no data workers are needed for them."
        if kept
        else "The training data take too much of the GPU's memory: batches are sent there."
    )
    return kept


def _load_pretrained(
    network: Network, spec: Any, module: nn.Module, a_run: Run, *, part: str, path: str
) -> None:
    source = checkpoints.load_checkpoint(path, spec.encryption_key)
    a_run.say(start_from(network, spec, module, source, part=part))
    if text := checkpoints.plain_note(source, spec.encryption_key):
        a_run.note(text)


def _continue(job: _Job, checkpoint: Checkpoint) -> None:
    """Restore the state and find the step; another number of samples per step moves it."""
    job.training.restore(job.fabric, checkpoint)
    job.step.start_anew()
    progress, name = job.training.progress, checkpoint.path.name
    step, rest = divmod(progress.step * progress.samples_per_step, job.samples_per_step)
    if rest:
        job.run.note(f"{name}: {rest} samples of the epoch are seen again (new batch size).")
    for split in changed_data(checkpoint.facts, job.keeper.facts):
        job.run.note(f"{name} was trained with other data of {split}: it goes on with these.")
        if split == VAL:
            progress.forget_best()
    if progress.best_epoch >= 0 and not job.keeper.has_best(checkpoint.path.parent):
        job.run.note(
            f"{checkpoint.path.parent}: no best checkpoint of epoch {progress.best_epoch + 1} to "
            "take along, so the best from now on is kept."
        )
        progress.forget_best()
    progress.step, progress.samples_per_step = min(step, job.steps_per_epoch), job.samples_per_step
    job.run.say(f"Continuing {name} at epoch {progress.epoch + 1}, step {progress.step}.")


# The loop


def _loop(job: _Job) -> dict[str, Any]:
    """All epochs that are left."""
    if _is_finished(job):
        job.run.say(f"Already finished: {job.training.progress.epoch} epochs. Nothing to do.")
        return _kpi(job.training.progress)
    if preflight := checkpoints.preflight(job.run.folder, job.training.size_bytes):
        job.run.note(preflight)
    while not _is_finished(job):
        started = time.monotonic()
        try:
            _steps(job)
        except QualityError as error:
            _roll_back(job, error)
        else:
            _end_epoch(job, time.monotonic() - started)
    job.run.status("Training loop complete.")
    return _kpi(job.training.progress)


def _steps(job: _Job) -> None:
    """The steps that are left of an epoch."""
    settings, progress = job.spec.train, job.training.progress
    title = f"epoch {progress.epoch + 1}/{settings.num_epochs}"
    requests = training_requests(
        len(job.feed.dataset),
        job.spec.dataset.batch_size,
        seed=settings.seed,
        epoch=progress.epoch,
        rank=job.fabric.global_rank,
        world_size=job.fabric.world_size,
    )
    with (
        track(job.run, title, total=job.steps_per_epoch) as advance,
        contextlib.closing(_batches(job, requests)) as batches,
    ):
        for batch in batches:
            job.damaged |= batch.remarks.damaged
            if not progress.pass_over():
                loss = _step(job, batch)
                advance(progress.step, f"loss {loss:.4f}")


def _batches(job: _Job, requests: Sequence[Request]) -> Generator[Batch]:
    """Those of an epoch that are left, prepared on the device."""
    progress, dataset = job.training.progress, job.feed.dataset
    if job.prepared:
        yield from job.prepared(requests, progress.step)
        return
    with contextlib.closing(job.feed.read(requests[progress.step :])) as batches:
        for batch in batches:
            prepared = dataset.transform(batch.to(job.fabric.device), progress.epoch)
            yield replace(prepared, remarks=batch.remarks)


def _roll_back(job: _Job, error: QualityError) -> None:
    """Where the spec asks for it: on from the newest checkpoint, without the step that failed."""
    is_wanted = job.spec.train.on_nan == "rollback"
    key = job.spec.encryption_key
    name = roll_back(job.training, job.fabric, job.run.folder, key) if is_wanted else ""
    if not name:
        raise error
    job.step.start_anew()
    share = job.training.progress.rate_share
    job.run.note(f"{error} Going on from {name}, without that step and at {share:g} of the rate.")


def _step(job: _Job, batch: Batch) -> float:
    """One optimiser step; returns its loss, the mean over all processes."""
    training, progress, fabric = job.training, job.training.progress, job.fabric
    rate = training.schedule.lr(progress.epoch, progress.step) * progress.rate_share
    seed = derived_seed(job.spec.train.seed, progress.global_step, fabric.global_rank)
    found = job.step(batch, rate=rate, seed=seed)
    if not job.step.is_scaled and not math.isfinite(found.norm):
        progress.global_step += 1  # the step that failed, as users count
        raise _not_finite(job, batch, found.loss / len(batch.sample_of_row), rate)
    progress.step += 1
    progress.global_step += 1
    mean_loss, share_correct, stop_number = _share(job, found, len(batch.sample_of_row))
    if not math.isfinite(mean_loss):
        raise _not_finite(job, batch, mean_loss, rate)
    figures = {"train_loss_step": mean_loss, "train_acc_1_step": share_correct, "lr": rate}
    job.scalars.log(figures, progress.global_step)
    if stop_number:
        _stop(job, stop_number)
    settings = job.spec.train
    is_due = progress.global_step % settings.checkpoint_interval == 0
    if settings.checkpoint_interval_unit == "step" and is_due:
        job.keeper.save()
    return mean_loss


def _share(job: _Job, found: Figures, num_rows: int) -> tuple[float, float, int]:
    """Loss and accuracy over all processes, added to the epoch's sums; agree on stopping.

    One small reduction carries all of it, so that all processes know the same.
    """
    progress, fabric = job.training.progress, job.fabric
    own = [found.loss, found.num_correct, num_rows, job.stop.number]
    if fabric.world_size > 1:
        sums = torch.tensor(own, dtype=torch.float64, device=fabric.device)
        own = fabric.all_reduce(sums, reduce_op="sum").tolist()  # type: ignore[union-attr]
    loss_sum, num_correct, total_rows, signals = own
    progress.loss_sum += loss_sum
    progress.num_correct += num_correct
    progress.num_rows += total_rows
    number = int(signals) if fabric.world_size == 1 else signal.SIGTERM * (signals > 0)
    return loss_sum / total_rows, num_correct / total_rows, number


def _end_epoch(job: _Job, seconds: float) -> None:
    """Validate, judge, save and report."""
    settings, training, progress = job.spec.train, job.training, job.training.progress
    epoch = progress.epoch
    if not progress.num_rows:
        raise QualityError(
            f"epoch {epoch + 1}", "a step with a finite loss", "none: all were left out",
            f"Lower train.optim.lr or set {job.common.grad_clip_key}.",
        )  # fmt: skip
    rate = training.schedule.lr(epoch, max(0, progress.step - 1)) * progress.rate_share
    figures = {
        "train_loss": progress.loss_sum / progress.num_rows,
        "train_acc": progress.num_correct / progress.num_rows,
    }
    norm = job.step.last_norm
    for text in job.watch.warnings(figures, progress.metrics, epoch=epoch, norm=norm):
        job.run.note(text)
        job.run.status(text)
    _tell_damage(job)
    is_last = epoch + 1 == _last_epoch(settings)
    is_validated = job.val_feed is not None and (
        (epoch + 1) % settings.validation_interval == 0 or is_last
    )
    found = validate(job) if is_validated else Validation()
    figures |= found.figures
    is_validated = METRIC in figures  # and something of the data could be read
    training.schedule.end_epoch(figures)
    is_best = is_validated and figures[METRIC] > progress.best  # ties: the earlier one
    if is_validated:
        progress.num_stale_validations = 0 if is_best else progress.num_stale_validations + 1
    if is_best:
        progress.best, progress.best_epoch = figures[METRIC], epoch
    progress.end_epoch(figures)
    is_due = settings.checkpoint_interval_unit == "epoch" and (
        (epoch + 1) % settings.checkpoint_interval == 0
    )
    pace = journal.Pace(epoch, settings.num_epochs, job.steps_per_epoch, seconds)
    journal.report_epoch(
        job.run, job.scalars, figures, pace=pace, step=progress.global_step, lr=rate
    )
    # the checkpoint comes last: who continues it has all that belongs to its epoch
    best = job.keeper.save_best(found.calibration) if is_best else None
    if is_due or _is_finished(job):
        job.keeper.save(best, calibration=found.calibration)
    if _is_finished(job):
        job.keeper.save_last_weights(found.calibration)


def _tell_damage(job: _Job) -> None:
    """What was wrong with samples of any process, when the epoch has shown more of it."""
    parts = [job.damaged]
    if job.fabric.world_size > 1:
        parts = parts * job.fabric.world_size
        torch.distributed.all_gather_object(parts, job.damaged)
    found = {index: what for part in parts for index, what in part.items()}
    if len(found) > job.num_damaged_told:
        job.run.note(validation.damage_note(found, job.feed.dataset))
    job.num_damaged_told = len(found)


def validate(job: _Job) -> Validation:
    """What the validation data say of the model that checkpoints hold."""
    feed, training = job.val_feed, job.training
    if feed is None:
        return Validation()
    if job.fabric.world_size > 1:  # running statistics are each process's own: use rank 0's
        for buffer in training.result.buffers():
            torch.distributed.broadcast(buffer, 0)
    with track(job.run, "validation", total=len(feed.dataset)) as advance:

        def poll(num_seen: int) -> None:
            advance(num_seen)
            if number := runtime.agreed(job.stop, job.fabric):
                _stop(job, number)

        answers = predict(
            job.fabric,
            training.result,
            feed,
            batch_size=job.spec.dataset.batch_size,
            epoch=training.progress.epoch,
            poll=poll,
        )
    damage = validation.damage_note(
        answers.remarks.damaged, feed.dataset, what="validation samples"
    )
    for text in filter(None, (validation.failure_note(answers, feed.dataset), damage)):
        job.run.note(text)
    return validation.judge(answers, feed.dataset, data=job.keeper.facts["validated_on"])


# What is left behind


def _is_finished(job: _Job) -> bool:
    settings, progress = job.spec.train, job.training.progress
    patience = settings.early_stopping_patience
    has_stalled = patience > 0 and progress.num_stale_validations >= patience
    return progress.step == 0 and (progress.epoch >= _last_epoch(settings) or has_stalled)


def _last_epoch(settings: Any) -> int:
    """The epoch, from 1, with which this run ends."""
    return min(settings.stop_epoch or settings.num_epochs, settings.num_epochs)  # type: ignore[no-any-return]


def _stop(job: _Job, number: int) -> None:
    """Save and end, because all processes agreed on a signal."""
    progress, settings = job.training.progress, job.spec.train
    job.keeper.save()
    job.fabric.barrier()  # who leaves first would end the others
    epoch = progress.last_epoch + 1
    where = f"in epoch {epoch} of {settings.num_epochs}, step {progress.global_step}"
    fix = f"A checkpoint is in {job.run.folder}; set train.resume=true to continue."
    raise Interrupted.by(number, where, fix)


def _not_finite(job: _Job, batch: Batch, loss: float, rate: float) -> QualityError:
    progress, ids = job.training.progress, job.feed.dataset.ids
    names = ", ".join(str(ids[i]) for i in batch.indices[:4].tolist())
    norm = job.step.last_norm
    return QualityError(
        f"epoch {progress.epoch + 1}, step {progress.global_step}",
        "a finite loss and gradient",
        f"loss {loss} (lr {rate:g}, gradient norm {norm:.3g}, samples {names}, ...)",
        "The last good checkpoint is kept. Lower train.optim.lr or set "
        f"{job.common.grad_clip_key}.",
    )


def _kpi(progress: Progress) -> dict[str, Any]:
    """The last epoch's figures, and the best validation."""
    kpi: dict[str, Any] = dict(progress.metrics)
    if progress.best_epoch >= 0:
        kpi |= {"best_val_acc": progress.best, "best_epoch": progress.best_epoch}
    return kpi
