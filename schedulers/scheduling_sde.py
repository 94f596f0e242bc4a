"""The base of the diffusers schedulers: configuration, and which part of the sampling each `step` is. No formulas.

A diffusers loop calls the network once per entry of `scheduler.timesteps` and passes its output to `step`. A
predictor-corrector sampler fits this loop unchanged when every noise level appears `order` times in a row: the first
entries of a level correct, the last one predicts the next level, and the very last entry denoises (`SamplingPlan`).

`step` turns the output into a score and does what `step_score` does. Call `step_score` if you have a score.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from .checks import check_choice, check_integer, check_number, check_timesteps
from .correctors import CORRECTORS, Corrector, langevin
from .parameterization import Parameterization
from .predictors import Predictor, make_predictor
from .sampling_plan import SamplingPlan
from .scheduling_config import SDEConfigMixin
from .score_function import ScoreFunction
from .sde import DATA_STD, SDE, as_time, expand_to
from .time_grids import TIME_GRIDS, TimeGrid


Generator = torch.Generator | list[torch.Generator] | None
ROUNDING = 1e-5  # relative error of time arguments in single precision, with a margin
TRAINING_EPS = 1e-5  # the smallest time of training, in the paper and by default here
LARGEST_SNR = 100.0  # a Langevin step of this size has no signal left


@dataclass
class SDESchedulerOutput(BaseOutput):
    """Output of a scheduler's `step` and `step_score`.

    Args:
        prev_sample (`torch.Tensor`): the next state, in the shape and dtype of `sample`.
        prev_sample_mean (`torch.Tensor`): the same before the step's noise was added.
        pred_original_sample (`torch.Tensor`): E[x_0 | x_t], the denoised image that this score implies.
    """

    prev_sample: Tensor
    prev_sample_mean: Tensor
    pred_original_sample: Tensor


class SDEScheduler(SDEConfigMixin):
    """A diffusers scheduler for one SDE; subclasses say which in `make_sde`.

    A scheduler for your own SDE takes three lines, and three more where the SDE has a parameter of its own, which is saved
    and loaded like the others:

    ```python
    class PowerScheduler(SDEScheduler):
        @register_to_config
        def __init__(self, power: float = 2.0, **kwargs):
            super().__init__(**kwargs)

        def make_sde(self):
            return PowerSDE(self.config.power)
    ```

    `scheduler.predictor` and `scheduler.corrector` may be set to a name or to a function of your own (see `Predictor` and
    `schedulers/correctors.py` for their signatures). A function stays with the scheduler through `from_config`, `copy` and
    `pickle`; it cannot be written to a file, and saving warns of it.

    Args:
        num_train_timesteps (`int`): number of noise levels in `timesteps` before `set_timesteps`, and in the
            training of a discretely trained network.
        prediction_type (`str`): "epsilon", "score", "sample", "v_prediction" or "edm".
        predictor (`str` or `None`): a key of `PREDICTORS`; `None` samples with the corrector alone.
        corrector (`str` or `None`): a key of `CORRECTORS`, or `None`.
        snr (`float`): signal-to-noise ratio of the corrector's steps.
        correct_steps (`int`): corrector steps per noise level; unused without a corrector.
        batch_mean_norm (`bool`): take the Langevin step size from batch means, as the official code does.
        sampling_eps (`float`): the smallest time at which the network is called.
        timestep_spacing (`str`, *optional*): a key of `TIME_GRIDS`: "linspace", "leading", "trailing", "log_snr",
            "karras", "official". `None` is the predictor's own grid, for "exponential_multistep" and "restart", and
            "linspace" for all others. An own grid may end below `sampling_eps`, at times that were trained.
        prologue (`bool`): begin `timesteps` with one entry at which `step` ignores the network and scales unit noise to
            the prior, for stock pipelines that do not apply `init_noise_sigma` (DDPMPipeline, DDIMPipeline).
        sigma_data (`float`): standard deviation of the data, in the units of the state; prediction type "edm" uses it.
        data_mean (`float` or `list`): mean of the data, one number or one per channel; prediction type "edm" uses it.

    Raises:
        TypeError, ValueError: for an unknown name or a number out of its range, naming the argument.
    """

    time_convention = "scaled"
    data_range = (-1.0, 1.0)

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        prediction_type: str = "epsilon",
        predictor: str | None = "reverse_diffusion",
        corrector: str | None = None,
        snr: float = 0.16,
        correct_steps: int = 1,
        batch_mean_norm: bool = False,
        sampling_eps: float = 1e-3,
        timestep_spacing: str | None = None,
        prologue: bool = False,
        sigma_data: float = DATA_STD,
        data_mean: float | list[float] = 0.0,
    ):
        self.setup()

    def make_sde(self) -> SDE:
        """The SDE of this scheduler, from `self.config`."""
        raise NotImplementedError(f"{type(self).__name__} must implement make_sde(self) and return an SDE")

    def setup(self) -> None:
        """Checks `self.config` and builds everything that follows from it. Called once, at the end of `__init__`."""
        config = self.config
        for key in ("num_train_timesteps", "correct_steps"):
            check_integer(key, config[key])
        check_number("snr", config["snr"], 0, LARGEST_SNR, ends="(]")
        check_choice("timestep_spacing", config["timestep_spacing"], TIME_GRIDS, optional=True)
        self._keep_own_spacing()
        self.sde = self.make_sde()
        check_number("sampling_eps", config.sampling_eps, 0, self.sde.T, ends="()")
        self.parameterization = Parameterization(
            config.prediction_type,
            self.time_convention,
            config.num_train_timesteps,
            config.get("sigma_data", DATA_STD),
            config.get("data_mean", 0.0),
        )
        # A predictor from another scheduler's configuration starts without that scheduler's memory.
        self._predictor = _own(self._make_predictor(config.predictor))
        self._corrector = self._make_corrector(config.corrector)
        self.set_timesteps(config.num_train_timesteps)

    def __len__(self) -> int:
        return self.config.num_train_timesteps

    # ------------------------------------------------------------------ predictor and corrector

    def __copy__(self) -> "SDEScheduler":
        # The memory of a predictor belongs to one sampling run.
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._predictor = _own(self._predictor)
        return twin

    @property
    def predictor(self) -> Predictor | None:
        """The predictor; may be set to a name or a function, which begins a new sampling run."""
        return self._predictor

    @predictor.setter
    def predictor(self, predictor: str | Predictor | None) -> None:
        self._predictor = self._make_predictor(predictor)
        self._replace("predictor", predictor)

    @property
    def corrector(self) -> Corrector | None:
        """The corrector; may be set to a name or a function, which begins a new sampling run."""
        return self._corrector

    @corrector.setter
    def corrector(self, corrector: str | Corrector | None) -> None:
        self._corrector = self._make_corrector(corrector)
        self._replace("corrector", corrector)

    def _make_predictor(self, predictor: str | Predictor | None) -> Predictor | None:
        return None if predictor is None else make_predictor(predictor, self.data_std)

    def _make_corrector(self, corrector: str | Corrector | None) -> Corrector | None:
        if corrector is None or (callable(corrector) and not isinstance(corrector, str)):
            return corrector
        check_choice("corrector", corrector, CORRECTORS, optional=True)
        if self.config.batch_mean_norm and corrector == "langevin":
            return partial(langevin, batch_mean_norm=True)
        return CORRECTORS[corrector]

    def _replace(self, key: str, value: Any) -> None:
        # `from_config` drops what is marked as a default.
        defaults = [name for name in self.config.get("_use_default_values", []) if name != key]
        self.register_to_config(**{key: value, "_use_default_values": defaults})
        if self.predictor or self.corrector:
            custom = self._plan.grid if self._custom else None
            self._begin(custom or self._grid(self.num_inference_steps), self.timesteps.device)

    # ------------------------------------------------------------------ planning

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
    def data_std(self) -> float:
        """Rough standard deviation of the data, which solvers use: `sigma_data` if given, else a quarter of the range."""
        sigma_data = float(self.config.get("sigma_data", DATA_STD))
        if self.config.prediction_type == "edm" or sigma_data != DATA_STD:
            return sigma_data
        low, high = self.data_range
        return DATA_STD * (high - low) / 2

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
            ValueError: unless exactly one of `num_inference_steps` and `timesteps` is given, and is in its range.
        """
        if self.predictor is None and self.corrector is None:
            raise ValueError("a scheduler needs a predictor or a corrector, got None for both")
        if (num_inference_steps is None) == (timesteps is None):
            raise ValueError(
                "set_timesteps needs exactly one of num_inference_steps and timesteps, "
                f"got num_inference_steps={num_inference_steps!r} and timesteps={timesteps!r}"
            )
        if timesteps is None:
            grid = self._grid(check_integer("num_inference_steps", num_inference_steps))
        else:
            grid = self._custom_grid(timesteps)
        self._custom = timesteps is not None
        self._begin(grid, device)

    def _grid(self, n: int) -> TimeGrid:
        spacing, own = self.config.timestep_spacing, getattr(self.predictor, "grid", None)
        if spacing is None and own is not None:
            return own(self.sde, n, self.first_trained_time)
        return TIME_GRIDS[spacing or "linspace"](self.sde, n, self.smallest_time)

    def _custom_grid(self, timesteps: list[float] | Tensor) -> TimeGrid:
        values = torch.as_tensor(timesteps, dtype=torch.float64, device="cpu").flatten()
        levels = self.parameterization.t_from_network_time(self.sde, values)
        if (
            not len(levels)
            or not bool((levels.diff() < 0).all())
            or not 0 < levels[-1] <= levels[0] <= self.sde.T + 1e-6
        ):
            raise ValueError(
                "timesteps must decrease strictly within what the network knows, "
                f"got {values[:3].tolist()} ... {values[-1:].tolist()}"
            )
        return TimeGrid.through(levels.clamp_max(self.sde.T))

    def _begin(self, grid: TimeGrid, device: str | torch.device | None) -> None:
        corrections = self.config.correct_steps if self.corrector else 0
        self._plan = SamplingPlan(self.sde, grid, corrections, self.predictor, bool(self.config.prologue))
        self.num_inference_steps = len(grid.levels)
        self.timesteps = self._network_time(self.times).to(device)
        self._step_index: int | None = None
        self._begin_index: int | None = None
        getattr(self.predictor, "prepare", lambda sde, levels: None)(self.sde, grid.levels)
        getattr(self.predictor, "start", lambda: None)()

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
        self._begin_index = begin_index

    def _index_of(self, timestep: Tensor | float) -> int:
        expected = self._begin_index if self._step_index is None else self._step_index
        if expected is not None and expected >= len(self.times):
            raise ValueError(
                f"step was called more than {len(self.times)} times since set_timesteps; call set_timesteps first"
            )
        return self._plan.index_of(timestep, self.timesteps, expected)

    # ------------------------------------------------------------------ one step

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor | float,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool | None = None,
        generator: Generator = None,
        return_dict: bool = True,
    ) -> SDESchedulerOutput | tuple[Tensor]:
        """One entry of `timesteps`: reads the network's output as a score and does one step, as `step_score`.

        Args:
            model_output (`torch.Tensor`): the network's output at (`sample`, `timestep`), shape (B, *D).
            timestep (`torch.Tensor` or number): the current entry of `timesteps`.
            sample (`torch.Tensor`): the current state, shape (B, *D).
            eta, use_clipped_model_output: accepted because DDIMPipeline passes them; the predictor decides the noise.
            generator (`torch.Generator` or a list of B): source of every random draw.
            return_dict (`bool`): whether to return an `SDESchedulerOutput` or the tuple `(prev_sample,)`, which saves the
                denoised image.

        Raises:
            ValueError: if `model_output` has another shape than `sample`, `timestep` is not in the plan or comes before the
                step that is due, or the sampling run is over.
        """
        _check_shape("model_output", model_output, sample)
        index = self._index_of(timestep)
        # Half precision holds neither VE states (up to sigma_max) nor small steps on them.
        x, output = _precise(sample), _precise(model_output)
        score = self.parameterization.score(self._plan.sde, output, x, self.times[index])
        return self._step(index, score, x, generator, sample.dtype, return_dict)

    def step_score(
        self,
        score: Tensor,
        timestep: Tensor | float,
        sample: Tensor,
        generator: Generator = None,
        return_dict: bool = True,
    ) -> SDESchedulerOutput | tuple[Tensor]:
        """One entry of `timesteps` with a score: a corrector or predictor step, by its position.

        Args:
            score (`torch.Tensor`): grad log p_t at (`sample`, t), shape (B, *D).
            timestep (`torch.Tensor` or number): the current entry of `times`, the SDE's time, or of `timesteps`.
            sample, generator, return_dict: as in `step`.

        Raises:
            ValueError: as in `step`.
        """
        _check_shape("score", score, sample)
        index = self._index_of(timestep)
        return self._step(index, _precise(score), _precise(sample), generator, sample.dtype, return_dict)

    def _step(
        self, index: int, score: Tensor, x: Tensor, generator: Generator, dtype: torch.dtype, return_dict: bool
    ) -> SDESchedulerOutput | tuple[Tensor]:
        mean, prev = self._next_state(index, score, x, generator)
        self._step_index = index + 1
        if not return_dict:
            return (prev.to(dtype),)
        prologue = self._plan.position(index)[0] < 0
        clean = mean if prologue else self._plan.sde.denoise(x, score, self.times[index])
        return SDESchedulerOutput(prev.to(dtype), mean.to(dtype), clean.to(dtype))

    def _next_state(self, index: int, score: Tensor, x: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """The next state without and with the step's noise."""
        plan, sde, t = self._plan, self._plan.sde, self.times[index]
        level, phase = plan.position(index)
        last = index == len(self.times) - 1
        if level < 0:
            return (x * self.sde.prior_std,) * 2
        if last and plan.denoises:
            denoise = getattr(self.predictor, "denoise", None)
            mean = sde.denoise(x, score, t) if denoise is None else denoise(sde, x, score, t)
            return mean, mean
        if phase < plan.corrections:
            assert self.corrector is not None
            return self.corrector(sde, x, score, t, _noise_like(x, generator), self.config.snr)
        assert self.predictor is not None
        evaluation = {} if phase == plan.corrections else {"evaluation": phase - plan.corrections}
        mean, std = self.predictor(sde, x, score, plan.grid.levels[level], plan.grid.targets[level], **evaluation)
        if last or not bool(torch.as_tensor(std).gt(0).any()):
            return mean, mean
        return mean, mean + std * _noise_like(x, generator)

    # ------------------------------------------------------------------ what training and pipelines ask for

    def scale_model_input(self, sample: Tensor, timestep: Tensor | float | None = None) -> Tensor:
        """The network's input for the state `sample` (B, *D) at the current entry of `timesteps`.

        The state itself, but for the prediction type "edm", whose networks get it at unit scale.
        """
        if self.parameterization.prediction_type != "edm":
            return sample
        if timestep is None:
            raise ValueError("timestep must be the current entry of scheduler.timesteps, got None")
        index = self._index_of(timestep)
        if self._plan.position(index)[0] < 0:
            return sample
        return self.parameterization.input(self._plan.sde, _precise(sample), self.times[index]).to(sample.dtype)

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
        t = self._time_of(timesteps, original_samples)
        _check_shape("noise", noise, original_samples, "original_samples")
        mean, std = self.sde.marginal(original_samples, t)
        return mean + expand_to(std, original_samples) * noise

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The v-prediction target alpha noise - sigma x_0 of clean samples (B, *D) at `timesteps`; errors as `add_noise`."""
        t = self._time_of(timesteps, sample)
        _check_shape("noise", noise, sample)
        return Parameterization("v_prediction").target(self.sde, sample, noise, t)

    def _time_of(self, timesteps: Tensor, samples: Tensor) -> Tensor:
        # float64: index arithmetic and small times stay exact whatever dtype the samples have. On the CPU: Apple GPUs have
        # no float64, and the values are read here anyway.
        values = check_timesteps(timesteps, len(samples)).to("cpu", torch.float64)
        ends = torch.tensor([0.0, self.sde.T], dtype=torch.float64)
        low, high = self.parameterization.network_time(self.sde, ends).tolist()
        inside = (values >= low * (1 - ROUNDING)) & (values <= high * (1 + ROUNDING))
        if not bool(inside.all()):
            raise ValueError(
                f"timesteps must lie in {low:g} ... {high:g}, what the network knows, got {values[~inside][:3].tolist()}"
            )
        return self.parameterization.t_from_network_time(self.sde, values)

    def score_fn(self, model: Callable[..., Any], **model_kwargs: Any) -> ScoreFunction:
        """The score of a network as a function of the SDE's own time.

        Args:
            model (`torch.nn.Module` or callable): called as `model(input, network_time, **model_kwargs)`; returns a tensor
                or an object with `.sample`. If it has a `dtype`, as diffusers' models do, it gets its input in it.

        Returns:
            A function `(x, t, **more_kwargs) -> score`: `x` of shape (B, *D), `t` in (0, T] of shape (B,) or scalar; the
            score has the shape of `x`, in float32 at least. For a scalar `t` the network's time argument is exactly that
            of a loop over `timesteps`.
        """

        def score(x: Tensor, t: Tensor | float, **more_kwargs: Any) -> Tensor:
            precise, t = _precise(x), as_time(t)
            if t.ndim:
                sde, t = self.sde, t.to(x.device, precise.dtype)
                time = self.parameterization.network_time(sde, t)
            else:
                sde, t = self._plan.sde, t.double()
                exact = precise.dtype == torch.float64
                time = self.parameterization.network_time(sde, t) if exact else self._network_time(t)
            state = self.parameterization.input(sde, precise, t).to(getattr(model, "dtype", x.dtype))
            output = model(state, time.to(x.device), **model_kwargs, **more_kwargs)
            output = output.sample if hasattr(output, "sample") else output
            return self.parameterization.score(sde, output.to(precise.dtype), precise, t)

        return score


def _own(predictor: Predictor | None) -> Predictor | None:
    return copy.deepcopy(predictor) if hasattr(predictor, "start") else predictor


def _precise(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _noise_like(x: Tensor, generator: Generator) -> Tensor:
    return randn_tensor(x.shape, generator=generator, device=x.device, dtype=x.dtype)


def _check_shape(name: str, value: Tensor, sample: Tensor, sample_name: str = "sample") -> None:
    if value.shape != sample.shape:
        raise ValueError(
            f"{name} must have the shape of {sample_name}, {tuple(sample.shape)}, got {tuple(value.shape)}"
        )
