"""The training run of a score-based generative model: denoising under an objective, with sample grids and pipelines."""

import argparse
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..models.config_checks import height_and_width
from ..schedulers import SDEScheduler
from ..schedulers.transfers import to_device
from .arguments import measures_nothing
from .augmentation import UNIFORMS, augment
from .batches import Batch
from .class_embedding import list_names, null_label
from .components import (
    DEFAULT_RESOLUTION,
    build_components,
    build_objective,
    with_data_statistics,
)
from .data import ImageFormat, ImageStore, to_data_range
from .data_report import data_report
from .durable_files import save_picture
from .held_out import held_out_indices, images_needed
from .image_table import find_label_column, labels_by_name, read_labels
from .losses import denoising_loss
from .model_card import model_card
from .objectives import Objective
from .pipeline_folder import Components, push_pipeline_folder, save_pipeline_folder
from .processes import on_main
from .random_state import kept_random_state
from .run_data import make_image_stream, open_table
from .run_evaluation import RunEvaluation
from .sampling import grid_labels, image_grid, network_output, sample
from .stream_labels import StreamLabels
from .tracking import end_logs, log, log_images
from .trainer_core import TrainerCore


NOISE_BANDS = 5


class Trainer(TrainerCore):
    """One training run.

    Args:
        args: see `arguments.parse_args`.
        objective: instead of what the arguments say.
        scheduler: of a new network, instead of what the arguments say: its SDE, prediction type and sampler.

    Attributes:
        components: network, scheduler, data range and class names.
        objective: what is minimised.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        *,
        objective: Objective | None = None,
        scheduler: SDEScheduler | None = None,
    ) -> None:
        self._given = objective, scheduler
        if objective is not None:
            args.objective = objective.name
        if scheduler is not None:
            args.sde = f"{type(scheduler).__module__}:{type(scheduler).__qualname__}"
        super().__init__(args)

    # ------------------------------------------------------------------ what is trained

    def build(self) -> Any:
        args, (objective, scheduler) = self.args, self._given
        table = open_table(args, args.split)
        report = data_report(table, args.image_column, args.label_column)
        report.of_stream = args.streaming
        self.accelerator.print(report)
        names = self._read_classes(table) if args.class_conditional else None
        self.components = build_components(args, report.channels or 3, scheduler, names, self.accelerator.print)
        unet = self.components.unet
        size = height_and_width(args.resolution or unet.config.get("sample_size") or DEFAULT_RESOLUTION)
        image_format = ImageFormat(size, unet.config.in_channels, args.image_fit, args.pad_value)
        self.images = ImageStore(table, image_format, args.image_column, args.max_cached_gb, args.skip_broken_images)
        if args.streaming:
            self._open_stream(table)
        elif self.labels is not None:
            if self.components.class_names != names:
                self.labels = labels_by_name(table, args.label_column, self.components.class_names or [])
                assert self.labels is not None  # the column was found before
            self.labels = self.labels[torch.as_tensor(self.images.kept)]
        validation = self._hold_out(image_format)
        if args.pretrained_model_name_or_path is None:
            self.components.scheduler = with_data_statistics(self.components.scheduler, self.images, args)
            config = self.components.scheduler.config
            if config.prediction_type == "edm":
                self.accelerator.print(f"data: mean {config.data_mean:g}, standard deviation {config.sigma_data:g}")
        self.objective = objective or build_objective(args, self.components.scheduler)
        self._make_noise_bands()
        self.evaluation: RunEvaluation | None = None
        if self.accelerator.is_main_process and not measures_nothing(args):
            device = self.accelerator.device
            with kept_random_state(device):
                training = (self.images, self.labels)
                self.evaluation = RunEvaluation(args, self.components, training, validation, device)
        return unet

    def _open_stream(self, table: Any) -> None:
        """Sets `stream`, and `labels` of the first images; the labels are indices into the names of the network."""
        args, names = self.args, self.components.class_names
        labels = StreamLabels(table, args.label_column, args.class_names) if args.class_conditional else None
        self.stream = make_image_stream(args, table, self.images, labels)
        if labels is not None:
            labels.follow(names or [])
            of_first = labels.of_table(table)
            assert of_first is not None  # the column was found before
            self.labels = of_first[torch.as_tensor(self.images.kept)]

    def _hold_out(self, image_format: ImageFormat) -> tuple[ImageStore, Tensor | None] | None:
        """Images and labels that are not trained on; takes a share of the training images where that is asked for."""
        args = self.args
        if args.validation_split is not None:
            table = open_table(args, args.validation_split, first=images_needed(args))
            names = self.components.class_names if args.class_conditional else None
            if self.stream is not None and self.stream.labels is not None:
                labels = self.stream.labels.of_table(table)
            else:
                labels = None if names is None else labels_by_name(table, args.label_column, names)
            store = ImageStore(table, image_format, args.image_column, args.max_cached_gb, args.skip_broken_images)
            return store, None if labels is None else labels[torch.as_tensor(store.kept)]
        if args.validation_fraction is None:
            return None
        images, labels = self.images, self.labels
        kept, held_out = held_out_indices(len(images), args.validation_fraction, args.seed)
        self.images, self.labels = images.select(kept), None if labels is None else labels[torch.as_tensor(kept)]
        return images.select(held_out), None if labels is None else labels[torch.as_tensor(held_out)]

    def _read_classes(self, table: Any) -> list[str]:
        """Sets `labels`, except of a stream, and returns the names of the classes."""
        if self.args.streaming:
            return StreamLabels(table, self.args.label_column, self.args.class_names).names
        column = find_label_column(table, self.args.label_column)
        if column is None:
            raise ValueError(f"class_conditional needs a column of labels or folders, got {table.column_names}")
        self.labels, own = read_labels(table, column)
        names = own or [str(k) for k in range(int(self.labels.max()) + 1)]
        if absent := sorted({*range(len(names))} - {*self.labels.tolist()}):
            listed = list_names([names[k] for k in absent])
            self.accelerator.print(f"classes without an image, which are not trained: {listed}")
        return names

    def _make_noise_bands(self) -> None:
        """Five bands of equal width in log-SNR between the least and the most noise that is trained."""
        sde = self.components.scheduler.sde
        ends = self.objective.times(sde, torch.tensor([0.0, 1 - 1e-12], dtype=torch.float64))
        low, high = sorted(sde.log_snr(ends).clamp(-20, 20).tolist())
        edges = torch.linspace(low, high, NOISE_BANDS + 1, dtype=torch.float64)
        self.band_edges = edges[1:-1].contiguous()
        bands = [f"loss_log_snr_{a:+.1f}_to_{b:+.1f}" for a, b in pairwise(edges.tolist())]
        self.metric_names = ("loss", *bands)

    # ------------------------------------------------------------------ what is minimised

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The objective on one batch, as a mean and by noise band; noise and targets in float32."""
        scheduler, device = self.components.scheduler, batch.images.device
        x0 = to_data_range(batch.images, self.components.data_range)
        augment_labels = None
        if self.args.augment_prob:
            x0, augment_labels = augment(x0, batch.draws.augmentation(UNIFORMS), self.args.augment_prob)
        noise = batch.draws.noise(x0.shape[1:], device)
        t = self.objective.times(scheduler.sde, batch.u)
        losses = denoising_loss(
            network_output(scheduler, self.model, self._class_labels(batch), augment_labels),
            scheduler.parameterization,
            scheduler.sde,
            x0,
            t.float(),
            noise,
            weighting=self.objective.weighting,
            reduce_mean=not self.args.sum_loss,
        )
        return losses.mean(), self._sums(losses.detach(), t)

    def _class_labels(self, batch: Batch) -> Tensor | None:
        """Labels of which a share `--label_dropout` is "no class"."""
        unet = self.components.unet
        if batch.labels is None:  # a network that has classes is trained with "no class"
            count = len(batch.images)
            has_classes = self.components.class_names is not None
            return torch.full((count,), null_label(unet), device=batch.images.device) if has_classes else None
        dropped = to_device(batch.draws.label < self.args.label_dropout, batch.labels.device)
        return batch.labels.masked_fill(dropped, null_label(unet))

    def _sums(self, losses: Tensor, t: Tensor) -> Tensor:
        """Sum and count of the losses in all and in each noise band, shape (1 + NOISE_BANDS, 2)."""
        band = torch.bucketize(self.components.scheduler.sde.log_snr(t), self.band_edges.to(t.device)) + 1
        pairs = torch.stack([losses, torch.ones_like(losses)], dim=1)
        sums = pairs.new_zeros(1 + NOISE_BANDS, 2).index_add_(0, to_device(band, pairs.device), pairs)
        sums[0] = pairs.sum(dim=0)
        return sums

    # ------------------------------------------------------------------ what is measured

    def measure(self) -> None:
        """The held-out loss, the KID and the best weights of `RunEvaluation`, every `--eval_steps` and at the end."""
        if measures_nothing(self.args):
            return
        every = self.args.eval_steps or self.args.checkpointing_steps
        if self.step % every == 0 or self.step == self.max_steps:
            trained = self.trained()
            on_main(self.accelerator, lambda: self._measure(trained))

    def _measure(self, trained: Components) -> None:
        assert self.evaluation is not None
        with kept_random_state(self.accelerator.device), self.accelerator.autocast():
            found = self.evaluation.measure(trained, self.step, self._card(trained))
        log(self.accelerator, found, step=self.step)

    def extra_state(self) -> dict[str, Any]:
        """The best value so far."""
        return {} if self.evaluation is None else {"best": self.evaluation.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on with the best value of the checkpoint."""
        if self.evaluation is not None:
            self.evaluation.resume(self.step, state.get("best"))

    # ------------------------------------------------------------------ what is saved

    def between_updates(self) -> None:
        args = self.args
        if self.stream is None:
            model_steps = args.save_model_epochs * self.updates_per_epoch
            sample_steps = args.sample_steps or args.save_images_epochs * self.updates_per_epoch
        else:  # the length of an epoch is not known
            model_steps, sample_steps = args.checkpointing_steps, args.sample_steps or self.max_steps + 1
        if self.step % model_steps == 0:
            self.save_pipeline()
        if self.step % sample_steps == 0:
            self.save_samples()

    def trained(self) -> Components:
        """The components with the averaged weights: what is saved and sampled. To be called on every process."""
        return replace(self.components, unet=self.averaged())

    def save_samples(self) -> None:
        """Writes `samples/<step>.png` and sends the images to the tracker; the main process alone works.

        A class-conditional network fills one row per class.
        """
        if not self.args.eval_batch_size:
            return
        trained = self.trained()
        if self.accelerator.is_main_process:
            labels, columns = grid_labels(self.components, self.args.eval_batch_size)
            count = self.args.eval_batch_size if labels is None else len(labels)
            self.accelerator.print(f"samples: {count} images in {self.args.num_inference_steps} steps")
            with self.accelerator.autocast():
                images = sample(
                    trained,
                    (count, *self.images.format.shape),
                    num_inference_steps=self.args.num_inference_steps,
                    seed=self.args.seed,
                    device=self.accelerator.device,
                    class_labels=labels,
                )
            path = self.output_dir / "samples" / f"{self.step:08d}.png"
            save_picture(path, image_grid(images, columns))
            log_images(self.accelerator, images, self.step)
        self.accelerator.wait_for_everyone()

    def save_pipeline(self) -> None:
        """Writes the pipeline folder into `output_dir`."""
        trained = self.trained()
        if self.accelerator.is_main_process:
            save_pipeline_folder(self.output_dir, trained, self._card(trained))
        self.accelerator.wait_for_everyone()

    def _card(self, trained: Components) -> str:
        location = self.args.hub_model_id or self.output_dir.name
        return model_card(self.args, trained, location, self._progress())

    def _progress(self) -> dict[str, str]:
        device, precision = self.accelerator.device, self.accelerator.mixed_precision
        kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        epochs = f"{self.images_seen / len(self.images):.1f} epochs" if self.stream is None else "streamed"
        return {
            "objective": self.objective.name,
            "updates": f"{self.step} ({self.images_seen} images, {epochs})",
            "time": f"{self.seconds / 60:.0f} minutes on {self.accelerator.num_processes} x {kind}",
            "precision": "float32" if precision == "no" else f"{precision} autocast, float32 noise",
        }

    def finish(self) -> None:
        """Last checkpoint, samples and pipeline; publishes it with `--push_to_hub`."""
        self.save_last_state()
        self.save_samples()
        self.save_pipeline()
        if self.args.push_to_hub and self.accelerator.is_main_process:
            push_pipeline_folder(
                self.output_dir, self.args.hub_model_id, self.args.hub_private_repo, self.args.hub_token
            )
        end_logs(self.accelerator)
        self.checkpoints.close()
        self.accelerator.print(f"written to {self.output_dir}")
