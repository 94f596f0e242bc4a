r"""Measurements while a network trains: held-out loss per band of noise levels, KID of few images, the best weights so far.

Nothing here depends on a trainer: networks come in as functions of state and time, sampling as a function of a number of
images.

What it costs, in network calls: `HeldOutLoss` one per image and band (256 images, 4 bands: as much as 4 training batches of
256, without backward passes); `FewImageKID` `num_images` times the sampler's steps, so 200 images at 20 steps are 4000.
"""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...schedulers.checks import check_integer, check_number
from ...schedulers.parameterization import Parameterization
from ...schedulers.sde import SDE
from ..data import to_data_range
from ..durable_files import read_object, replace_folder, restore_folder, staged_folder, write_json
from ..losses import denoising_loss
from ..objectives import Weighting, score_matching
from ..seeding import combined_seed
from .estimate import Estimate
from .features import FeatureExtractor, extract
from .kid import kernel_distance


class HeldOutLoss:
    """The training loss on held-out images, with the same noise and the same times at every call.

    Two calls then differ by what the network has learned and by nothing else. The bands are equally wide in the logarithm
    of the signal-to-noise ratio between `smallest_time` and T; band 0 has the least noise. Within a band the times of the
    images are spread evenly.

    Args:
        images: uint8, shape (N, C, H, W).
        data_range: the values of black and white in the network's range.
        sde: of the scheduler, and its `smallest_time`.
        bands: number of bands; every image is evaluated once in each.
        batch_size: images per network call.
        seed: of the noise.
        labels: classes (N,) of the images for a class-conditional network, or None.
        parameterization: what the network's output means; default: the score.
        weighting: `(sde, t) -> lambda`, see `training.objectives`; the default, sigma^2, is the squared error of the noise.

    Raises:
        ValueError: no images, or no band.
    """

    def __init__(
        self,
        images: Tensor,
        data_range: tuple[float, float],
        sde: SDE,
        smallest_time: float,
        *,
        bands: int = 4,
        batch_size: int = 64,
        seed: int = 0,
        labels: Tensor | None = None,
        parameterization: Parameterization | None = None,
        weighting: Weighting = score_matching,
    ) -> None:
        check_integer("number of images", len(images))
        check_integer("bands", bands)
        self.images, self.data_range, self.sde = images, data_range, sde
        self.bands, self.batch_size, self.seed = bands, batch_size, seed
        self.labels, self.weighting = labels, weighting
        self.parameterization = parameterization or Parameterization("score")
        ends = torch.tensor([smallest_time, sde.T], dtype=torch.float64)
        first, last = sde.log_snr(ends).tolist()
        self.edges = torch.linspace(first, last, bands + 1, dtype=torch.float64)

    def times(self, band: int) -> Tensor:
        """The times of all images in a band, (N,)."""
        count = len(self.images)
        # A fixed permutation: neighbours in the data set, often of one class, then differ in their times.
        order = torch.randperm(count, generator=torch.Generator().manual_seed(combined_seed(self.seed, band, 0)))
        place = (order + 0.5) / count
        low, high = self.edges[band], self.edges[band + 1]
        return self.sde.t_from_log_snr(low + (high - low) * place)

    @torch.no_grad()
    def __call__(self, output_fn: Callable[..., Tensor], device: torch.device | str = "cpu") -> dict[str, float]:
        """ "loss", the mean over all bands, and "loss_band_0", ...

        Args:
            output_fn: `(x, t) -> output`, or `(x, t, labels)` where there are labels: the network in evaluation mode,
                which takes the SDE's time. With the default parameterization, `scheduler.score_fn(network)`.
        """
        means = [self._band_loss(output_fn, band, device) for band in range(self.bands)]
        return {"loss": sum(means) / self.bands, **{f"loss_band_{band}": mean for band, mean in enumerate(means)}}

    def _band_loss(self, output_fn: Callable[..., Tensor], band: int, device: torch.device | str) -> float:
        times, total = self.times(band), 0.0
        for start in range(0, len(self.images), self.batch_size):
            images = self.images[start : start + self.batch_size]
            generators = [
                torch.Generator().manual_seed(combined_seed(self.seed, band, 1, start + k)) for k in range(len(images))
            ]
            noise = torch.stack([torch.randn(images.shape[1:], generator=generator) for generator in generators])
            x0, t = to_data_range(images.to(device), self.data_range), times[start : start + len(images)]
            labels = None if self.labels is None else self.labels[start : start + len(images)].to(device)
            losses = denoising_loss(
                output_fn if labels is None else partial(_labelled, output_fn, labels),
                self.parameterization,
                self.sde,
                x0,
                t.float(),
                noise.to(device),
                weighting=self.weighting,
            )
            total += float(losses.cpu().double().sum())
        return total / len(self.images)


