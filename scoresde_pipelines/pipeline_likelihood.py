"""Bits/dim of images, with error bars, by the probability-flow ODE."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .pipeline_latent_codes import LatentCodePipeline
from .pipeline_output import ScoreSdeLikelihoodOutput
from .schedulers.checks import Generator, check_choice, check_flag, check_generator, check_integer
from .schedulers.dequantization import DEQUANTIZATIONS
from .schedulers.divergence import Divergence
from .schedulers.likelihood import LogLikelihood, log_likelihood, spawn_generators
from .schedulers.log_mass import LogMass, combine
from .schedulers.score_function import ScoreFunction


class ScoreSdeLikelihoodPipeline(LatentCodePipeline):
    """Bits/dim and latent codes of images (paper section 4.3) under any score model of this package or diffusers.

    Images have the network's size: of larger ones it has learned no density, and the bits/dim of a resized image are not
    those of the image.

    Args:
        unet: a network called as `unet(sample, timestep).sample`: `NCSNpp`, `DDPMpp`, any `UNet2DModel`.
        scheduler: a `VESDEScheduler`, `VPSDEScheduler` or `SubVPSDEScheduler`; a stock scheduler is converted by its
            configuration.
        data_min, data_max (`float`, *optional*): the values that black and white had in training.

    Example:

    ```python
    >>> from scoresde_pipelines import ScoreSdeLikelihoodPipeline, ScoreSdePipeline, shipped
    >>> folder = shipped("fashion-mnist-32-vp")
    >>> images = ScoreSdePipeline.from_pretrained(folder)(batch_size=2, num_inference_steps=20).images
    >>> pipe = ScoreSdeLikelihoodPipeline.from_pretrained(folder)
    >>> output = pipe(images, tolerance=1e-3)
    >>> bits, error = output.bits_per_dim, output.standard_error
    ```
    """

    def __call__(
        self,
        images: Any,
        dequantization: str = "uniform",
        num_dequantizations: int = 1,
        importance_weighted: bool = False,
        divergence: str | Divergence = "hutchinson",
        num_probes: int = 1,
        tolerance: float = 1e-5,
        generator: Generator = None,
        class_labels: Any = None,
        sampling_eps: float | None = None,
        levels: int | None = 256,
        official_cells: bool = False,
        return_dict: bool = True,
        eps: float | None = None,
    ) -> ScoreSdeLikelihoodOutput | tuple:
        """Measures images.

        Args:
            images: one image or a batch in the network's size: PIL of any mode, an array (H, W, C) or (B, H, W, C), a
                tensor (C, H, W) or (B, C, H, W), or a list. Integers are pixel values, floats lie in [0, 1] and are rounded
                to the nearest level. With `levels=None`, a tensor (B, *D) of continuous data in the model's own range.
            dequantization (`str`): "uniform" (the paper's), "truncated_normal" or "none"; see `docs/likelihood.md`.
            num_dequantizations (`int`): draws per image; their mean is reported.
            importance_weighted (`bool`): report the tighter bound from the mean of the draws' probabilities.
            divergence: "hutchinson", "hutchinson_shared" (the official estimator), "exact" or a `Divergence`.
            num_probes (`int`): probes per image and quadrature node.
            tolerance (`float`): error per step of the ODE solver.
            generator (`torch.Generator` or a list of them): source of all randomness; with a list of B generators an
                image depends on its own alone.
            class_labels (`torch.Tensor`, *optional*): labels (B,) of a class-conditional network.
            sampling_eps (`float`, *optional*): smallest time; by default 1e-5, or the first index of a network
                trained on a table.
            levels (`int` or `None`): number of pixel values; `None` for continuous data, whose bits/dim are those of
                the density in the model's range.
            official_cells (`bool`): tile the range as the official evaluation does, (255 x + u) / 256.
            return_dict (`bool`): whether to return a `ScoreSdeLikelihoodOutput` or a tuple of its fields.
            eps: the deprecated name of `sampling_eps`.

        Raises:
            ValueError, TypeError: for an argument out of its range, before any work is done.
            ODEError: if the solver fails on an image.
        """
        check_choice("dequantization", dequantization, DEQUANTIZATIONS)
        check_integer("num_dequantizations", num_dequantizations)
        check_integer("num_probes", num_probes)
        for name, value in (("importance_weighted", importance_weighted), ("official_cells", official_cells)):
            check_flag(name, value)
        self.check_flow(tolerance, return_dict=return_dict)
        centres, width = self.centres(images, levels, official_cells)
        check_generator("generator", generator, len(centres))
        draws = self._draws(
            centres,
            width,
            dequantization if levels is not None else "none",
            num_dequantizations,
            spawn_generators(generator, len(centres)),
            self.start_time(sampling_eps, eps),
            self.conditioned_score_fn(class_labels, len(centres)),
            {"divergence": divergence, "num_probes": num_probes, "tolerance": float(tolerance)},
        )
        weights, single_draw_errors, results = zip(*draws)
        mass = combine(
            torch.stack([w.cpu().double() for w in weights]),
            torch.stack([r.probe_error.cpu() for r in results]),
            torch.stack([r.solver_error.cpu() for r in results]),
            noisy=dequantization != "none" and levels is not None,
            importance_weighted=importance_weighted,
            single_draw_errors=torch.stack(single_draw_errors),
        )
        self.maybe_free_model_hooks()
        output = _to_output(mass, results, centres[0].numel(), self.scheduler.sde.prior_std)
        return output if return_dict else output.to_tuple()

    def _draws(
        self,
        centres: Tensor,
        width: float,
        dequantization: str,
        count: int,
        generators: list[torch.Generator],
        start: float,
        score_fn: ScoreFunction,
        options: dict,
    ) -> list[tuple[Tensor, Tensor, LogLikelihood]]:
        # Of each draw: log p - log q and the bound on its spread, both in nats, (B,), and the rest.
        draws = []
        with self.running():
            for _ in range(count):
                noisy = DEQUANTIZATIONS[dequantization](self.scheduler.sde, centres, width, start, generators)
                x = noisy.x.to(self._execution_device, torch.float32)
                result = log_likelihood(
                    score_fn,
                    self.scheduler.sde,
                    x,
                    generator=generators,
                    sampling_eps=noisy.t,
                    data_std=self.data_std,
                    **options,
                )
                score = score_fn(x, torch.full((len(x),), noisy.t, device=x.device, dtype=x.dtype))
                result.nfe += 1
                draws.append((result.log_prob.cpu() - noisy.log_q, noisy.single_draw_error(score), result))
        return draws


def _to_output(
    mass: LogMass, results: Sequence[LogLikelihood], dimensions: int, prior_std: float
) -> ScoreSdeLikelihoodOutput:
    bits = dimensions * math.log(2)
    return ScoreSdeLikelihoodOutput(
        bits_per_dim=-mass.value / bits,
        standard_error=mass.standard_error / bits,
        latents=results[0].latents / prior_std,
        nfe=torch.stack([result.nfe for result in results]).sum(0),
        probe_error=mass.probe_error / bits,
        dequantization_error=mass.dequantization_error / bits,
        solver_error=mass.solver_error / bits,
    )
