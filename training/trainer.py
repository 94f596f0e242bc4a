"""The training run: what is prepared once, one update, and what happens between updates.

Weights, data order, times and noise are functions of (seed, update, process), never of a generator's history: a run
that is resumed from a checkpoint continues bit for bit as if it had not stopped.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from diffusers.optimization import get_scheduler
from tqdm.auto import tqdm

from .checkpoints import CheckpointManager
from .components import DEFAULT_RESOLUTION, build_components, network_resolution
from .data import (
    ImageFormat,
    ImageStore,
    ShuffledBatches,
    find_image_column,
    image_batches,
    load_images,
    random_flip,
    to_data_range,
)
from .ema import ExponentialMovingAverage
from .interruption import Interruption, RunInterrupted
from .losses import score_matching_loss
from .model_card import model_card
from .pipeline_folder import Components, push_pipeline_folder, save_pipeline_folder
from .run_settings import data_fingerprint, run_settings
from .sampling import image_grid, sample
from .seeding import combined_seed
from .time_sampling import TimeSampler
from .tracking import log_images, make_accelerator


class Trainer:
    """One training run.

    Args:
        args: see `arguments.parse_args`.

    Attributes:
        step: updates done.
        images_seen: images consumed by all processes together; the position in the data stream.
        seconds: training time, earlier parts of a resumed run included.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.output_dir = Path(args.output_dir)
        self.accelerator = make_accelerator(args)
        args.mixed_precision = (
            self.accelerator.mixed_precision
        )  # the choice of `accelerate config` where none is given
        self.step, self.images_seen, self.seconds = 0, 0, 0.0
        torch.manual_seed(args.seed)
        self._make_data_and_components()
        self._make_optimizer()
        self._resume()

    # ------------------------------------------------------------------ preparation

    def _make_data_and_components(self) -> None:
        args = self.args
        with self.accelerator.local_main_process_first():  # the others then find the data set in the cache
            table = load_images(
                args.dataset_name, args.dataset_config_name, args.train_data_dir, args.split, args.cache_dir
            )
            column = find_image_column(table, args.image_column)
            gray = table[0][column].mode in ("1", "L", "I;16", "I", "F")
            self.components = build_components(args, 1 if gray else 3)
        unet, scheduler = self.components.unet, self.components.scheduler
        resolution = args.resolution or network_resolution(unet) or DEFAULT_RESOLUTION
        image_format = ImageFormat(resolution, unet.config.in_channels, args.image_fit, args.pad_value)
        self.images = ImageStore(table, image_format, column, args.max_cached_gb)
        self.times = TimeSampler(scheduler.sde, args.time_sampling, args.importance_sampling, args.training_eps)

    def _make_optimizer(self) -> None:
        args, unet = self.args, self.components.unet
        unet.to(self.accelerator.device).train()
        if args.channels_last:
            unet.to(memory_format=torch.channels_last)
        # Copied before Accelerate wraps the network's forward.
        self.ema = ExponentialMovingAverage(
            unet, args.ema_max_decay if args.use_ema else 0.0, args.ema_inv_gamma, args.ema_power
        )
        betas, decay = (args.adam_beta1, args.adam_beta2), args.adam_weight_decay
        optimizer = torch.optim.AdamW(
            unet.parameters(), lr=args.learning_rate, betas=betas, weight_decay=decay, eps=args.adam_epsilon
        )
        batch = args.train_batch_size * self.accelerator.num_processes
        self.updates_per_epoch = math.ceil(len(self.images) / (batch * args.gradient_accumulation_steps))
        self.max_steps = args.max_train_steps or args.num_epochs * self.updates_per_epoch
        self.lr_scheduler = get_scheduler(
            args.lr_scheduler,
            optimizer,
            num_warmup_steps=args.lr_warmup_steps,
            num_training_steps=self.max_steps,
        )
        self.model, self.optimizer = self.accelerator.prepare(unet, optimizer)
        networks = {"unet": unet}
        self.checkpoints = CheckpointManager(
            self.accelerator,
            self.output_dir,
            networks,
            self.optimizer,
            self.lr_scheduler,
            {"unet": self.ema},
            args.checkpoints_total_limit,
            run_settings(args, networks, data_fingerprint(self.images)),
        )
        # Sum of the losses since the last log, and their number.
        self.loss_sum, self.losses = torch.zeros((), device=self.accelerator.device), 0

    # ------------------------------------------------------------------ the loop

    def train(self) -> None:
        """Updates until ``max_steps``, with checkpoints, sample grids and logging in between."""
        args = self.args
        batches = self._batches()
        bar = tqdm(
            total=self.max_steps, initial=self.step, desc="train", disable=not self.accelerator.is_local_main_process
        )
        started = time.monotonic() - self.seconds
        with Interruption() as interruption:
            while self.step < self.max_steps:
                self.loss_sum += self._update(batches)
                self.step, self.losses = self.step + 1, self.losses + 1
                bar.update()
                self.seconds = time.monotonic() - started
                if self.step % args.logging_steps == 0 or self.step == self.max_steps:
                    bar.set_postfix(self._log(self.loss_sum, self.losses))
                if self.step % args.logging_steps == 0:  # not at the end alone: a longer run may go on from there
                    self.loss_sum, self.losses = torch.zeros_like(self.loss_sum), 0
                self._between_updates()
                if (signal := interruption.requested(self.accelerator)) is not None:
                    self.save_checkpoint()
                    self.accelerator.end_training()
                    raise RunInterrupted(signal)
        bar.close()

    def _batches(self) -> Iterator[torch.Tensor]:
        accelerator = self.accelerator
        ranks = accelerator.process_index, accelerator.num_processes
        stream = ShuffledBatches(
            len(self.images), self.args.train_batch_size, self.args.seed, self.images_seen, *ranks
        )
        pinned = accelerator.device.type == "cuda"
        return image_batches(self.images, stream, self.args.dataloader_num_workers, pinned)

    def _update(self, batches: Iterator[torch.Tensor]) -> torch.Tensor:
        """One optimizer step over ``gradient_accumulation_steps`` batches; returns the mean loss, not synchronised."""
        args, accelerator = self.args, self.accelerator
        total = torch.zeros((), device=accelerator.device)
        for micro in range(args.gradient_accumulation_steps):
            last = micro == args.gradient_accumulation_steps - 1
            with nullcontext() if last else accelerator.no_sync(self.model):
                loss = self._loss(next(batches), micro)
                accelerator.backward(loss)
            total += loss.detach() / args.gradient_accumulation_steps
        self.images_seen += args.train_batch_size * args.gradient_accumulation_steps * accelerator.num_processes
        if args.max_grad_norm > 0:
            accelerator.clip_grad_norm_(self.model.parameters(), args.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if not accelerator.optimizer_step_was_skipped:
            self.lr_scheduler.step()
            self.ema.update(accelerator.unwrap_model(self.model))
        return total

    def _loss(self, images: torch.Tensor, micro: int) -> torch.Tensor:
        """Score-matching loss of one batch; noise and targets in float32 whatever the network runs in."""
        args, device = self.args, self.accelerator.device
        position = (args.seed, self.step, micro, self.accelerator.process_index)
        torch.manual_seed(combined_seed(*position, 0))  # dropout
        generator = torch.Generator(device).manual_seed(combined_seed(*position, 1))
        images = images.to(device, non_blocking=True)
        if args.random_flip:
            images = random_flip(images, generator)
        x0 = to_data_range(images, self.components.data_range)
        t, weight = self.times(len(x0), generator, device)
        noise = torch.randn(x0.shape, generator=generator, device=device)
        scheduler = self.components.scheduler
        losses = score_matching_loss(
            scheduler.score_fn(self.model),
            scheduler.sde,
            x0,
            t,
            noise,
            likelihood_weighting=args.likelihood_weighting,
            reduce_mean=not args.sum_loss,
        )
        return (weight * losses).mean()

    # ------------------------------------------------------------------ between updates

    def _log(self, loss_sum: torch.Tensor, updates: int) -> dict[str, float]:
        """Logs the mean loss of all processes over the last ``updates`` updates: the only synchronisation."""
        loss = self.accelerator.reduce(loss_sum.clone(), "mean").item() / updates
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} at step {self.step}; resume from an earlier checkpoint")
        rate = self.lr_scheduler.get_last_lr()[0]
        self.accelerator.log({"loss": loss, "lr": rate, "images_seen": self.images_seen}, step=self.step)
        return {"loss": loss, "lr": rate}

    def _between_updates(self) -> None:
        args = self.args
        if self.step % args.checkpointing_steps == 0:
            self.save_checkpoint()
        if self.step % (args.save_model_epochs * self.updates_per_epoch) == 0:
            self.save_pipeline()
        if self.step % (args.sample_steps or args.save_images_epochs * self.updates_per_epoch) == 0:
            self.save_samples()

    def trained(self) -> Components:
        """The components with the averaged weights: what is saved and sampled."""
        return Components(self.ema.model, self.components.scheduler, self.components.data_range)

    def save_samples(self) -> None:
        """Writes ``samples/<step>.png`` and sends the images to the tracker; the main process alone works."""
        if self.accelerator.is_main_process and self.args.eval_batch_size:
            shape = (self.args.eval_batch_size, *self.images.format.shape)
            with self.accelerator.autocast():
                images = sample(
                    self.trained(),
                    shape,
                    num_inference_steps=self.args.num_inference_steps,
                    seed=self.args.seed,
                    device=self.accelerator.device,
                )
            path = self.output_dir / "samples" / f"{self.step:08d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image_grid(images).save(path)
            log_images(self.accelerator, images, self.step)
        self.accelerator.wait_for_everyone()

    def save_pipeline(self) -> None:
        """Writes the pipeline folder into ``output_dir``."""
        if self.accelerator.is_main_process:
            location = self.args.hub_model_id or self.output_dir.name
            card = model_card(self.args, self.trained(), location, self._progress())
            save_pipeline_folder(self.output_dir, self.trained(), card)
        self.accelerator.wait_for_everyone()

    def _progress(self) -> dict[str, str]:
        device = self.accelerator.device
        kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        return {
            "updates": f"{self.step} ({self.images_seen} images, {self.images_seen / len(self.images):.1f} epochs)",
            "time": f"{self.seconds / 60:.0f} minutes on {self.accelerator.num_processes} x {kind}",
        }

    def finish(self) -> None:
        """Last checkpoint, samples and pipeline; publishes it with ``--push_to_hub``."""
        if self.step % self.args.checkpointing_steps != 0:
            self.save_checkpoint()
        self.save_samples()
        self.save_pipeline()
        if self.args.push_to_hub and self.accelerator.is_main_process:
            push_pipeline_folder(
                self.output_dir, self.args.hub_model_id, self.args.hub_private_repo, self.args.hub_token
            )
        self.accelerator.end_training()
        self.checkpoints.close()

    # ------------------------------------------------------------------ checkpoints

    def save_checkpoint(self) -> None:
        """Saves the state of every process into ``checkpoint-<step>``."""
        state = {"images_seen": self.images_seen, "seconds": self.seconds, "losses": self.losses}
        self.checkpoints.save(self.step, state, {"loss_sum": self.loss_sum})

    def _resume(self) -> None:
        args = self.args
        state = self.checkpoints.start(
            args.resume_from_checkpoint, args.overwrite_output_dir, args.allow_changed_settings
        )
        if state is None:
            if args.resume_from_checkpoint is not None:
                self.accelerator.print(f"no checkpoint in {self.output_dir}: starting from the beginning")
            return
        self.step, self.images_seen, self.seconds = state["step"], state["images_seen"], state["seconds"]
        if state["process_state"]:
            self.loss_sum = state["process_state"]["loss_sum"].to(self.accelerator.device)
            self.losses = state["losses"]
        self.accelerator.print(f"resumed at step {self.step}")
