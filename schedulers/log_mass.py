"""The log-probability of an image from several draws of dequantization noise, with its standard error."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class LogMass:
    """log P of images in nats with its errors, all (B,).

    Args:
        value: the estimate.
        probe_error: standard error from the trace estimator's probes.
        dequantization_error: standard error from the K draws; zero without noise, NaN where it is unknown.
        solver_error: estimated error of the ODE solver.
    """

    value: Tensor
    probe_error: Tensor
    dequantization_error: Tensor
    solver_error: Tensor

    @property
    def standard_error(self) -> Tensor:
        """The known parts, combined."""
        parts = (self.probe_error, self.dequantization_error, self.solver_error)
        return torch.stack([part.nan_to_num(0.0) ** 2 for part in parts]).sum(0).sqrt()


# Prior weight, in degrees of freedom, of the one-draw estimate.
SINGLE_DRAW_FREEDOM = 4


def combine(
    log_weights: Tensor,
    probe_errors: Tensor,
    solver_errors: Tensor,
    *,
    noisy: bool,
    importance_weighted: bool,
    single_draw_errors: Tensor | None = None,
) -> LogMass:
    """log P from K draws.

    Args:
        log_weights: log p - log q, (K, B), nats.
        probe_errors, solver_errors: of each log p, (K, B), nats.
        noisy: whether the draws differ by dequantization noise.
        importance_weighted: log of the mean of the weights (tighter) instead of the mean of their logarithms.
        single_draw_errors: `Dequantized.single_draw_error` of each draw, (K, B): with it one draw has an error bar, and few
            draws a reliable one.
    """
    count = len(log_weights)
    value, share = log_weights.mean(0), torch.full_like(log_weights, 1 / count)
    if importance_weighted:
        value, share = torch.logsumexp(log_weights, 0) - math.log(count), torch.softmax(log_weights, 0)
    spread = torch.zeros_like(value)
    if noisy:
        # Delta method: a draw changes the result by share times its log-weight's deviation; probe errors are separate.
        deviations = count * share - 1 if importance_weighted else log_weights - value
        variance = deviations.square().sum(0) / (count - 1) if count > 1 else torch.full_like(value, math.nan)
        variance = (variance - probe_errors.square().mean(0).nan_to_num(0.0)).clamp_min(0)
        if single_draw_errors is not None and (count == 1 or not importance_weighted):
            known, single = count - 1, single_draw_errors.square().mean(0)
            variance = (SINGLE_DRAW_FREEDOM * single + known * variance.nan_to_num(0.0)) / (
                SINGLE_DRAW_FREEDOM + known
            )
        spread = (variance / count).sqrt()
    return LogMass(
        value=value,
        probe_error=(share * probe_errors).square().sum(0).sqrt(),
        dequantization_error=spread,
        solver_error=(share * solver_errors).sum(0),
    )
