"""A trained network in a benchmark: its images, their distance to the exact flow, and their KID against real images."""

import math

import torch
from known_truths import Truth
from torch import Tensor

from scoresde_pipelines import ScoreSdePipeline, sampling_loop, shipped
from scoresde_pipelines.evaluation import shipped_classifiers
from scoresde_pipelines.schedulers import SDE, SDEScheduler
from scoresde_pipelines.training.evaluation import load_features, open_real
from scoresde_pipelines.training.evaluation.kid import kernel_distance


BATCH = 64
EXACT_CALLS = 80  # of `exponential_multistep`, for the exact flow


def load(model: str) -> ScoreSdePipeline:
    """A pipeline folder, or a shipped pipeline by its name."""
    return ScoreSdePipeline.from_pretrained(shipped(model) if model in shipped() else model)


def unit_noise(pipe: ScoreSdePipeline, seeds: range) -> tuple[Tensor, list[torch.Generator]]:
    """Noise (B, C, H, W), image k from the generator of the k-th seed, and the generators for what follows."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return torch.stack([torch.randn(pipe.sample_shape, generator=one) for one in generators]), generators


def images(
    pipe: ScoreSdePipeline,
    scheduler: SDEScheduler,
    calls: int,
    noise: Tensor,
    generators: list[torch.Generator] | None = None,
) -> Tensor:
    """Images of a scheduler's sampler from unit noise, (B, C, H, W) in the data's range."""
    parts = []
    for i in range(0, len(noise), BATCH):
        scheduler.set_timesteps(calls)
        some = None if generators is None else generators[i : i + BATCH]
        with pipe.running(), torch.no_grad():
            start = noise[i : i + BATCH] * scheduler.init_noise_sigma
            parts.append(sampling_loop(scheduler, pipe.score_fn(), start, some))
    return torch.cat(parts)


def with_predictor(pipe: ScoreSdePipeline, predictor: str, **settings: float) -> SDEScheduler:
    """The pipeline's scheduler with a predictor on its own grid."""
    options = {"predictor": predictor, "corrector": None, "timestep_spacing": None, **settings}
    return type(pipe.scheduler).from_config(pipe.scheduler.config, **options)


def exact_flow(pipe: ScoreSdePipeline, noise: Tensor) -> Tensor:
    """The images of the probability-flow ODE down to what was trained."""
    return images(pipe, with_predictor(pipe, "exponential_multistep", last_noise_level=0.0), EXACT_CALLS, noise)


def distance(pipe: ScoreSdePipeline, found: Tensor, exact: Tensor) -> float:
    """The geometric mean over the images of their rms distance, in standard deviations of the data."""
    rms = (found - exact).flatten(1).square().mean(1).sqrt() / pipe.scheduler.data_std
    return float(rms.log().mean().exp())


def network_truth(pipe: ScoreSdePipeline, noise: Tensor) -> Truth:
    """A network's score from the starts of `noise` (B, C, H, W), in float64 around the network; it knows no distance."""
    score_fn, sde = pipe.score_fn(), pipe.scheduler.sde
    start = torch.tensor(sde.T, dtype=torch.float64)
    scale = sde.prior_std / math.hypot(float(sde.alpha(start)), float(sde.sigma(start)))

    def score(sde: SDE, x: Tensor, t: Tensor) -> Tensor:
        with pipe.running(), torch.no_grad():
            return score_fn(x.float(), t.float().expand(len(x))).double()

    def marginal(alpha: float, sigma: float) -> Tensor:
        return noise.double() * scale * math.hypot(alpha, sigma)

    return Truth(score, marginal, lambda x, std: x, lambda x: math.nan)


class Judge:
    """KID of EfficientNet-Lite0 features against the real images of the split `test` of `data`."""

    def __init__(self, pipe: ScoreSdePipeline, data: str, count: int):
        self.pipe, self.extract = pipe, load_features(None, shipped_classifiers(), None)
        reference = open_real(data, "test", [pipe.sample_shape], count).reference
        self.real = torch.cat([self.extract(batch.expand(-1, 3, -1, -1)) for batch in reference.batches(BATCH)])

    def features(self, images: Tensor) -> Tensor:
        """The features of images (B, C, H, W) in the data's range."""
        pixels = (self.pipe.to_unit_range(images).clamp(0, 1) * 255).round().to(torch.uint8).expand(-1, 3, -1, -1)
        return torch.cat([self.extract(some) for some in pixels.split(BATCH)])

    def kid(self, features: Tensor) -> tuple[float, float]:
        """KID and its standard error."""
        found = kernel_distance(features, self.real)
        return found.value, found.se
