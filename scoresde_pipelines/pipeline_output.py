"""What the pipelines return."""

from dataclasses import dataclass

import numpy as np
import torch
from diffusers.utils import BaseOutput
from PIL import Image


@dataclass
class ScoreSdePipelineOutput(BaseOutput):
    """Output of the generating pipelines.

    Args:
        images: a list of B PIL images; or, by `output_type`, an array (B, height, width, channels) or a tensor
            (B, channels, height, width) with values in [0, 1], or the raw state in the data range ("latent").
        nfe: number of network evaluations that each image took; with `ode_tolerance`, which adapts them to the image,
            a tensor (B,).
    """

    images: list[Image.Image] | np.ndarray | torch.Tensor
    nfe: int | torch.Tensor


@dataclass
class ScoreSdeLikelihoodOutput(BaseOutput):
    """Output of `ScoreSdeLikelihoodPipeline`. Everything is per image, (B,) on the CPU, but `latents`.

    Args:
        bits_per_dim: -log2 P / D, float64.
        standard_error: of `bits_per_dim`, from the three parts below as far as they are known.
        latents: codes of the (first) dequantized images, (B, *D), in units of the prior's standard deviation.
        nfe: network evaluations that each image took, those under a vector-Jacobian product included.
        probe_error: standard error from the random probes; zero for the exact divergence, NaN where a single probe is
            shared along the path, which gives no estimate.
        dequantization_error: standard error from the dequantization noise; with a single draw an upper bound.
        solver_error: estimated error of the ODE solver.
    """

    bits_per_dim: torch.Tensor
    standard_error: torch.Tensor
    latents: torch.Tensor
    nfe: torch.Tensor
    probe_error: torch.Tensor
    dequantization_error: torch.Tensor
    solver_error: torch.Tensor
