r"""The stochastic differential equations of the paper.

Every one of them is linear with a scalar coefficient, so a noisy image is a scaled clean image plus white noise,

    x_t = alpha(t) x_0 + sigma(t) z,      z ~ N(0, I),      t in [0, T],

and **an SDE is two functions**, `alpha(t)` and `sigma(t)`. The rest follows from them, once, in `SDE`:

    dx = f(t) x dt + g(t) dw,     f = d log alpha / dt,     g^2 = d sigma^2 / dt - 2 f sigma^2,
    p(x_t | x_s) = N(scale x_s, std^2 I),     scale = alpha_t / alpha_s,     std^2 = sigma_t^2 - scale^2 sigma_s^2.

Times are torch tensors: 0-dim (the samplers use float64 on the CPU, which broadcasts against any state on any device
without a synchronisation) or of shape (B,), one per sample. Coefficients have the shape of the time.

Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations", ICLR 2021, section 3 and
appendices B and C.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .checks import as_floating, as_time, check_like, check_number, check_order, check_state, check_time
from .transfers import to_device


#: The rough standard deviation of image data in a range of 2, as of the official models; EDM's sigma_data.
DATA_STD = 0.5

# Their squares, and the norm of an image of such numbers, are float32 numbers.
SMALLEST_SIGMA, LARGEST_SIGMA = 1e-15, 1e15
LARGEST_BETA = 1e6
SMALLEST_TIME = 1e-30  # at earlier ones the noise of a VP SDE would be zero


def finest_dtype(device: torch.device) -> torch.dtype:
    """float64, except on devices that do not have it (Apple GPUs)."""
    return torch.float32 if device.type == "mps" else torch.float64


def expand_to(coefficient: Tensor, x: Tensor) -> Tensor:
    """A coefficient of shape () or (B,) in a form that multiplies the state `x` of shape (B, *D) and keeps its dtype."""
    if coefficient.ndim == 0:
        return coefficient
    return to_device(coefficient, x.device, x.dtype).reshape(-1, *(1,) * (x.ndim - 1))


class SDE:
    """A linear SDE, given by `alpha(t)` and `sigma(t)`.

    A subclass implements these two with torch functions, elementwise, alpha decreasing from 1 (or constant) and sigma
    increasing. Everything else is derived here; override what has an exact shorter form. Networks are evaluated at float32
    times: write differences of near numbers without cancellation (`torch.expm1`, not `1 - torch.exp`), or sigma loses its
    digits near t = 0.

    Example: the cosine schedule of Nichol & Dhariwal (2021) as a variance-preserving SDE.

    ```python
    class CosineSDE(SDE):
        def alpha(self, t):
            return torch.cos(0.5 * math.pi * 0.999 * t)

        def sigma(self, t):
            return torch.sin(0.5 * math.pi * 0.999 * t)
    ```
    """

    T: float = 1.0

    def alpha(self, t: Tensor) -> Tensor:
        """Scale of the clean image in x_t. `t` of any shape; same shape back."""
        raise NotImplementedError(f"{type(self).__name__} must implement alpha(t)")

    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise in x_t. `t` of any shape; same shape back."""
        raise NotImplementedError(f"{type(self).__name__} must implement sigma(t)")

    def _time(self, t: Any, name: str = "t") -> Tensor:
        # Tensors may lie past T by a rounding, and are not read.
        return as_time(t, name, self.T)

    # ------------------------------------------------------------------ coefficients of dx = f x dt + g dw

    def log_alpha(self, t: Tensor) -> Tensor:
        """log alpha(t)."""
        return torch.log(self.alpha(self._time(t)))

    def drift_rate(self, t: Tensor) -> Tensor:
        """f(t) = d log alpha / dt, by forward-mode differentiation."""
        return _derivative(self.log_alpha, self._time(t))

    def diffusion(self, t: Tensor) -> Tensor:
        """g(t), with g^2 = d sigma^2 / dt - 2 f sigma^2, in the shape of `t`."""
        t = self._time(t)
        variance = self.sigma(t) ** 2
        growth = _derivative(lambda time: self.sigma(time) ** 2, t)
        return (growth - 2 * self.drift_rate(t) * variance).clamp_min(0).sqrt()

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """f(t) x, for a state `x` of shape (B, *D) and `t` of shape () or (B,)."""
        return expand_to(self.drift_rate(check_time("t", t, check_state("x", x), latest=self.T)), x) * x

    # ------------------------------------------------------------------ kernels

    def marginal(self, x0: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (shape of `x0`) and standard deviation (shape of `t`) of p(x_t | x_0), paper eq. 29."""
        t = check_time("t", t, check_state("x0", x0), "x0", self.T)
        return expand_to(self.alpha(t), x0) * x0, self.sigma(t)

    def transition(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and standard deviation of p(x_t | x_s) = N(scale x_s, std^2 I) for s <= t, in the shape of `t`.

        The variance sigma_t^2 - scale^2 sigma_s^2 is computed as sigma_t^2 (1 - SNR_t / SNR_s), which does not cancel.

        Raises:
            ValueError: for s > t. On a GPU and in a compiled graph, where no value is read, `std` is NaN there.
        """
        t, s = check_order(self._time(t), self._time(s, "s"))
        s = s.clamp_min(0)  # the last step of the official grid ends below t = 0
        scale = torch.exp(self.log_alpha(t) - self.log_alpha(s))
        share = (-torch.expm1(self.log_snr(t) - self.log_snr(s))).clamp_min(0).sqrt()
        return scale, self.sigma(t) * torch.where(s > t, math.nan, share)

    def denoise(self, x: Tensor, score: Tensor, t: Tensor) -> Tensor:
        """E[x_0 | x_t = x] = (x + sigma^2 score) / alpha (Tweedie's formula)."""
        check_like("score", score, check_state("x", x))
        t = check_time("t", t, x, latest=self.T)
        return (x + expand_to(self.sigma(t) ** 2, x) * score) / expand_to(self.alpha(t), x)

    # ------------------------------------------------------------------ signal-to-noise ratio

    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha^2 / sigma^2), decreasing in t."""
        t = self._time(t)
        return 2 * (self.log_alpha(t) - torch.log(self.sigma(t)))

    def noise_ratio(self, t: Tensor) -> Tensor:
        """sigma / alpha, the standard deviation of the noise relative to the clean image; increasing, shape of `t`."""
        t = self._time(t)
        return self.sigma(t) / self.alpha(t)

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        """The time in [0, T] at which log-SNR has the given value (the nearer end where it is out of reach).

        By bisection in float64; a subclass may override it with a closed form.
        """
        target = as_floating("log_snr", log_snr)
        low = torch.zeros_like(target, dtype=finest_dtype(target.device))
        high = torch.full_like(low, self.T)
        for _ in range(64):
            middle = 0.5 * (low + high)
            above = self.log_snr(middle) > target
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        return (0.5 * (low + high)).to(target.dtype)

    # ------------------------------------------------------------------ prior

    @property
    def prior_std(self) -> float:
        """Standard deviation of the Gaussian that sampling starts from."""
        return float(self.sigma(self._time(self.T)))

    def prior_log_prob(self, z: Tensor) -> Tensor:
        """log N(z; 0, prior_std^2 I) in nats, shape (B,), for `z` of shape (B, *D)."""
        z = check_state("z", z, 2).flatten(1) / self.prior_std
        return -0.5 * (z**2).sum(1) - z.shape[1] * (0.5 * math.log(2 * math.pi) + math.log(self.prior_std))


def _derivative(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    # Elementwise functions only, so the tangent of ones gives every derivative at once; works under no_grad.
    with torch.inference_mode(False):
        t = t.clone() if t.is_inference() else t
        return torch.func.jvp(function, (t,), (torch.ones_like(t),))[1]


class VESDE(SDE):
    r"""Variance exploding: alpha = 1, sigma(t) = sigma_min (sigma_max / sigma_min)^t (paper eq. 30).

    Args:
        sigma_min: noise at t = 0, in the units of the data.
        sigma_max: noise at t = T; about the largest distance between two images (Song & Ermon 2020).
    """

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0):
        self.sigma_min = check_number("sigma_min", sigma_min, SMALLEST_SIGMA, LARGEST_SIGMA)
        self.sigma_max = check_number("sigma_max", sigma_max, SMALLEST_SIGMA, LARGEST_SIGMA)
        if not self.sigma_min < self.sigma_max:
            raise ValueError(f"sigma_min must be less than sigma_max, got {self.sigma_min} and {self.sigma_max}")
        self.log_ratio = math.log(self.sigma_max / self.sigma_min)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(self._time(t))

    def log_alpha(self, t: Tensor) -> Tensor:
        return torch.zeros_like(self._time(t))

    def drift_rate(self, t: Tensor) -> Tensor:
        return torch.zeros_like(self._time(t))

    def sigma(self, t: Tensor) -> Tensor:
        # In this order the float32 value at any t is within one rounding of the float64 one.
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** self._time(t)

    def diffusion(self, t: Tensor) -> Tensor:
        return self.sigma(t) * math.sqrt(2 * self.log_ratio)

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        return ((-0.5 * as_floating("log_snr", log_snr) - math.log(self.sigma_min)) / self.log_ratio).clamp(
            0.0, self.T
        )


class VPSDE(SDE):
    r"""Variance preserving: beta(t) = beta_min + t (beta_max - beta_min), log alpha = -1/2 int_0^t beta (paper eq. 32-33).

    sigma^2 = 1 - alpha^2, taken through expm1: the difference loses 0.6 % of sigma at t = 1e-5 in float32.

    Args:
        beta_min: noise rate at t = 0, per unit of time.
        beta_max: noise rate at t = T.
    """

    prior_std = 1.0

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0):
        self.beta_min = check_number("beta_min", beta_min, 0, LARGEST_BETA)
        self.beta_max = check_number("beta_max", beta_max, 0, LARGEST_BETA, ends="(]")
        if self.beta_min > self.beta_max:
            raise ValueError(f"beta_min must be at most beta_max, got {self.beta_min} and {self.beta_max}")

    def beta(self, t: Tensor) -> Tensor:
        """Noise rate beta(t) = -2 d log alpha / dt."""
        return self.beta_min + self._time(t) * (self.beta_max - self.beta_min)

    def log_alpha(self, t: Tensor) -> Tensor:
        t = self._time(t)
        return -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(self.log_alpha(t))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(2 * self.log_alpha(t)))

    def drift_rate(self, t: Tensor) -> Tensor:
        return -0.5 * self.beta(t)

    def diffusion(self, t: Tensor) -> Tensor:
        return torch.sqrt(self.beta(t))

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        # alpha^2 = sigmoid(log_snr), hence int beta = softplus(-log_snr): a quadratic in t.
        return self._t_from_integral(torch.nn.functional.softplus(-as_floating("log_snr", log_snr)))

    def _t_from_integral(self, integral: Tensor) -> Tensor:
        slope = self.beta_max - self.beta_min
        integral = integral.clamp_max(self.beta_min + self.beta_max)  # past T anyway; infinities would give NaN
        t = 2 * integral / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * slope * integral))
        return t.clamp(0.0, self.T)


class SubVPSDE(VPSDE):
    r"""Sub-VP: the VP drift with less noise, sigma = 1 - alpha^2 (paper eq. 12 and 29).

    g^2 = beta (1 - exp(-2 int beta)) = -beta expm1(4 log alpha).
    """

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(2 * self.log_alpha(t))

    def diffusion(self, t: Tensor) -> Tensor:
        return torch.sqrt(-self.beta(t) * torch.expm1(4 * self.log_alpha(t)))

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        # alpha / (1 - alpha^2) = e^(l/2) reads 2 sinh(-log alpha) = e^(-l/2).
        return self._t_from_integral(2 * torch.asinh(0.5 * torch.exp(-0.5 * as_floating("log_snr", log_snr))))
