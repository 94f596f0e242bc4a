"""What every training run has in common: data stream, optimizer, averages, learning rate, loop, logs and checkpoints.

A trainer says what is trained (`build`), what is minimised (`losses`) and what is saved (`between_updates`, `finish`).

Weights, data order, times, noise and label dropout are functions of (seed, update, position of the image in the data
stream), never of a generator's history or of a process. A resumed run continues bit for bit, and processes at an equal
batch in total follow the trajectory of one. (The masks of a network's dropout layers alone differ by process.)
"""

import argparse
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DynamoBackend, set_seed
from torch import Tensor
from tqdm.auto import tqdm

from ..schedulers.checks import check_integer, check_number
from ..schedulers.sde import finest_dtype
from .batches import Batch, BatchSource, Pictures
from .checkpoints import CheckpointManager
from .data import ImageStore
from .ema import ExponentialMovingAverage
from .image_stream import ImageStream, check_bookmark
from .interruption import Interruption, RunInterrupted
from .optimization import make_optimizer
from .posthoc_ema import PowerAverages, SnapshotFolder
from .run_config import save_run_config
from .run_data import data_set_name
from .run_report import Activations, UpdateClock, readable_bytes, size_report, time_report
from .run_settings import run_settings
from .sharding import configure_sharding, shards_weights, spread_like, whole_network
from .tracking import end_logs, log, make_accelerator


