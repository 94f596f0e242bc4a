"""The toy scores of the recorded sampler figures (golden/samplers/cases.json), written from their descriptions."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from scoresde_pipelines.schedulers import SDE, VESDE, VPSDE, SubVPSDE


SDES: dict[str, SDE] = {"ve": VESDE(0.01, 50.0), "vp": VPSDE(0.1, 20.0), "subvp": SubVPSDE(0.1, 20.0)}


class Golden:
    """Inputs, outputs and descriptions of the recorded cases, tensors in float64."""

    def __init__(self, shared_dir: Path):
        folder = shared_dir / "golden" / "samplers"
        self.inputs = {name: value.double() for name, value in load_file(folder / "inputs.safetensors").items()}
        self.outputs = load_file(folder / "outputs.safetensors")
        self.cases = json.loads((folder / "cases.json").read_text())["cases"]

    def score(self, model: str, sde: str) -> Callable[[Tensor, Tensor], Tensor]:
        """Toy A (two Gaussians at every pixel) or B (one Gaussian with a rank-one covariance), float64."""
        return {"A": self._per_pixel_mixture, "B": self._rank_one_gaussian}[model](sde)

    def start(self, sde: str, name: str) -> Tensor:
        """Unit noise or latent codes `name`, scaled to the prior."""
        x = self.inputs["bank"][0] if name == "prior" else self.inputs["z_ode"]
        return x * SDES[sde].prior_std

    def data_scale(self, sde: str, x: Tensor) -> Tensor:
        """From the data range of the SDE's models to [0, 1], as the recorded sampler outputs are."""
        return x if sde == "ve" else (x + 1) / 2

    def _centred(self, sde: str, mean: Tensor) -> Tensor:
        return mean if sde == "ve" else 2 * mean - 1

    def _coefficients(self, sde: str, t: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(c(t).reshape(-1, 1, 1, 1) for c in (SDES[sde].alpha, SDES[sde].sigma))

    def _per_pixel_mixture(self, sde: str) -> Callable[[Tensor, Tensor], Tensor]:
        means = torch.stack([self._centred(sde, self.inputs[name]) for name in ("m1", "m2")])[:, None]
        log_weights = torch.tensor([0.35, 0.65], dtype=torch.float64).log().reshape(2, 1, 1, 1, 1)

        def score(x: Tensor, t: Tensor) -> Tensor:
            alpha, sigma = self._coefficients(sde, t)
            variance = alpha**2 * 0.2**2 + sigma**2
            distance = alpha * means - x
            share = torch.softmax(log_weights - distance**2 / (2 * variance), 0)
            return (share * distance).sum(0) / variance

        return score

    def _rank_one_gaussian(self, sde: str) -> Callable[[Tensor, Tensor], Tensor]:
        mean, u = self._centred(sde, self.inputs["mu"]), self.inputs["u"]

        def score(x: Tensor, t: Tensor) -> Tensor:
            alpha, sigma = self._coefficients(sde, t)
            variance = alpha**2 * 0.3**2 + sigma**2
            d = x - alpha * mean
            along = (u * d).sum((1, 2, 3), keepdim=True) / (variance + alpha**2 * (u * u).sum())
            return -(d - alpha**2 * u * along) / variance

        return score
