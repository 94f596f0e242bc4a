"""What `train_unconditional` measures on the way: held-out loss, KID and bits/dim of few images, the best averaged weights.

It draws nothing from the random state of the training and changes no weight: a run with it equals one without it to the
bit. The main process alone measures, the others wait.
"""

import argparse
import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..schedulers.checks import check_integer
from ..schedulers.probability_flow import ODEError
from .data import ImageStore
from .durable_files import append_text, remove, write_text
from .evaluation.bits_per_dim import FewImageBits
from .evaluation.during_training import BestWeights, FewImageKID, HeldOutLoss
from .evaluation.feature_cache import ImageSelection, real_features
from .evaluation.feature_names import load_features
from .held_out import BANDS, REAL_IMAGES, choose, held_out_loss, network_labels
from .pipeline_folder import Components, save_pipeline_folder
from .sampling import network_output, sample


logger = logging.getLogger(__name__)
FILE = "evaluation.jsonl"


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
        chosen = choose(len(store), self.args.validation_num_images, self.args.seed)
        self.held_out = held_out_loss(
            components,
            store[chosen],
            network_labels(components, labels, chosen),
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
            chosen = choose(len(store), count, self.args.seed)
            rows = [store.kept[index] for index in chosen]
            self.bits = FewImageBits(store[chosen], rows, self.args.train_batch_size, self.args.seed)

    def _measure_kid(self, components: Components, store: ImageStore, labels: Tensor | None) -> None:
        count = self.args.eval_num_images
        chosen = choose(len(store), max(count, REAL_IMAGES), self.args.seed)
        if len(chosen) < 3:
            raise ValueError(f"eval_features need at least 3 real images to compare with, got {len(chosen)}")
        extractor = load_features(self.args.eval_features).to(self.device)
        real = real_features(extractor, ImageSelection(store, chosen), progress=False)
        self.kid = FewImageKID(extractor, real, count)
        self.shape = store.format.shape
        # The classes of the real images, repeated where more are generated.
        self.labels = network_labels(components, labels, [chosen[k % len(chosen)] for k in range(count)])

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
            lines = self.path.read_bytes().splitlines(keepends=True)
            whole = [line for line in lines if line.endswith(b"\n")]  # a run may have been killed in the last one
            kept = [line.decode() for n, line in enumerate(whole, 1) if self._step_of(n, line) <= step]
            write_text(self.path, "".join(kept))

    def _step_of(self, number: int, line: bytes) -> int:
        try:
            return check_integer("step", json.loads(line)["step"], 0)
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise ValueError(f"{self.path} is damaged in line {number} ({error}): remove it to go on") from error

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
