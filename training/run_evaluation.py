"""What `train_unconditional` measures on the way: held-out loss, KID and bits/dim of few images, the best averaged weights.

It draws nothing from the random state of the training and changes no weight: a run with it equals one without it to the
bit. The main process alone measures, the others wait.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..schedulers.probability_flow import ODEError
from .class_embedding import null_label
from .data import ImageStore
from .durable_files import append_text, remove, write_text
from .evaluation.bits_per_dim import FewImageBits
from .evaluation.during_training import BestWeights, FewImageKID, HeldOutLoss
from .evaluation.feature_cache import ImageSelection, real_features
from .evaluation.features import load_features
from .losses import score_matching
from .objectives import EDMWeighting
from .pipeline_folder import Components, save_pipeline_folder
from .sampling import network_output, sample
from .seeding import combined_seed


logger = logging.getLogger(__name__)
FILE = "evaluation.jsonl"
BANDS = 4
REAL_IMAGES = 1000  # at most, unless more are generated


def held_out_indices(count: int, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Which of `count` images are trained on and which are held out, by a permutation that the seed fixes.

    Raises:
        ValueError: one of the two would be empty.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(combined_seed(seed, count))).tolist()
    held_out = round(count * fraction)
    if not 0 < held_out < count:
        raise ValueError(
            f"validation_fraction must leave images to train on and to hold out, got {fraction} of {count} images"
        )
    return sorted(order[held_out:]), sorted(order[:held_out])


def images_needed(args: argparse.Namespace) -> int:
    """How many held-out images the measurements choose from where a split is streamed."""
    held_out = max(args.validation_num_images, args.eval_num_bpd_images or 0)
    return held_out if args.eval_features is None else max(held_out, args.eval_num_images, REAL_IMAGES)


def held_out_loss(
    components: Components, images: Tensor, labels: Tensor | None, batch_size: int, seed: int
) -> HeldOutLoss:
    """The loss that is measured, whatever objective is trained: runs with different objectives can be compared.

    It is the mean square of the error of the noise prediction that the network's output amounts to, and for "edm" of
    the output itself. A network that predicts no noise has the loss 1, for "edm" one whose output is zero has it on data
    of the mean and standard deviation in the scheduler's configuration. The times are those that are sampled, from
    `sampling_eps` to T.
    """
    scheduler = components.scheduler
    edm = scheduler.config.prediction_type == "edm"
    return HeldOutLoss(
        images,
        components.data_range,
        scheduler.sde,
        scheduler.config.sampling_eps,
        bands=BANDS,
        batch_size=batch_size,
        seed=seed,
        labels=labels,
        parameterization=scheduler.parameterization,
        weighting=EDMWeighting(scheduler.config.sigma_data) if edm else score_matching,
    )


class RunEvaluation:
    """The measurements of one run.

    Needs `validation` for the held-out loss and bits/dim, `args.eval_features` for the KID.

    Args:
        args: see `argument_groups.add_evaluation`.
        components: network, scheduler, data range and class names.
        training: the training images and their labels (int64, shape (N,)) or None: the KID's reference without
            `validation`.
        validation: the held-out images and their labels, or None.
        device: where networks run.

    Raises:
        ValueError: the features are unknown, or there are fewer than 3 real images to compare with.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        components: Components,
        training: tuple[ImageStore, Tensor | None],
        validation: tuple[ImageStore, Tensor | None] | None,
        device: torch.device,
    ) -> None:
        self.args, self.device = args, device
        self.path = Path(args.output_dir) / FILE
        self.every = args.eval_steps or args.checkpointing_steps
        self.held_out: HeldOutLoss | None = None
        self.kid: FewImageKID | None = None
        self.bits: FewImageBits | None = None
        if validation is not None:
            self._measure_loss(components, *validation)
            self._measure_bits(validation[0])
        if args.eval_features is not None:
            self._measure_kid(components, *(validation or training))
        self.best = self._make_best(validation) if args.keep_best else None

    # ------------------------------------------------------------------ preparation

    def _measure_loss(self, components: Components, store: ImageStore, labels: Tensor | None) -> None:
        chosen = _chosen(len(store), self.args.validation_num_images, self.args.seed)
        self.held_out = held_out_loss(
            components,
            store[chosen],
            _network_labels(components, labels, chosen),
            self.args.train_batch_size,
            self.args.seed,
        )
        edges = self.held_out.edges.tolist()
        self.loss_names = {"loss": "validation_loss"}
        for band in range(BANDS):
            low, high = sorted(edges[band : band + 2])
            self.loss_names[f"loss_band_{band}"] = f"validation_loss_log_snr_{low:+.1f}_to_{high:+.1f}"

    def _measure_bits(self, store: ImageStore) -> None:
        if (count := self.args.eval_num_bpd_images) is not None:
            chosen = _chosen(len(store), count, self.args.seed)
            rows = [store.kept[index] for index in chosen]
            self.bits = FewImageBits(store[chosen], rows, self.args.train_batch_size, self.args.seed)

    def _measure_kid(self, components: Components, store: ImageStore, labels: Tensor | None) -> None:
        count = self.args.eval_num_images
        chosen = _chosen(len(store), max(count, REAL_IMAGES), self.args.seed)
        if len(chosen) < 3:
            raise ValueError(f"eval_features need at least 3 real images to compare with, got {len(chosen)}")
        extractor = load_features(self.args.eval_features).to(self.device)
        real = real_features(extractor, ImageSelection(store, chosen), progress=False)
        self.kid = FewImageKID(extractor, real, count)
        self.shape = store.format.shape
        # The classes of the real images, repeated where more are generated.
        self.labels = _network_labels(components, labels, [chosen[k % len(chosen)] for k in range(count)])

    def _make_best(self, validation: Any) -> BestWeights:
        # Values under other settings are not compared: the name says what was measured.
        args = self.args
        self.best_metric = args.best_metric or ("validation_loss" if self.kid is None else "kid")
        if self.best_metric == "kid":
            metric = f"KID of {args.eval_num_images} images in {args.num_inference_steps} steps, {args.eval_features}"
        elif self.best_metric == "bits_per_dim":
            metric = f"bits/dim of {min(args.eval_num_bpd_images, len(validation[0]))} images"
        else:
            metric = f"held-out loss of {min(args.validation_num_images, len(validation[0]))} images"
        return BestWeights(Path(args.output_dir) / "best", metric)

    # ------------------------------------------------------------------ a checkpoint's part

    def state(self) -> dict[str, Any] | None:
        """What a checkpoint keeps: metric, value and step of the best weights; None where there are none."""
        return None if self.best is None else self.best.state

    def resume(self, step: int, state: dict[str, Any] | None) -> None:
        """Goes on at `step`: later lines of `evaluation.jsonl` are dropped, the best value is the checkpoint's."""
        if step == 0 and self.best is not None:
            remove(self.best.folder)  # of an earlier run
        if self.best is not None:
            self.best.resume(state)
        if self.path.is_file():
            lines = self.path.read_text("utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
            write_text(self.path, "".join(kept))

    # ------------------------------------------------------------------ measuring

    def measure(self, trained: Components, step: int, card: str) -> dict[str, float]:
        """Measures the averaged weights, writes a line of `evaluation.jsonl`, and keeps the weights if they are the best.

        Args:
            trained: the components with the averaged network, in evaluation mode.
            step: updates so far.
            card: the model card of the folder `best`.
        """
        start, found = time.perf_counter(), {}
        if self.held_out is not None:
            losses = self.held_out(network_function(trained), self.device)
            found = {self.loss_names[name]: loss for name, loss in losses.items()}
        if self.kid is not None:
            estimate = self.kid(lambda count: self._generate(trained, count), self.args.train_batch_size)
            found |= {"kid": estimate.value, "kid_se": estimate.se}
        if self.bits is not None:
            found |= self._bits_per_dim(self.bits, trained, step)
        record = {"step": step, **found, "seconds": round(time.perf_counter() - start, 3)}
        append_text(self.path, json.dumps(record) + "\n")
        if self.best is not None:
            value = found.get(self.best_metric, math.nan)
            self.best.update(value, step, lambda folder: save_pipeline_folder(folder, trained, card))
        return found

    def _bits_per_dim(self, bits: FewImageBits, trained: Components, step: int) -> dict[str, float]:
        try:
            estimate = bits(trained, self.device)
        except ODEError as error:  # of a network that has learned little: no reason to end its training
            logger.warning("no bits/dim at step %d: %s", step, error)
            return {}
        # One image has no standard error, and JSON has no NaN.
        return {"bits_per_dim": estimate.value} | (
            {"bits_per_dim_se": estimate.se} if math.isfinite(estimate.se) else {}
        )

    def _generate(self, trained: Components, count: int) -> Tensor:
        """uint8 images (count, C, H, W), each from a seed of its own, in batches of the training's size."""
        size, parts = self.args.train_batch_size, []
        for start in range(0, count, size):
            labels = None if self.labels is None else self.labels[start : start + size].tolist()
            images = sample(
                trained,
                (min(size, count - start), *self.shape),
                num_inference_steps=self.args.num_inference_steps,
                seed=self.args.seed + start,
                device=self.device,
                class_labels=labels,
            )
            parts.append(images)
        return torch.cat(parts)


def network_function(components: Components) -> Any:
    """The network as a function `(x, t, labels) -> output` of state (B, C, H, W), time (B,) and labels (B,) or None."""

    def output(x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return network_output(components.scheduler, components.unet, labels)(x, t)

    return output


def _chosen(count: int, limit: int, seed: int) -> list[int]:
    """At most `limit` of `count` indices, by a permutation that the seed fixes."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(combined_seed(seed, 1)))[:limit].tolist()


def _network_labels(components: Components, labels: Tensor | None, chosen: list[int]) -> Tensor | None:
    """What the network is told for the images `chosen`: their class, "no class" where it is unknown, or nothing."""
    if components.class_names is None:
        return None
    if labels is None:
        return torch.full((len(chosen),), null_label(components.unet))
    return labels[torch.as_tensor(chosen)]
