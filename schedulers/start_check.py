"""Whether a sampling run of a scheduler whose prior has a large standard deviation was started from unit noise."""

import math
import warnings

import torch
from torch import Tensor


LEAST_SIGMA = 4.0  # of less the two starts cannot be told apart with the fewest values
FEWEST_VALUES = 64
DEVIATIONS = 5.0  # of the root mean square of unit noise, 1 / sqrt(2 n): passed by chance once in 10^6


def warn_of_unit_noise(x: Tensor, sigma: float) -> None:
    """Warns where the first state of a run, (B, *D), is unit noise and not noise of the standard deviation `sigma`.

    Stock pipelines that do not apply `init_noise_sigma` (DDPMPipeline, DDIMPipeline) start like that, and their pictures are
    wrong. Values are read for `sigma` above `LEAST_SIGMA` alone, so that VP and sub-VP runs do not wait for the device.
    """
    if sigma < LEAST_SIGMA or x.numel() < FEWEST_VALUES or x.is_meta or torch.compiler.is_compiling():
        return
    try:
        found = float(x.detach().float().square().mean().sqrt())
    except RuntimeError:  # in `torch.func.vmap` no value can be read
        return
    if abs(found - 1) < DEVIATIONS / math.sqrt(2 * x.numel()):
        warnings.warn(
            f"sample must have the standard deviation {sigma:g} at the first step, got unit noise: multiply it by "
            "init_noise_sigma, or for a pipeline that does not (DDPMPipeline, DDIMPipeline) make the scheduler with "
            "prologue=True",
            stacklevel=3,
        )
