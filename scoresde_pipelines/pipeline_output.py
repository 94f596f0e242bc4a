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
