"""DDPM's tables of betas, by diffusers' names for them."""

import math
from typing import Any

import torch
from torch import Tensor

from .checks import check_choice, check_flag, check_integer, check_number, check_numbers
from .time_grids import MOST_LEVELS


def beta_table(config: Any) -> Tensor:
    """The N betas that a scheduler's configuration describes, float32.

    Args:
        config: a mapping with `num_train_timesteps`, `beta_start`, `beta_end`, `beta_schedule`, `trained_betas` and
            optionally `rescale_betas_zero_snr`, as DDPMScheduler's.

    Raises:
        ValueError: for an unknown `beta_schedule`, or betas outside (0, 1].
    """
    n = check_integer("num_train_timesteps", config["num_train_timesteps"], most=MOST_LEVELS)
    start, end = (check_number(key, config[key], SMALLEST_BETA, 1, ends="[)") for key in ("beta_start", "beta_end"))
    check_choice("beta_schedule", config["beta_schedule"], BETA_SCHEDULES)
    if config["trained_betas"] is not None:
        betas = checked_betas("trained_betas", config["trained_betas"], SMALLEST_BETA)
    else:
        if start > end:
            raise ValueError(f"beta_start must be at most beta_end, got {start} and {end}")
        betas = _named_table(config["beta_schedule"], n, start, end)
    if check_flag("rescale_betas_zero_snr", config.get("rescale_betas_zero_snr", False)):
        betas = _rescale_to_zero_snr(betas)
    return betas.float()


def checked_betas(name: str, values: Any, smallest: float = 0.0) -> Tensor:
    """A table of betas, (N,) float64: at least 2 numbers in (0, 1), of which the last may be 1.

    Raises:
        TypeError, ValueError: for anything else, naming the argument `name`.
    """
    betas = torch.tensor(
        check_numbers(name, values, smallest, 1, ends="(]", least=2), dtype=torch.float64, device="cpu"
    )
    if not bool((betas[:-1] < 1).all()):
        raise ValueError(f"{name} must be less than 1 but for the last of them, got {betas[:4].tolist()} ...")
    return betas


def continuous_betas(config: Any) -> tuple[float, float]:
    """beta(0) and beta(1) of the paper's continuous SDE, N times the table's ends.

    Raises:
        ValueError: if the configuration is not the linear schedule, the only one with this closed form.
    """
    if config["beta_schedule"] != "linear" or config["trained_betas"] is not None:
        raise ValueError(
            "the continuous SDE has a linear beta(t): beta_schedule must be 'linear' and trained_betas None, got "
            f"beta_schedule={config['beta_schedule']!r} and trained_betas={config['trained_betas']!r}"
        )
    if config.get("rescale_betas_zero_snr", False):
        raise ValueError("rescale_betas_zero_snr changes a table of betas; it needs continuous=False")
    return config["num_train_timesteps"] * config["beta_start"], config["num_train_timesteps"] * config["beta_end"]


def _named_table(name: str, n: int, start: float, end: float) -> Tensor:
    if name == "linear":
        return torch.linspace(start, end, n, dtype=torch.float64, device="cpu")
    if name == "scaled_linear":
        return torch.linspace(math.sqrt(start), math.sqrt(end), n, dtype=torch.float64, device="cpu") ** 2
    if name == "sigmoid":
        return torch.sigmoid(torch.linspace(-6, 6, n, dtype=torch.float64, device="cpu")) * (end - start) + start
    # "squaredcos_cap_v2": Nichol & Dhariwal (2021), eq. 17, capped at .999.
    alpha_bar = (
        torch.cos((torch.linspace(0, 1, n + 1, dtype=torch.float64, device="cpu") + 0.008) / 1.008 * math.pi / 2) ** 2
    )
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp_max(0.999)


def _rescale_to_zero_snr(betas: Tensor) -> Tensor:
    # Lin et al. (2023), algorithm 1: shift and scale sqrt(alpha_bar) so that its last value is zero.
    root = torch.cumprod(1 - betas, 0).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    alpha_bar = root**2
    return 1 - torch.cat([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])


SMALLEST_BETA = 1e-30  # a number of single precision
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
