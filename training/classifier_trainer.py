"""The training run of a noise-conditional classifier: cross-entropy of p(class | x_t) over the times of an SDE.

Data order, times and noise are functions of (seed, update, process), as in `trainer`: a resumed run continues bit for
bit. What is saved are the averaged weights.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.optimization import get_scheduler
from tqdm.auto import tqdm

from ..models import NoiseConditionalClassifier
from ..schedulers.sde import expand_to
from .checkpoints import CheckpointManager
from .data import ImageFormat, ImageStore, ShuffledBatches, load_images, random_flip, to_data_range
from .ema import ExponentialMovingAverage
from .interruption import Interruption, RunInterrupted
from .pipeline_folder import SCHEDULERS
from .run_settings import data_fingerprint, run_settings
from .safe_state import check_finite_state
from .seeding import combined_seed
from .time_sampling import TimeSampler
from .tracking import make_accelerator


VALIDATION_TIMES = (0.001, 0.1, 0.3, 0.5, 0.7, 0.9)


class LabelledImages:
    """One split: images by index as uint8 (B, C, H, W), and all labels as int64 (N,).

    Raises:
        ValueError: there is no label column, or a label is negative or no integer.
    """

    def __init__(self, args: argparse.Namespace, split: str):
        table = load_images(args.dataset_name, args.dataset_config_name, args.train_data_dir, split, args.cache_dir)
        if args.label_column not in table.column_names:
            raise ValueError(f"--label_column is {args.label_column!r}, but the columns are {table.column_names}")
        image_format = ImageFormat(args.resolution, args.channels, args.image_fit, args.pad_value)
        self.images = ImageStore(table, image_format, args.image_column, args.max_cached_gb)
        self.labels = torch.as_tensor([row for row in table[args.label_column]])  # type: ignore[index]
        if self.labels.is_floating_point() or self.labels.ndim != 1 or int(self.labels.min()) < 0:
            raise ValueError(f"--label_column {args.label_column!r} must hold integers from 0")


class ClassifierTrainer:
    """One training run.

    Args:
        args: see `classifier_arguments.parse_classifier_args`.

    Attributes:
        step: updates done.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.step = args, 0
        self.output_dir = Path(args.output_dir)
        args.gradient_accumulation_steps, args.hub_token = 1, None  # what `make_accelerator` reads besides
        self.accelerator = make_accelerator(args)
        args.mixed_precision = (
            self.accelerator.mixed_precision
        )  # the choice of `accelerate config` where none is given
        torch.manual_seed(args.seed)
        with self.accelerator.local_main_process_first():
            self.data = LabelledImages(args, args.split)
        levels = {"sigma_min": args.sigma_min, "sigma_max": args.sigma_max} if args.sde == "ve" else {}
        scheduler = SCHEDULERS[args.sde](**levels, **({"continuous": True} if args.sde == "vp" else {}))
        self.sde, self.data_range = scheduler.sde, scheduler.data_range
        self.times = TimeSampler(self.sde, eps=args.training_eps)
        self._make_model()
        state = self.checkpoints.start(
            args.resume_from_checkpoint, args.overwrite_output_dir, args.allow_changed_settings
        )
        if state is not None:
            self.step = state["step"]
            if state["process_state"]:
                self.sums = state["process_state"]["sums"].to(self.accelerator.device)
                self.summed = state["summed"]

    def _make_model(self) -> None:
        args = self.args
        self.classifier = NoiseConditionalClassifier(
            in_channels=args.channels,
            num_classes=int(self.data.labels.max()) + 1,
            depth=args.depth,
            width=args.width,
            dropout=args.dropout,
            sample_size=args.resolution,
            data_min=self.data_range[0],
            data_max=self.data_range[1],
        )
        self.classifier.to(self.accelerator.device, memory_format=torch.channels_last).train()
        self.ema = ExponentialMovingAverage(self.classifier, args.ema_max_decay)
        optimizer = torch.optim.AdamW(
            self.classifier.parameters(), lr=args.learning_rate, weight_decay=args.adam_weight_decay
        )
        self.lr_scheduler = get_scheduler(
            args.lr_scheduler,
            optimizer,
            num_warmup_steps=args.lr_warmup_steps,
            num_training_steps=args.max_train_steps,
        )
        self.model, self.optimizer = self.accelerator.prepare(self.classifier, optimizer)
        networks = {"unet": self.classifier}
        self.checkpoints = CheckpointManager(
            self.accelerator,
            self.output_dir,
            networks,
            self.optimizer,
            self.lr_scheduler,
            {"unet": self.ema},
            args.checkpoints_total_limit,
            run_settings(args, networks, data_fingerprint(self.data.images, self.data.labels)),
        )
        # Sums of loss and accuracy since the last log, and their number.
        self.sums, self.summed = torch.zeros(2, device=self.accelerator.device), 0

    # ------------------------------------------------------------------ the loop

    def train(self) -> None:
        """Updates until ``max_train_steps``, with checkpoints and logging in between."""
        args, accelerator = self.args, self.accelerator
        batches = self._batches()
        bar = tqdm(total=args.max_train_steps, initial=self.step, disable=not accelerator.is_local_main_process)
        with Interruption() as interruption:
            while self.step < args.max_train_steps:
                self.sums += self._update(next(batches))
                self.step, self.summed = self.step + 1, self.summed + 1
                bar.update()
                if self.step % args.logging_steps == 0 or self.step == args.max_train_steps:
                    bar.set_postfix(self._log())
                if self.step % args.logging_steps == 0:  # not at the end alone: a longer run may go on from there
                    self.sums, self.summed = torch.zeros_like(self.sums), 0
                if self.step % args.checkpointing_steps == 0:
                    self.save_checkpoint()
                if (signal := interruption.requested(accelerator)) is not None:
                    self.save_checkpoint()
                    accelerator.end_training()
                    raise RunInterrupted(signal)
        bar.close()

    def _log(self) -> dict[str, float]:
        """Logs the mean loss and accuracy of all processes since the last log."""
        loss, correct = (self.accelerator.reduce(self.sums.clone(), "mean") / self.summed).tolist()
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} at step {self.step}; resume from a checkpoint")
        values = {"loss": loss, "accuracy": correct}
        self.accelerator.log(values, step=self.step)
        return values

    def save_checkpoint(self) -> None:
        """Saves the state of every process into ``checkpoint-<step>``."""
        self.checkpoints.save(self.step, {"summed": self.summed}, {"sums": self.sums})

    def _batches(self) -> Iterator[list[int]]:
        args, accelerator = self.args, self.accelerator
        start = self.step * args.train_batch_size * accelerator.num_processes
        return iter(
            ShuffledBatches(
                len(self.data.labels),
                args.train_batch_size,
                args.seed,
                start,
                accelerator.process_index,
                accelerator.num_processes,
            )
        )

    def _update(self, indices: list[int]) -> torch.Tensor:
        """One optimizer step; returns loss and accuracy, shape (2,), not synchronised."""
        args, device = self.args, self.accelerator.device
        position = (args.seed, self.step, self.accelerator.process_index)
        torch.manual_seed(combined_seed(*position, 0))  # dropout
        generator = torch.Generator(device).manual_seed(combined_seed(*position, 1))
        images, labels = self.data.images[indices].to(device), self.data.labels[indices].to(device)
        if args.random_flip:
            images = random_flip(images, generator)
        t, _ = self.times(len(images), generator, device)
        logits = self.noisy_logits(self.model, images, t, generator)
        loss = F.cross_entropy(logits, labels)
        self.accelerator.backward(loss)
        if args.max_grad_norm > 0:
            self.accelerator.clip_grad_norm_(self.model.parameters(), args.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if not self.accelerator.optimizer_step_was_skipped:
            self.lr_scheduler.step()
            self.ema.update(self.accelerator.unwrap_model(self.model))
        return torch.stack([loss.detach(), (logits.argmax(1) == labels).float().mean()])

    def noisy_logits(
        self, model: Any, images: torch.Tensor, t: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Class scores (B, num_classes) in float32 of uint8 images (B, C, H, W), noised to the times `t` (B,)."""
        x0 = to_data_range(images, self.data_range)
        noise = torch.randn(x0.shape, generator=generator, device=x0.device)
        # The VE form x / alpha, one for every SDE; the noise-to-signal ratio says which.
        ratio = self.sde.sigma(t) / self.sde.alpha(t)
        return model(x0 + expand_to(ratio, x0) * noise, ratio).logits.float()

    # ------------------------------------------------------------------ the end

    def finish(self) -> dict[str, float]:
        """Last checkpoint, accuracy by noise level, and the classifier itself, in ``output_dir``."""
        if self.step % self.args.checkpointing_steps:
            self.save_checkpoint()
        report = {}
        if self.accelerator.is_main_process:
            if self.args.validation_split is not None:
                report = self.validate()
                (self.output_dir / "accuracy.json").write_text(json.dumps(report, indent=2) + "\n")
                self.accelerator.print(json.dumps(report))
            check_finite_state(self.ema.model.state_dict(), "classifier")
            self.ema.model.save_pretrained(self.output_dir)
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()
        self.checkpoints.close()
        return report

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Accuracy on the validation split at some times, by the noise-to-signal ratio."""
        data, device = LabelledImages(self.args, self.args.validation_split), self.accelerator.device
        report = {}
        for time in VALIDATION_TIMES:
            generator, correct = torch.Generator(device).manual_seed(self.args.seed), 0
            for indices in torch.arange(len(data.labels)).split(256):
                t = torch.full((len(indices),), time * self.sde.T, device=device)
                logits = self.noisy_logits(self.ema.model, data.images[indices.tolist()].to(device), t, generator)
                correct += int((logits.argmax(1).cpu() == data.labels[indices]).sum())
            ratio = float(self.sde.sigma(t[0]) / self.sde.alpha(t[0]))
            report[f"accuracy at sigma/alpha = {ratio:.3g}"] = round(correct / len(data.labels), 4)
        return report
