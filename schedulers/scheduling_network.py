"""What a scheduler does for a network: its input, its score, and the noisy samples and targets of its training."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .checks import as_real, check_function, check_like, check_number, check_state, check_time, check_timesteps
from .parameterization import Parameterization
from .scheduling_timesteps import TimestepsMixin
from .score_function import ScoreFunction, check_score
from .sde import SMALLEST_TIME, expand_to
from .transfers import to_device


def precise(x: Tensor) -> Tensor:
    """`x` in float32 at least: half precision holds neither VE states (up to sigma_max) nor small steps on them."""
    return x if x.dtype == torch.float64 else x.float()


class NetworkMixin(TimestepsMixin):
    """The part of `SDEScheduler` that training and pipelines use beside its steps."""

    _input_scaled = False  # whether `scale_model_input` was called in this run

    def scale_model_input(self, sample: Tensor, timestep: Tensor | float | None = None) -> Tensor:
        """The network's input for the state `sample` (B, *D) at the current entry of `timesteps`.

        The state itself, but for the prediction type "edm", whose networks get it at unit scale.
        """
        self._input_scaled = True
        if self.parameterization.prediction_type != "edm":
            return sample
        check_state("sample", sample, 1)
        if timestep is None:
            raise ValueError("timestep must be the current entry of scheduler.timesteps, got None")
        index = self._index_of(timestep)
        if self._plan.position(index)[0] < 0:
            return sample
        return self.parameterization.input(self._plan.sde, precise(sample), self.times[index]).to(sample.dtype)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t = alpha x_0 + sigma noise.

        Args:
            original_samples (`torch.Tensor`): clean samples x_0, shape (B, *D).
            noise (`torch.Tensor`): standard normal noise, same shape.
            timesteps (`torch.Tensor`): noise levels in the network's convention, as in `timesteps`, shape (B,), (1,) or ().

        Raises:
            TypeError, ValueError: for `timesteps` that are no real numbers, have another shape or are unknown to the
                network, and for `noise` of another shape.
        """
        check_like("noise", noise, check_state("original_samples", original_samples, 1), "original_samples")
        t = self._time_of(timesteps, original_samples)
        mean, std = self.sde.marginal(original_samples, t)
        return mean + expand_to(std, original_samples) * noise

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The v-prediction target alpha noise - sigma x_0 of clean samples (B, *D) at `timesteps`; errors as `add_noise`."""
        check_like("noise", noise, check_state("sample", sample, 1), "sample")
        t = self._time_of(timesteps, sample)
        return Parameterization("v_prediction").target(self.sde, sample, noise, t)

    def _time_of(self, timesteps: Tensor, samples: Tensor) -> Tensor:
        # float64: index arithmetic and small times stay exact whatever dtype the samples have. On the CPU: Apple GPUs have
        # no float64, and the values are read here anyway.
        values = check_timesteps(timesteps, len(samples)).to("cpu", torch.float64)
        self._check_known("timesteps", values)
        return self.parameterization.t_from_network_time(self.sde, values)

    def score_fn(self, model: Callable[..., Any], **model_kwargs: Any) -> ScoreFunction:
        """The score of a network as a function of the SDE's own time.

        Args:
            model (`torch.nn.Module` or callable): called as `model(input, network_time, **model_kwargs)`; returns a tensor
                or an object with `.sample`. If it has a `dtype`, as diffusers' models do, it gets its input in it.

        Returns:
            A function `(x, t, **more_kwargs) -> score`: `x` of shape (B, *D), `t` in (0, T] of shape (B,) or scalar; the
            score has the shape of `x`, in float32 at least. For a scalar `t` the network's time argument is exactly that
            of a loop over `timesteps`. The network gets a copy of the state, which it may modify.

        Raises:
            ValueError: where the score is differentiated (likelihoods, guidance, inverse problems) and the output of `model`
                has no gradient, as under `torch.no_grad`: its derivative would count as zero.
        """

        check_function("model", model)

        def score(x: Tensor, t: Tensor | float, **more_kwargs: Any) -> Tensor:
            if not isinstance(t, Tensor):  # The values of tensors are not read: that would wait for the device.
                for value in as_real("t", t).flatten().tolist():
                    check_number("t", value, SMALLEST_TIME, self.sde.T)
            state, t = precise(check_state("x", x, 1)), check_time("t", t, x)
            if t.ndim:
                sde, t = self.sde, to_device(t, x.device, state.dtype)
                time = self.parameterization.network_time(sde, t)
            else:
                sde, t = self._plan.sde, t.double()
                exact = state.dtype == torch.float64
                time = self.parameterization.network_time(sde, t) if exact else self._network_time(t)
            scaled = self.parameterization.input(sde, state, t).to(getattr(model, "dtype", x.dtype))
            scaled = scaled.clone() if scaled is state else scaled
            output = model(scaled, to_device(time, x.device), **model_kwargs, **more_kwargs)
            output = check_score(output.sample if hasattr(output, "sample") else output, x, "model")
            # An output that is zero everywhere has the derivative zero.
            if scaled.requires_grad and output.grad_fn is None and torch.is_grad_enabled() and bool(output.any()):
                raise ValueError(
                    "the output of model must be differentiable in its input, got one without a gradient: is it made under "
                    "torch.no_grad, or by NumPy?"
                )
            return self.parameterization.score(sde, output.to(state.dtype), state, t)

        return score
