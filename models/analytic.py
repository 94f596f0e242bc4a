r"""Score models in closed form: Gaussian data and mixtures of Gaussians, under any SDE.

With data p_0 = sum_k w_k N(m_k, C_k) the noisy density is again a mixture,

    p_t = sum_k w_k N(alpha m_k, alpha^2 C_k + sigma^2 I),

so that density, score and denoised image are known exactly: what every sampler, likelihood and posterior in this
package is tested against, and a network that needs no training.
"""

import math
from typing import Any

import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

from ..schedulers import SDE, SDEScheduler
from ..schedulers.checks import (
    check_flag,
    check_generator,
    check_instance,
    check_integer,
    check_number,
    check_state,
    check_time,
)
from .gaussian_parameters import as_double, diagonal_variances, eigenvectors_of


class GaussianMixtureScoreModel(nn.Module):
    """Data from a mixture of K Gaussians over states of shape `*D`, d numbers each.

    Computes in the dtype of the states it is given; the parameters are kept in float64.

    Args:
        weights: (K,) positive numbers; normalised to sum 1.
        means: (K, *D).
        variances: a number, (K,) or (K, *D): diagonal covariances. Zero puts a component on one point.
        covariances: (K, d, d) full covariances of the flattened state, instead of `variances`.

    Raises:
        ValueError: for shapes that do not fit, weights that are not positive or covariances with a negative eigenvalue.

    Example:

    ```python
    >>> import torch
    >>> from scoresde_pipelines import GaussianMixtureScoreModel, VESDEScheduler
    >>> data = GaussianMixtureScoreModel(weights=[0.3, 0.7], means=[[-0.7], [0.8]], variances=[0.01, 0.04])
    >>> scheduler = VESDEScheduler(sigma_max=50.0)
    >>> score = data.score(scheduler.sde, torch.zeros(5, 1), t=0.5)
    >>> unet = data.network(scheduler)
    ```
    """

    means: Tensor
    log_weights: Tensor
    eigenvalues: Tensor
    eigenvectors: Tensor | None

    def __init__(
        self,
        weights: Tensor | list[float],
        means: Tensor | list,
        variances: Tensor | list | float | None = None,
        covariances: Tensor | list | None = None,
    ):
        super().__init__()
        means, weights = as_double("means", means), as_double("weights", weights)
        if means.ndim < 2 or not means.numel():
            raise ValueError(f"means must have shape (K, *D) with at least one dimension D, got {tuple(means.shape)}")
        if weights.shape != means.shape[:1] or not bool((weights > 0).all()):
            raise ValueError(
                f"weights must be {len(means)} positive numbers, one for each of means, got {weights.tolist()}"
            )
        if (variances is None) == (covariances is None):
            both = "both" if variances is not None else "none"
            raise ValueError(f"exactly one of variances and covariances must be given, got {both}")
        self.shape = tuple(means.shape[1:])
        eigenvalues, eigenvectors = diagonal_variances("variances", variances, means), None
        if covariances is not None:
            eigenvalues, eigenvectors = eigenvectors_of(as_double("covariances", covariances), means)
        self.register_buffer("means", means)
        self.register_buffer("log_weights", torch.log(weights / weights.sum()))
        self.register_buffer("eigenvalues", eigenvalues)
        self.register_buffer("eigenvectors", eigenvectors)

    def log_prob(self, sde: SDE, x: Tensor, t: Tensor | float) -> Tensor:
        """log p_t(x) in nats, shape (B,), for `x` of shape (B, *D) and `t` of shape () or (B,)."""
        return torch.logsumexp(self._joint(*self._residuals(x, *_coefficients(sde, x, t))), dim=1)

    def log_responsibilities(self, sde: SDE, x: Tensor, t: Tensor | float) -> Tensor:
        """log p(k | x_t = x), shape (B, K): the exact noise-conditional classifier of the component."""
        return torch.log_softmax(self._joint(*self._residuals(x, *_coefficients(sde, x, t))), dim=1)

    def score(self, sde: SDE, x: Tensor, t: Tensor | float) -> Tensor:
        """grad log p_t(x), in the shape and dtype of `x` (B, *D); `t` of shape () or (B,)."""
        residual, variance = self._residuals(x, *_coefficients(sde, x, t))
        responsibility = torch.softmax(self._joint(residual, variance), dim=1)[:, :, None]
        pull = -residual / variance
        if self.eigenvectors is None:
            return (responsibility * pull).sum(1).reshape(x.shape)
        return torch.einsum("kij,bkj->bi", self.eigenvectors.to(x), responsibility * pull).reshape(x.shape)

    def denoise(self, sde: SDE, x: Tensor, t: Tensor | float) -> Tensor:
        """E[x_0 | x_t = x], in the shape and dtype of `x` (B, *D); exact at t = 0 too."""
        alpha, sigma = _coefficients(sde, x, t)
        residual, variance = self._residuals(x, alpha, sigma)
        responsibility = torch.softmax(self._joint(residual, variance), dim=1)[:, :, None]
        move = alpha * self.eigenvalues.to(x) * residual / variance
        if self.eigenvectors is not None:
            move = torch.einsum("kij,bkj->bki", self.eigenvectors.to(x), move)
        return (responsibility * (self.means.to(x).flatten(1) + move)).sum(1).reshape(x.shape)

    def data_log_prob(self, x: Tensor) -> Tensor:
        """log p_0(x) of clean data in nats, shape (B,), for `x` of shape (B, *D)."""
        return torch.logsumexp(self._joint(*self._residuals(x, torch.ones(()), torch.zeros(()))), dim=1)

    def sample(self, num_samples: int, generator: torch.Generator | None = None) -> Tensor:
        """Clean data, shape (num_samples, *D), in the dtype of the parameters."""
        check_integer("num_samples", num_samples, most=10**9)
        check_generator("generator", generator)
        device = self.means.device if generator is None else generator.device
        kwargs: dict[str, Any] = {"generator": generator, "device": device}
        component = torch.multinomial(self.log_weights.exp().to(device), num_samples, True, generator=generator)
        noise = torch.randn(num_samples, self.eigenvalues.shape[1], dtype=self.means.dtype, **kwargs)
        component, noise = component.to(self.means.device), noise.to(self.means.device)
        noise = self.eigenvalues[component].sqrt() * noise
        if self.eigenvectors is not None:
            noise = torch.einsum("bij,bj->bi", self.eigenvectors[component], noise)
        return self.means[component] + noise.reshape(num_samples, *self.shape)

    def posterior(self, matrix: Tensor, measurement: Tensor, noise_std: float) -> "GaussianMixtureScoreModel":
        """p(x_0 | y) of one linear measurement y = matrix x_0 + noise_std n: a mixture again.

        Args:
            matrix: (m, d), acting on the flattened state.
            measurement: y, shape (m,).
            noise_std: standard deviation of the measurement's noise, positive.
        """
        size = self.means[0].numel()
        matrix, y = as_double("matrix", matrix).to(self.means), as_double("measurement", measurement).to(self.means)
        if matrix.ndim != 2 or matrix.shape[1] != size or not len(matrix):
            raise ValueError(f"matrix must have shape (m, {size}), got {tuple(matrix.shape)}")
        if y.shape != matrix.shape[:1]:
            raise ValueError(
                f"measurement must have shape ({len(matrix)},), one per row of matrix, got {tuple(y.shape)}"
            )
        noise_std = check_number("noise_std", noise_std, 0, 1e15, ends="(]")
        means, covariances = self.means.flatten(1), self._covariances()
        cross = covariances @ matrix.T
        gram = matrix @ cross + noise_std**2 * torch.eye(len(matrix)).to(matrix)
        gain = torch.linalg.solve(gram, cross.mT).mT
        residual = y - means @ matrix.T
        evidence = torch.distributions.MultivariateNormal(torch.zeros_like(y), gram).log_prob(residual)
        moved = means + torch.einsum("kij,kj->ki", gain, residual)
        return GaussianMixtureScoreModel(
            torch.softmax(self.log_weights + evidence, 0).clamp_min(torch.finfo(y.dtype).tiny),
            moved.reshape(self.means.shape),
            covariances=covariances - gain @ cross.mT,
        )

    def network(self, scheduler: SDEScheduler) -> "AnalyticNetwork":
        """This model in the form of a network for `scheduler`, for pipelines and `scheduler.score_fn`."""
        return AnalyticNetwork(self, scheduler)

    def _residuals(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        # x - alpha m_k in the eigenbasis of C_k, and the variances there; both (B, K, d).
        if check_state("x", x, 1).shape[1:] != self.shape:
            raise ValueError(f"x must have shape (B, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")
        residual = x.reshape(len(x), 1, self.eigenvalues.shape[1]) - alpha.to(x) * self.means.to(x).flatten(1)
        if self.eigenvectors is not None:
            residual = torch.einsum("bki,kij->bkj", residual, self.eigenvectors.to(x))
        return residual, alpha.to(x) ** 2 * self.eigenvalues.to(x) + sigma.to(x) ** 2

    def _joint(self, residual: Tensor, variance: Tensor) -> Tensor:
        # log w_k + log N(x; k), shape (B, K).
        density = -0.5 * (residual**2 / variance + torch.log(2 * math.pi * variance)).sum(-1)
        return self.log_weights.to(density) + density

    def _covariances(self) -> Tensor:
        if self.eigenvectors is None:
            return torch.diag_embed(self.eigenvalues)
        return self.eigenvectors @ torch.diag_embed(self.eigenvalues) @ self.eigenvectors.mT


class GaussianScoreModel(GaussianMixtureScoreModel):
    """Data from one Gaussian over states of shape `*D`.

    Args:
        mean: of shape `*D`.
        variance: a number or a tensor of shape `*D`; zero for data at one point.
        covariance: (d, d) instead of `variance`.
    """

    def __init__(self, mean: Tensor | list, variance: Tensor | float | None = None, covariance: Tensor | None = None):
        mean = as_double("mean", mean)
        if not mean.ndim:
            raise ValueError("mean must have shape (*D), got a number")
        if (variance is None) == (covariance is None):
            both = "both" if variance is not None else "none"
            raise ValueError(f"exactly one of variance and covariance must be given, got {both}")
        if variance is not None:
            variance = as_double("variance", variance)
            if variance.ndim and variance.shape != mean.shape:
                raise ValueError(
                    f"variance must be a number or of shape {tuple(mean.shape)}, got {tuple(variance.shape)}"
                )
            if not bool((variance >= 0).all()):
                raise ValueError(f"variance must not be negative, got {float(variance.min())}")
            variance = variance.expand(mean.shape)[None]
        else:
            covariance = as_double("covariance", covariance)[None]
            eigenvectors_of(covariance, mean[None], "covariance")
        super().__init__([1.0], mean[None], variance, covariance)


class AnalyticNetwork(nn.Module):
    """An analytic score model called like a `UNet2DModel`, with a scheduler's SDE, prediction type and timestep convention.

    Args:
        model: the data.
        scheduler: where `sde` and `parameterization` are taken from.
    """

    def __init__(self, model: GaussianMixtureScoreModel, scheduler: SDEScheduler):
        super().__init__()
        check_instance("model", model, GaussianMixtureScoreModel)
        check_instance("scheduler", scheduler, SDEScheduler)
        self.model, self.sde, self.parameterization = model, scheduler.sde, scheduler.parameterization
        self.config = FrozenDict(_image_config(model.shape))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the model's parameters."""
        return self.model.means.dtype

    @property
    def device(self) -> torch.device:
        """The device of the model's parameters."""
        return self.model.means.device

    def forward(
        self, sample: Tensor, timestep: Tensor | float, class_labels: Tensor | None = None, return_dict: bool = True
    ) -> UNet2DOutput | tuple[Tensor]:
        """The exact output of a network that predicts what the scheduler expects.

        Args:
            sample: states x_t, shape (B, *D), as `scheduler.scale_model_input` gives them.
            timestep: the noise level in the scheduler's convention, shape () or (B,).
            class_labels: accepted for `UNet2DModel`'s signature and not used.
            return_dict: whether to return a `UNet2DOutput` or a tuple.
        """
        check_state("sample", sample, 1)
        if sample.shape[1:] != self.model.shape:
            wanted = ", ".join(map(str, self.model.shape))
            raise ValueError(f"sample must have shape (B, {wanted}), got {tuple(sample.shape)}")
        if isinstance(timestep, (int, float)):
            check_number("timestep", timestep, 0)
        time = check_time("timestep", timestep, sample, "sample")
        check_flag("return_dict", return_dict)
        t = self.parameterization.t_from_network_time(self.sde, time)
        x = self.parameterization.state(self.sde, sample, t)
        score = self.model.score(self.sde, x, t)
        output = self.parameterization.output(self.sde, score, x, t)
        return UNet2DOutput(sample=output) if return_dict else (output,)


def _coefficients(sde: SDE, x: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
    # alpha and sigma in a shape that broadcasts with (B, K, d).
    check_instance("sde", sde, SDE)
    t = check_time("t", t, check_state("x", x, 1), latest=sde.T)
    shape = (-1, 1, 1) if t.ndim else ()
    return sde.alpha(t).to(x).reshape(shape), sde.sigma(t).to(x).reshape(shape)


def _image_config(shape: tuple[int, ...]) -> dict:
    if len(shape) != 3:
        return {}
    channels, height, width = shape
    size = height if height == width else (height, width)
    return {"in_channels": channels, "out_channels": channels, "sample_size": size, "unbounded": True}
