"""The timesteps of a sampling run: how a scheduler plans them, and which of them is the next."""

from typing import Any

import torch
from torch import Tensor

from .checks import as_real, check_device, check_integer, check_values, shown
from .parameterization import Parameterization
from .sampling_plan import SamplingPlan
from .scheduling_config import SDEConfigMixin
from .sde import DATA_STD, SDE
from .time_grids import MOST_LEVELS, TIME_GRIDS, TimeGrid


ROUNDING = 1e-5  # relative error of time arguments in single precision, with a margin
TRAINING_EPS = 1e-5  # the smallest time of training, in the paper and by default here


class TimestepsMixin(SDEConfigMixin):
    """The part of `SDEScheduler` that plans sampling runs."""

    time_convention: str
    sde: SDE
    parameterization: Parameterization
    predictor: Any
    corrector: Any
    data_range: tuple[float, float]

    @property
    def order(self) -> int:
        """Network calls per noise level: the corrector's steps and the predictor's evaluations."""
        return self._plan.order

    @property
    def init_noise_sigma(self) -> float:
        """What unit noise is multiplied by to start the sampling."""
        return 1.0 if self.config.prologue else self.sde.prior_std

    @property
    def smallest_time(self) -> float:
        """The last time at which the network is called."""
        return float(self.config.sampling_eps)

    @property
    def first_trained_time(self) -> float:
        """The smallest time at which the network was trained: 1e-5, or `sampling_eps` if that is less; 1 / N of a table."""
        table = getattr(getattr(self.sde, "vp", self.sde), "betas", None)
        eps = min(self.smallest_time, TRAINING_EPS)
        return eps if table is None else max(eps, 1.0 / len(table))

    @property
    def solver_end(self) -> float:
        """The smallest time of predictors' own grids: `first_trained_time`, or that of `last_noise_level` if larger."""
        level = float(self.config.get("last_noise_level", 0.0)) * self.data_std
        if level == 0:
            return self.first_trained_time
        log_snr = -2 * torch.tensor(level, dtype=torch.float64, device="cpu").log()
        return max(self.first_trained_time, float(self.sde.t_from_log_snr(log_snr)))

    @property
    def likelihood_eps(self) -> float:
        """The smallest time of likelihoods and latent codes, unless one is given: 1e-5, or the first index of a table."""
        return self.smallest_time if self.time_convention == "index" else TRAINING_EPS

    @property
    def data_std(self) -> float:
        """`data_std_in` the range of the official models, `data_range`; a pipeline's is that of its own range."""
        return self.data_std_in(self.data_range)

    def data_std_in(self, data_range: tuple[float, float]) -> float:
        """Rough standard deviation of data in a range: `sigma_data` if given, else a quarter of the range."""
        sigma_data = float(self.config.get("sigma_data", DATA_STD))
        if self.config.prediction_type == "edm" or sigma_data != DATA_STD:
            return sigma_data
        low, high = data_range
        return (high - low) / 4

    @property
    def levels(self) -> Tensor:
        """The SDE's times of the noise levels, (num_inference_steps,), float64 on the CPU; they decrease but at restarts."""
        return self._plan.grid.levels

    @property
    def times(self) -> Tensor:
        """The SDE's time of every entry of `timesteps`, same length, float64 on the CPU."""
        return self._plan.times

    @property
    def sigmas(self) -> Tensor:
        """sigma / alpha at every entry of `timesteps`, then 0; float32 on the device of `timesteps`, one longer than it.

        For stock code that asks for it. EulerDiscreteScheduler has the same numbers; the state of our VP schedulers stays
        x_t, which is alpha times the state of EulerDiscreteScheduler.
        """
        ratios = self.sde.noise_ratio(self.times)
        return torch.cat([ratios, torch.zeros_like(ratios[:1])]).float().to(self.timesteps.device)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: list[float] | Tensor | None = None,
    ) -> None:
        """Plans a sampling run.

        Args:
            num_inference_steps (`int`): number of noise levels; the network is called `order` times at each.
            device (`str` or `torch.device`, *optional*): where `timesteps` is put.
            timesteps (`list` or `torch.Tensor`, *optional*): instead of `num_inference_steps`, the noise levels
                themselves in the network's convention (sigma, 999 t or an index), decreasing.

        Raises:
            TypeError, ValueError: unless exactly one of `num_inference_steps` and `timesteps` is given, and is in its
                range; for a `device` that this machine does not have.
        """
        if self.predictor is None and self.corrector is None:
            raise ValueError("a scheduler needs a predictor or a corrector, got None for both")
        if (num_inference_steps is None) == (timesteps is None):
            raise ValueError(
                "set_timesteps needs exactly one of num_inference_steps and timesteps, "
                f"got num_inference_steps={shown(num_inference_steps)} and timesteps={shown(timesteps)}"
            )
        if timesteps is None:
            grid = self._grid(check_integer("num_inference_steps", num_inference_steps, most=MOST_LEVELS))
        else:
            grid = self._custom_grid(timesteps)
        self._custom = timesteps is not None
        self._begin(grid, device)

    def _grid(self, n: int) -> TimeGrid:
        spacing, own = self.config.timestep_spacing, getattr(self.predictor, "grid", None)
        if spacing is None and own is not None:
            return own(self.sde, n, self.solver_end)
        return TIME_GRIDS[spacing or "linspace"](self.sde, n, self.smallest_time)

    def _custom_grid(self, timesteps: list[float] | Tensor) -> TimeGrid:
        values = check_values("timesteps", as_real("timesteps", timesteps)).to("cpu", torch.float64)
        if values.ndim != 1:
            raise ValueError(f"timesteps must be a sequence of noise levels (n,), got shape {tuple(values.shape)}")
        self._check_known("timesteps", values)
        levels = self.parameterization.t_from_network_time(self.sde, values)
        if not len(levels) or not bool((levels.diff() < 0).all()) or not 0 < levels[-1] <= levels[0]:
            raise ValueError(
                "timesteps must decrease strictly within the network's range, "
                f"got {values[:3].tolist()} ... {values[-1:].tolist()}"
            )
        return TimeGrid.through(levels.clamp_max(self.sde.T))

    def _check_known(self, name: str, values: Tensor) -> None:
        """Raises ValueError unless all `values` (CPU, float64) are time arguments that the network was trained on."""
        ends = torch.tensor([0.0, self.sde.T], dtype=torch.float64, device="cpu")
        low, high = self.parameterization.network_time(self.sde, ends).tolist()
        inside = (values >= low * (1 - ROUNDING)) & (values <= high * (1 + ROUNDING))
        if not bool(inside.all()):
            raise ValueError(
                f"{name} must lie in {low:g} ... {high:g}, the network's range, got {values[~inside][:3].tolist()}"
            )

    def _begin(self, grid: TimeGrid, device: str | torch.device | None) -> None:
        device = check_device("device", device)
        calls = getattr(self.corrector, "evaluations", 1)
        corrections = self.config.correct_steps * calls if self.corrector else 0
        self._plan = SamplingPlan(self.sde, grid, corrections, self.predictor, bool(self.config.prologue), calls)
        self.num_inference_steps = len(grid.levels)
        self.timesteps = self._network_time(self.times).to(device)
        self._step_index: int | None = None
        self._begin_index: int | None = None
        self._input_scaled = False
        getattr(self.predictor, "prepare", lambda sde, levels: None)(self.sde, grid.levels)
        for one in (self.predictor, self.corrector):
            getattr(one, "start", lambda: None)()

    def _network_time(self, t: Tensor) -> Tensor:
        """The network's time arguments for the times `t`, in the dtype of `timesteps`."""
        times = self.parameterization.network_time(self.sde, t)
        whole = times.round()
        # A table's indices stay integers, as stock loops expect them, wherever the times are in the table.
        if self.time_convention == "index" and bool(torch.isclose(times, whole, rtol=0, atol=1e-6).all()):
            return whole.long()
        return times.float()

    @property
    def step_index(self) -> int | None:
        """Index of the next `step` in `timesteps`; `None` before the first."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """Index in `timesteps` at which the sampling begins, if a pipeline has set one."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Tells where in `timesteps` the sampling begins (image-to-image pipelines start in the middle)."""
        self._begin_index = check_integer("begin_index", begin_index, 0, len(self.timesteps))

    def _index_of(self, timestep: Tensor | float) -> int:
        expected = self._begin_index if self._step_index is None else self._step_index
        if expected is not None and expected >= len(self.times):
            raise ValueError(
                f"step was called more than {len(self.times)} times since set_timesteps; call set_timesteps first"
            )
        return self._plan.index_of(timestep, self.timesteps, expected)
