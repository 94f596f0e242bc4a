"""The training run of a noise-conditional classifier: cross-entropy of p(class | x_t) over the times of an SDE."""

import json
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models import NoiseConditionalClassifier
from ..schedulers.sde import expand_to
from .batches import Batch
from .data import ImageFormat, ImageStore, to_data_range
from .durable_files import replace_files, staged_folder, write_json
from .image_table import find_label_column, read_labels
from .pipeline_folder import SCHEDULERS
from .run_data import make_image_stream, open_table
from .safe_state import check_finite_state
from .stream_labels import StreamLabels
from .time_sampling import LogNormalTimes, UniformTimes
from .tracking import end_logs
from .trainer_core import TrainerCore


VALIDATION_IMAGES = 4096  # of a split that is streamed
VALIDATION_TIMES = (0.001, 0.1, 0.3, 0.5, 0.7, 0.9)


class ClassifierTrainer(TrainerCore):
    """One training run.

    Args:
        args: see `classifier_arguments.parse_classifier_args`.
    """

    metric_names = ("loss", "accuracy")

    def build(self) -> Any:
        args = self.args
        options: dict[str, dict[str, Any]] = {
            "ve": {"sigma_min": args.sigma_min, "sigma_max": args.sigma_max},
            "vp": {"continuous": True},
        }
        scheduler = SCHEDULERS[args.sde](**options.get(args.sde, {}))
        self.sde, self.data_range = scheduler.sde, scheduler.data_range
        log_normal = LogNormalTimes(args.P_mean, args.P_std, args.training_eps)
        self.times = log_normal if args.time_density == "log_normal" else UniformTimes(args.training_eps)
        table = open_table(args, args.split)
        self.images, self.labels = self.read_table(table)
        num_classes = int(self.labels.max()) + 1
        if args.streaming:
            labels = StreamLabels(table, args.label_column, args.class_names)
            self.stream, num_classes = make_image_stream(args, table, self.images, labels), len(labels.names)
        return NoiseConditionalClassifier(
            in_channels=args.channels,
            num_classes=num_classes,
            depth=args.depth,
            width=args.width,
            dropout=args.dropout,
            sample_size=args.resolution,
            data_min=self.data_range[0],
            data_max=self.data_range[1],
        )

    def read_table(self, table: Any) -> tuple[ImageStore, Tensor]:
        """Images and labels (int64, shape (N,)) of a split, or of the first rows of a stream.

        Raises:
            ValueError: there is no label column, or a label is negative or no integer.
        """
        args = self.args
        column = find_label_column(table, args.label_column)
        if column is None:
            raise ValueError(f"a classifier needs a column of labels or folders, got {table.column_names}")
        image_format = ImageFormat(args.resolution, args.channels, args.image_fit, args.pad_value)
        images = ImageStore(table, image_format, args.image_column, args.max_cached_gb, args.skip_broken_images)
        if args.streaming:
            labels = StreamLabels(table, args.label_column, args.class_names).of_table(table)
            assert labels is not None  # the column was found
        else:
            labels = read_labels(table, column)[0]
        return images, labels[torch.as_tensor(images.kept)]

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Cross-entropy and accuracy of one batch."""
        assert batch.labels is not None
        t = self.times(self.sde, batch.u).to(batch.images.device, torch.float32)
        noise = batch.draws.noise(batch.images.shape[1:], batch.images.device)
        logits = self.noisy_logits(self.model, batch.images, t, noise)
        loss = F.cross_entropy(logits, batch.labels)
        count = len(logits)
        correct = (logits.argmax(1) == batch.labels).sum()
        sums = torch.stack([loss.detach() * count, correct.to(loss.dtype)])
        return loss, torch.stack([sums, torch.full_like(sums, count)], dim=1)

    def noisy_logits(self, model: Any, images: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Class scores (B, num_classes) in float32 of uint8 images (B, C, H, W), noised to the times `t` (B,)."""
        x0 = to_data_range(images, self.data_range)
        # The VE form x / alpha, one for every SDE; the noise-to-signal ratio says which.
        ratio = self.sde.noise_ratio(t)
        return model(x0 + expand_to(ratio, x0) * noise, ratio).logits.float()

    # ------------------------------------------------------------------ the end

    def finish(self) -> dict[str, float]:
        """Last checkpoint, accuracy by noise level, and the classifier itself, in `output_dir`."""
        self.save_last_state()
        classifier, report = self.averaged(), {}
        if self.accelerator.is_main_process:
            if self.args.validation_split is not None:
                report = self.validate(classifier)
                write_json(self.output_dir / "accuracy.json", report)
                self.accelerator.print(json.dumps(report))
            check_finite_state(classifier.state_dict(), "classifier")
            intact = "the last checkpoint is intact"
            with staged_folder(self.output_dir / ".incomplete-classifier", "the classifier", intact) as staging:
                classifier.save_pretrained(staging)
                replace_files(staging, self.output_dir)
        self.accelerator.wait_for_everyone()
        end_logs(self.accelerator)
        self.checkpoints.close()
        return report

    @torch.no_grad()
    def validate(self, classifier: Any) -> dict[str, float]:
        """Accuracy on the validation split at some times, by the noise-to-signal ratio."""
        table = open_table(self.args, self.args.validation_split, first=VALIDATION_IMAGES)
        (images, labels), device = self.read_table(table), self.accelerator.device
        report = {}
        for time in VALIDATION_TIMES:
            generator, correct = torch.Generator(device).manual_seed(self.args.seed), 0
            for indices in torch.arange(len(labels)).split(256):
                batch = images[indices.tolist()].to(device)
                t = torch.full((len(indices),), time * self.sde.T, device=device)
                noise = torch.randn(batch.shape, generator=generator, device=device)
                logits = self.noisy_logits(classifier, batch, t, noise)
                correct += int((logits.argmax(1).cpu() == labels[indices]).sum())
            ratio = float(self.sde.noise_ratio(t[0]))
            report[f"accuracy at sigma/alpha = {ratio:.3g}"] = round(correct / len(labels), 4)
        return report