def _labelled(output_fn: Callable[..., Tensor], labels: Tensor, x: Tensor, t: Tensor) -> Tensor:
    return output_fn(x, t, labels)


class FewImageKID:
    """KID of few generated images, from the same noise at every call.

    Args:
        extractor: of the features; a shipped classifier takes a millisecond per image on a CPU.
        real: features (M, D) of real images, see `real_features`.
        num_images: how many are generated.
    """

    def __init__(self, extractor: FeatureExtractor, real: Tensor, num_images: int = 200) -> None:
        check_integer("num_images", num_images, 3)
        self.extractor, self.real, self.num_images = extractor, real, num_images

    def __call__(self, generate: Callable[[int], Tensor], batch_size: int = 64) -> Estimate:
        """KID of `generate(num_images)`, uint8 (num_images, C, H, W)."""
        images = generate(self.num_images)
        features = torch.cat([extract(self.extractor, batch) for batch in images.split(batch_size)])
        return kernel_distance(features, self.real)


class BestWeights:
    """Keeps a copy of what was saved at the best value of a metric; goes on after a resume.

    Args:
        folder: where the copy lies; `best.json` in it holds the metric, the value and the step.
        metric: its name; values of another metric are not compared.
        higher_is_better: for scores; distances and losses are better when they are lower.

    Attributes:
        state: metric, value and step of the best so far, as JSON values; None before the first.
    """

    STATE_FILE = "best.json"

    def __init__(self, folder: str | Path, metric: str, higher_is_better: bool = False) -> None:
        self.folder, self.metric, self.sign = Path(folder), metric, -1.0 if higher_is_better else 1.0
        restore_folder(self.folder)  # a run may have been killed in `update`
        path = self.folder / self.STATE_FILE
        self.state: dict[str, Any] | None = None
        self.resume(read_object(path) if path.is_file() else None, str(path))

    @property
    def value(self) -> float | None:
        """The best value so far; None before the first."""
        return None if self.state is None else float(self.state["value"])

    def resume(self, state: Any, source: str = "the checkpoint") -> None:
        """Goes on with the `state` of a checkpoint; from nothing where its metric is another, or the copy is lost.

        Raises:
            TypeError, ValueError: `state` is none; names the `source`.
        """
        if state is not None:
            if not isinstance(state, dict) or not isinstance(state.get("metric"), str):
                raise ValueError(f"the best value of {source} must have a metric, a value and a step, got {state!r}")
            check_number(f"the best value of {source}", state.get("value"))
            check_integer(f"the step of the best value of {source}", state.get("step"), 0)
        known = state is not None and state["metric"] == self.metric and self.folder.is_dir()
        self.state = state if known else None

    def update(self, value: float, step: int, save: Callable[[Path], None]) -> bool:
        """Calls `save(folder)` and keeps what it writes if `value` is better than all before; says whether it was.

        The older copy is replaced once the new one is complete. A value that is not finite is never the best.
        """
        best = self.value
        if not math.isfinite(value) or (best is not None and self.sign * value >= self.sign * best):
            return False
        state = {"metric": self.metric, "value": value, "step": step}
        intact = f"{self.folder} is as it was"
        with staged_folder(
            self.folder.with_name(f".incomplete-{self.folder.name}"), "the best weights", intact
        ) as new:
            save(new)
            write_json(new / self.STATE_FILE, state)
            replace_folder(new, self.folder)
        self.state = state
        return True
