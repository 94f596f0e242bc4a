"""A trained network in a benchmark: its images from stated seeds, and their KID against real images."""

import torch
from torch import Tensor

from scoresde_pipelines import ScoreSdePipeline, sampling_loop, shipped
from scoresde_pipelines.evaluation import shipped_classifiers
from scoresde_pipelines.schedulers import SDEScheduler
from scoresde_pipelines.training.evaluation import load_features, open_real
from scoresde_pipelines.training.evaluation.kid import kernel_distance


BATCH = 64


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