class TrainerCore(ABC):
    """One training run.

    Args:
        args: see `arguments.parse_args` and `classifier_arguments.parse_classifier_args`.

    Attributes:
        step: updates done.
        images_seen: images consumed by all processes together; the position in the data stream.
        seconds: training time, earlier parts of a resumed run included.
        images: the data, of a stream its first images; set by `build`.
        labels: classes of the images, int64, shape (N,), or None; set by `build`.
        stream: the data where they are streamed; set by `build`.
        bookmark: the place in the stream; see `image_stream`.
        metric_names: what `losses` reports, the loss first; set by `build` if there is more.
    """

    images: ImageStore
    labels: Tensor | None = None
    stream: ImageStream | None = None
    bookmark: dict[str, Any] | None = None
    metric_names: tuple[str, ...] = ("loss",)
    _activations_told = True  # without `train`

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.output_dir = args, Path(args.output_dir)
        self.accelerator = make_accelerator(args)
        self.sharded = shards_weights(self.accelerator)
        if self.sharded and getattr(args, "optimizer", "adamw") == "muon":
            raise ValueError("optimizer must be adamw where the weights are spread over processes, got muon")
        args.mixed_precision = self.accelerator.mixed_precision  # `accelerate config`'s where none is given
        self.step, self.images_seen, self.seconds = 0, 0, 0.0
        # Python's and NumPy's as well: a checkpoint holds their state, and two runs write the same.
        set_seed(args.seed % 2**32)
        torch.manual_seed(args.seed)
        with self.accelerator.local_main_process_first():  # the others then find the data set in the cache
            self.network = self.build()
        self._make_optimizer()
        self._resume()

    # ------------------------------------------------------------------ what a trainer defines

    @abstractmethod
    def build(self) -> Any:
        """Opens the data (`images`, `labels`) and returns the network with its first weights."""

    @abstractmethod
    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The mean loss of a batch, and sum and count of each of `metric_names`, shape (len(metric_names), 2)."""

    def measure(self) -> None:  # noqa: B027  # most trainers measure nothing on the way
        """Called after every update, before a checkpoint is saved."""

    def extra_state(self) -> dict[str, Any]:
        """JSON values of the main process that a checkpoint keeps besides."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Called before the first update, with what the checkpoint kept of `extra_state`; {} for a new run."""

    def between_updates(self) -> None:  # noqa: B027  # most trainers save nothing here
        """Called after every update; checkpoints are saved already."""

    # ------------------------------------------------------------------ preparation

    @property
    def source(self) -> BatchSource:
        """The batches of this process."""
        return BatchSource(self.args, self.accelerator, self.images, self.labels, self.stream)

    @property
    def updates_per_epoch(self) -> int:
        """Updates until every image was seen, rounded up; not known of a stream."""
        return math.ceil(len(self.images) / self.source.images_per_update)

    def _make_optimizer(self) -> None:
        args, network = self.args, self.network
        network.to(self.accelerator.device).train()
        if args.channels_last and self.sharded:
            self.accelerator.print("FSDP takes contiguous weights alone: channels_last has no effect")
        elif args.channels_last:
            network.to(memory_format=torch.channels_last)
        # Copied before Accelerate wraps the network's forward.
        decay = args.ema_max_decay if args.use_ema else 0.0
        self.ema: ExponentialMovingAverage[Any] = ExponentialMovingAverage(
            network, decay, args.ema_inv_gamma, args.ema_power
        )
        self.averages = PowerAverages(network, getattr(args, "ema_widths", None) or ())
        if args.gradient_checkpointing:  # not of the averages: nothing is trained through them
            network.enable_gradient_checkpointing()
        self.max_steps = args.max_train_steps or args.num_epochs * self.updates_per_epoch
        optimizer, self.lr_scheduler = make_optimizer(args, network, self.max_steps)
        if self.sharded:
            configure_sharding(self.accelerator, network)
        # `model` may be wrapped (DDP, torch.compile). Averages and checkpoints take `network`, whose names are plain.
        self.model, self.optimizer = self.accelerator.prepare(network, optimizer)
        if self.sharded:
            for average in (self.ema, *self.averages.models):
                spread_like(average.model, network)
        self.checkpoints = CheckpointManager(
            self.accelerator,
            self.output_dir,
            {"unet": network},
            self.optimizer,
            self.lr_scheduler,
            {"unet": self.ema, **self.averages.by_name()},
            args.checkpoints_total_limit,
            run_settings(args, {"unet": self.ema.model}, data_set_name(self.images, self.labels, self.stream)),
        )
        # Sums and counts of the metrics since the last log.
        device = self.accelerator.device
        self.totals = torch.zeros(len(self.metric_names), 2, device=device, dtype=finest_dtype(device))
        self.snapshots = SnapshotFolder(
            self.output_dir, self.averages, self.max_steps, getattr(args, "ema_snapshots", 1)
        )

    # ------------------------------------------------------------------ the loop

    def train(self) -> None:
        """Updates until `max_steps`, with checkpoints and logs in between."""
        accelerator = self.accelerator
        accelerator.print(size_report(self.network, self.ema, self.averages, self.optimizer))
        # A compiler decides itself what is kept, and parts of weights are put together for a while.
        self._activations_told = self.sharded or accelerator.state.dynamo_plugin.backend != DynamoBackend.NO
        pictures = self.source.read(self.images_seen, self.bookmark)
        bar = tqdm(
            total=self.max_steps, initial=self.step, desc="train", disable=not accelerator.is_local_main_process
        )
        clock = UpdateClock(self.seconds, self.step)
        with Interruption() as interruption:
            while self.step < self.max_steps:
                self.totals += self.update(pictures)
                self.step += 1
                bar.update()
                self.seconds = clock.seconds()
                if (each := clock.update_time(self.step)) is not None:
                    self._tell(time_report(each, self.max_steps - self.step, accelerator.device))
                self._between_updates(bar)
                if (signal := interruption.requested(accelerator)) is not None:
                    self.save_checkpoint()
                    end_logs(accelerator)
                    raise RunInterrupted(signal)
        bar.close()

    def _between_updates(self, bar: Any) -> None:
        args = self.args
        if self.step % args.logging_steps == 0 or self.step == self.max_steps:
            bar.set_postfix(self._log(self.totals))
        if self.step % args.logging_steps == 0:  # not at the end alone: a longer run may go on from there
            self.totals = torch.zeros_like(self.totals)
        self.snapshots.after_update(self.step, self.accelerator.is_main_process)
        self.measure()
        if self.step % args.checkpointing_steps == 0:
            self.save_checkpoint()
        self.between_updates()

    def update(self, pictures: Iterator[Pictures]) -> Tensor:
        """One optimizer step over all accumulation steps; returns the sums of the metrics, not synchronised."""
        args, accelerator, source = self.args, self.accelerator, self.source
        totals = torch.zeros_like(self.totals)
        for micro in range(args.gradient_accumulation_steps):
            last = micro == args.gradient_accumulation_steps - 1
            with nullcontext() if last else accelerator.no_sync(self.model):
                batch = source.next_batch(pictures, self.step, micro, self.images_seen)
                # Accelerate does this in the forward pass of a network whose weights are not spread.
                with accelerator.autocast() if self.sharded else nullcontext():
                    loss, sums = self._losses(batch)
                accelerator.backward(loss)
            totals, self.bookmark = totals + sums.detach(), batch.bookmark
        self.images_seen += source.images_per_update
        if args.max_grad_norm > 0:
            accelerator.clip_grad_norm_(self.model.parameters(), args.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if not accelerator.optimizer_step_was_skipped:
            self.lr_scheduler.step()
            self.ema.update(self.network)
            self.averages.update(self.network)
        return totals

    def _losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """`losses`; of the first batch with a line about the memory of its activations."""
        if self._activations_told:
            return self.losses(batch)
        kept = Activations(self.network)
        with kept:
            losses = self.losses(batch)
        self._activations_told = True
        self._tell(f"activations of {len(batch.images)} images take {readable_bytes(kept.size)}")
        return losses

    def _tell(self, line: str) -> None:
        """Prints a line of its own, above the progress bar."""
        with tqdm.external_write_mode():
            self.accelerator.print(line)

    def _log(self, totals: Tensor) -> dict[str, float]:
        """Logs the means over all processes since the last call: the only synchronisation."""
        sums, counts = self.accelerator.reduce(totals.clone(), "sum").T.tolist()
        means = {name: total / count for name, total, count in zip(self.metric_names, sums, counts) if count > 0}
        if not math.isfinite(means["loss"]):
            raise FloatingPointError(
                f"the loss must be finite, got {means['loss']} at step {self.step}; resume from an earlier checkpoint"
            )
        rate = self.lr_scheduler.get_last_lr()[0]
        log(self.accelerator, {**means, "lr": rate, "images_seen": self.images_seen}, step=self.step)
        return {"loss": means["loss"], "lr": rate}

    # ------------------------------------------------------------------ checkpoints

    def averaged(self) -> Any:
        """The network with the averaged weights, which are what is saved and used. To be called on every process."""
        return whole_network(self.ema.model)

    def save_checkpoint(self) -> None:
        """Saves the state of every process into `checkpoint-<step>`."""
        state = {"images_seen": self.images_seen, "seconds": self.seconds, "extra": self.extra_state()}
        if self.stream is not None:
            state["stream"] = self.bookmark
        self.checkpoints.save(self.step, state, {"totals": self.totals})

    def _resume(self) -> None:
        args = self.args
        state = self.checkpoints.start(
            args.resume_from_checkpoint, args.overwrite_output_dir, args.allow_changed_settings
        )
        if state is None:
            if args.resume_from_checkpoint is not None:
                self.accelerator.print(f"no checkpoint in {self.output_dir}: starting from the beginning")
        else:
            self._take_over(state)
            self.accelerator.print(f"resumed at step {self.step}")
        self.snapshots.drop_after(self.step, self.accelerator.is_main_process)
        self.restore({} if state is None else state.get("extra", {}))
        if self.accelerator.is_main_process:
            save_run_config(args, self.output_dir)

    def _take_over(self, state: dict[str, Any]) -> None:
        """Goes on with what a checkpoint holds, after a check of every value."""
        of = f"of {state['path']}"
        self.step = check_integer(f"step {of}", state["step"], 0)
        self.images_seen = check_integer(f"images_seen {of}", state.get("images_seen"), 0, most=2**62)
        self.seconds = check_number(f"seconds {of}", state.get("seconds"), 0)
        self.bookmark = check_bookmark(state.get("stream"), f"stream {of}")
        if not isinstance(state.get("extra", {}), dict):
            raise ValueError(f"extra {of} must be a dictionary, got {state['extra']!r}")
        totals = state["process_state"].get("totals", self.totals)
        if not isinstance(totals, Tensor) or totals.shape != self.totals.shape or not bool(totals.isfinite().all()):
            raise ValueError(f"totals {of} must be finite and of shape {tuple(self.totals.shape)}, got {totals!r}")
        self.totals = totals.to(self.totals)

    def save_last_state(self) -> None:
        """The last checkpoint and the last snapshots, where the loop has not saved them.

        A signal is waited with until they are saved, and ends the run then.
        """
        with Interruption() as interruption:
            if self.step % self.args.checkpointing_steps != 0:
                self.save_checkpoint()
            self.snapshots.save(self.step, self.accelerator.is_main_process)
            if (signal := interruption.requested(self.accelerator)) is not None:
                end_logs(self.accelerator)
                raise RunInterrupted(signal)
