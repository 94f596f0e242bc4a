"""Whether a stock loop leaves out what a scheduler needs: noise of the prior's standard deviation, scaled inputs.

The noise is looked at for a standard deviation above `LEAST_SIGMA` alone, so that VP and sub-VP runs do not wait for the
device.
"""

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
    wrong.
    """
    found = _root_mean_square(x, sigma)
    if found is not None and abs(found - 1) < DEVIATIONS / math.sqrt(2 * x.numel()):
        warnings.warn(
            f"sample must have the standard deviation {sigma:g} at the first step, got unit noise: multiply it by "
            "init_noise_sigma, or for a pipeline that does not (DDPMPipeline, DDIMPipeline) make the scheduler with "
            "prologue=True",
            stacklevel=3,
        )


def warn_of_unscaled_input() -> None:
    """Warns where a preconditioned network, of prediction type "edm", was called without `scale_model_input`."""
    warnings.warn(
        "model_output must be the network's output at scale_model_input(sample, timestep) for prediction_type 'edm', got "
        "one without this call: pipelines that do not scale inputs (DDPMPipeline, DDIMPipeline) make wrong pictures of "
        "preconditioned networks; use ScoreSdePipeline",
        stacklevel=3,
    )


def check_unit_noise(x: Tensor, sigma: float) -> None:
    """Raises ValueError where the state that a prologue would scale to the prior, (B, *D), has that scale already.

    Image-to-image pipelines at strength 1 begin at the prologue with a state of `add_noise`.
    """
    found = _root_mean_square(x, sigma)
    if found is not None and found > math.sqrt(sigma):
        raise ValueError(
            f"sample must be unit noise at the first of timesteps, which prologue=True scales to the prior, got the "
            f"standard deviation {found:.3g}: make the scheduler with prologue=False"
        )


def _root_mean_square(x: Tensor, sigma: float) -> float | None:
    """Of all values; None where they are too few to tell, or cannot be read."""
    if sigma < LEAST_SIGMA or x.numel() < FEWEST_VALUES or x.is_meta or torch.compiler.is_compiling():
        return None
    try:
        return float(x.detach().float().square().mean().sqrt())
    except RuntimeError:  # in `torch.func.vmap` no value can be read
        return None
