"""What the diffusers schedulers share: configuration checks and the step machine. No formulas.

A diffusers loop calls the network once per entry of ``scheduler.timesteps`` and hands its output to ``step``. A
predictor-corrector sampler fits this loop unchanged when every noise level appears ``order`` times in a row: the first
entries of a level correct, the last one predicts the next level, and the very last entry denoises.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from .checks import check_choice, check_integer, check_number
from .coefficient_table import tabulate
from .correctors import CORRECTORS, Corrector, langevin
from .multistep import MULTISTEP_PREDICTORS
from .parameterization import Parameterization
from .predictors import PREDICTORS, Predictor
from .sde import SDE, expand_to
from .time_grids import TIME_GRIDS, TimeGrid


@dataclass
class SDESchedulerOutput(BaseOutput):
    """Output of a scheduler's `step`.

    Args:
        prev_sample (`torch.Tensor`): the next state, in the shape and dtype of `sample`.
        prev_sample_mean (`torch.Tensor`): the same before the step's noise was added.
        pred_original_sample (`torch.Tensor`): E[x_0 | x_t], the denoised image that this network call implies.
    """

    prev_sample: Tensor
    prev_sample_mean: Tensor
    pred_original_sample: Tensor


class SDEScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]  # both name their config file, alike
    """A diffusers scheduler for one SDE; subclasses say which in `make_sde`.

    A scheduler for your own SDE takes three lines:

    ```python
    class CosineScheduler(SDEScheduler):
        def make_sde(self):
            return CosineSDE()
    ```

    `scheduler.predictor` and `scheduler.corrector` may be replaced by functions of your own
    (see `schedulers/predictors.py` and `schedulers/correctors.py` for their signatures) before `set_timesteps`.

    Args:
        num_train_timesteps (`int`): number of noise levels that `timesteps` holds before `set_timesteps`, and that a
            discretely trained network knows.
        prediction_type (`str`): "epsilon", "score", "sample" or "v_prediction".
        predictor (`str` or `None`): a key of `PREDICTORS` or `MULTISTEP_PREDICTORS`; `None` samples with the corrector
            alone.
        corrector (`str` or `None`): a key of `CORRECTORS`, or `None`.
        snr (`float`): signal-to-noise ratio of the corrector's steps.
        correct_steps (`int`): corrector steps per noise level; unused without a corrector.
        batch_mean_norm (`bool`): take the Langevin step size from batch means, as the official code does.
        sampling_eps (`float`): the smallest time at which the network is called.
        timestep_spacing (`str`): a key of `TIME_GRIDS`: "linspace", "leading", "trailing", "log_snr", "karras",
            "official".
        prologue (`bool`): begin `timesteps` with one entry at which `step` ignores the network and scales unit noise to
            the prior, for stock pipelines that do not apply `init_noise_sigma` (DDPMPipeline, DDIMPipeline).

    Raises:
        ValueError: for an unknown name or a number out of its range, naming the argument.
    """

    config: Any  # type: ignore[assignment]  # diffusers declares a dict; its keys are attributes
    _compatibles = [e.name for e in KarrasDiffusionSchedulers]
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
        timestep_spacing: str = "linspace",
        prologue: bool = False,
    ):
        self.setup()

    def make_sde(self) -> SDE:
        """The SDE of this scheduler, from `self.config`."""
        raise NotImplementedError(f"{type(self).__name__} must implement make_sde(self) and return an SDE")

    def setup(self) -> None:
        """Checks `self.config` and builds everything that follows from it. Called once, at the end of `__init__`."""
        config = self.config
        _check_config(config)
        self.sde = self.make_sde()
        check_number("sampling_eps", config.sampling_eps, 0, self.sde.T, ends="()")
        self.parameterization = Parameterization(
            config.prediction_type, self.time_convention, config.num_train_timesteps
        )
        self.predictor: Predictor | None = _make_predictor(config.predictor)
        self.corrector: Corrector | None = CORRECTORS[config.corrector] if config.corrector else None
        if config.batch_mean_norm and config.corrector == "langevin":
            self.corrector = partial(langevin, batch_mean_norm=True)
        self.set_timesteps(config.num_train_timesteps)

    def __len__(self) -> int:
        return self.config.num_train_timesteps

    @classmethod
    def _get_compatibles(cls) -> list[type[Any]]:
        # Without a scheduler's library (torchsde) diffusers lists a placeholder that only raises.
        return [other for other in super()._get_compatibles() if issubclass(other, SchedulerMixin)]

    # ------------------------------------------------------------------ the walk

    @property
    def order(self) -> int:
        """Network calls per noise level: the corrector's steps and the predictor's one."""
        return (self.config.correct_steps if self.corrector else 0) + (1 if self.predictor else 0)

    @property
    def init_noise_sigma(self) -> float:
        """What unit noise is multiplied by to start the sampling."""
        return 1.0 if self.config.prologue else self.sde.prior_std

    @property
    def smallest_time(self) -> float:
        """The last time at which the network is called."""
        return float(self.config.sampling_eps)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: list[float] | Tensor | None = None,
    ) -> None:
        """Plans the sampling.

        Args:
            num_inference_steps (`int`): number of noise levels; the network is called `order` times at each.
            device (`str` or `torch.device`, *optional*): where `timesteps` is put.
            timesteps (`list` or `torch.Tensor`, *optional*): instead of `num_inference_steps`, the noise levels
                themselves in the network's convention (sigma, 999 t or an index), decreasing.

        Raises:
            ValueError: unless exactly one of `num_inference_steps` and `timesteps` is given, and is in its range.
        """
        if self.order == 0:
            raise ValueError("a scheduler needs a predictor or a corrector, got None for both")
        if (num_inference_steps is None) == (timesteps is None):
            raise ValueError(
                "set_timesteps needs exactly one of num_inference_steps and timesteps, "
                f"got num_inference_steps={num_inference_steps!r} and timesteps={timesteps!r}"
            )
        grid = self._make_grid(num_inference_steps) if timesteps is None else self._custom_grid(timesteps)
        self.levels, self.targets, self._denoise_at_end = grid.levels, grid.targets, grid.denoise
        self.num_inference_steps = len(grid.levels)
        self._table: SDE | None = None

        entries = self._network_levels().repeat_interleave(self.order)
        if self.config.prologue:
            entries = torch.cat([entries[:1], entries])
        self.timesteps = entries.to(device)
        self._step_index: int | None = None
        self._begin_index: int | None = None
        # A multistep predictor forgets the last walk and ends the new one in its own way.
        getattr(self.predictor, "start", lambda: None)()

    @property
    def _walk_sde(self) -> SDE:
        # Made by the first step: most walks of a thousand levels are planned in a constructor and never walked.
        if self._table is None:
            self._times, self._next_times = list(self.levels.unbind()), list(self.targets.unbind())
            self._table = tabulate(self.sde, self._times + self._next_times)
        return self._table

    def _make_grid(self, n: Any) -> TimeGrid:
        n = check_integer("num_inference_steps", n)
        return TIME_GRIDS[self.config.timestep_spacing](self.sde, n, self.smallest_time)

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

    def _network_levels(self) -> Tensor:
        times = self.parameterization.network_time(self.sde, self.levels)
        whole = times.round()
        # A table's indices stay integers, as stock loops expect them, wherever the grid hits the table.
        if self.time_convention == "index" and bool(torch.isclose(times, whole, rtol=0, atol=1e-6).all()):
            return whole.long()
        return times.float()

    @property
    def step_index(self) -> int | None:
        """Index of the next `step` in `timesteps`; `None` before the first."""
        return self._step_index

    @property
    def state_time(self) -> Tensor:
        """The SDE's time of the current state, 0-dim float64: that of the next network call, and 0 after the last step."""
        done = max((self._step_index or self._begin_index or 0) - int(self.config.prologue), 0)
        level = done // self.order
        return self.levels[level] if level < len(self.levels) else torch.zeros_like(self.levels[0])

    @property
    def begin_index(self) -> int | None:
        """Index in `timesteps` at which the sampling begins, if a pipeline has set one."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Tells where in `timesteps` the sampling begins (image-to-image pipelines start in the middle)."""
        self._begin_index = begin_index

    def _advance(self, timestep: Tensor | float) -> int:
        """Index of this step in `timesteps`; the next call gets the next one."""
        if self._step_index is None:
            self._step_index = self._begin_index if self._begin_index is not None else self._index_of(timestep)
        index = self._step_index
        if index >= len(self.timesteps):
            raise ValueError(
                f"step was called more than {len(self.timesteps)} times since set_timesteps; call set_timesteps first"
            )
        self._step_index = index + 1
        return index

    def _index_of(self, timestep: Tensor | float) -> int:
        # The first match: with repeated entries any later one would skip correctors.
        value = torch.as_tensor(timestep, dtype=self.timesteps.dtype, device=self.timesteps.device).flatten()[:1]
        matches = (self.timesteps == value).nonzero()
        if not len(matches):
            raise ValueError(f"timestep must be one of scheduler.timesteps, got {timestep}; call set_timesteps first")
        return int(matches[0])

    # ------------------------------------------------------------------ one step

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor | float,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> SDESchedulerOutput | tuple[Tensor, ...]:
        """One entry of `timesteps`: a corrector or predictor step, by its position.

        Args:
            model_output (`torch.Tensor`): the network's output at (`sample`, `timestep`), shape (B, *D).
            timestep (`torch.Tensor` or number): the current entry of `timesteps`; read at the first call only.
            sample (`torch.Tensor`): the current state, shape (B, *D).
            eta, use_clipped_model_output: accepted because DDIMPipeline passes them; the predictor decides the noise.
            generator (`torch.Generator` or a list of B): source of every random draw.
            return_dict (`bool`): whether to return an `SDESchedulerOutput` or a tuple of its fields.

        Raises:
            ValueError: if `model_output` has another shape than `sample`, `timestep` is not in `timesteps`, or the
                walk is over.
        """
        if model_output.shape != sample.shape:
            raise ValueError(
                f"model_output must have the shape of sample, {tuple(sample.shape)}, got {tuple(model_output.shape)}"
            )
        entry = self._advance(timestep) - int(self.config.prologue)
        if entry < 0:
            start = SDESchedulerOutput(*(sample * self.sde.prior_std,) * 3)
            return start if return_dict else start.to_tuple()
        level, phase = divmod(entry, self.order)
        sde, t = self._walk_sde, self._times[level]
        # Half precision holds neither VE states (up to sigma_max) nor small steps on them.
        x, output = (v if v.dtype == torch.float64 else v.float() for v in (sample, model_output))
        score = self.parameterization.score(sde, output, x, t)

        if entry == len(self.levels) * self.order - 1 and self._denoise_at_end:
            mean = prev = self._denoise(x, score, t)
        elif self.corrector is not None and phase < self.order - (self.predictor is not None):
            noise = randn_tensor(x.shape, generator=generator, device=x.device, dtype=x.dtype)
            mean, prev = self.corrector(sde, x, score, t, noise, self.config.snr)
        else:
            mean, prev = self._predict(x, score, level, generator)
        result = SDESchedulerOutput(*(v.to(sample.dtype) for v in (prev, mean, sde.denoise(x, score, t))))
        return result if return_dict else result.to_tuple()

    def _predict(
        self, x: Tensor, score: Tensor, level: int, generator: torch.Generator | list[torch.Generator] | None
    ) -> tuple[Tensor, Tensor]:
        assert self.predictor is not None
        mean, std = self.predictor(self._walk_sde, x, score, self._times[level], self._next_times[level])
        if level == len(self.levels) - 1 or not bool(torch.as_tensor(std).gt(0).any()):
            return mean, mean
        noise = randn_tensor(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return mean, mean + std * noise

    def _denoise(self, x: Tensor, score: Tensor, t: Tensor) -> Tensor:
        if self.predictor is not None and hasattr(self.predictor, "denoise"):
            return self.predictor.denoise(self._walk_sde, x, score, t)
        return self._walk_sde.denoise(x, score, t)

    # ------------------------------------------------------------------ what training and pipelines ask for

    def scale_model_input(self, sample: Tensor, timestep: Tensor | float | None = None) -> Tensor:
        """Returns `sample` unchanged: these networks take the state as it is."""
        return sample

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t = alpha x_0 + sigma noise.

        Args:
            original_samples (`torch.Tensor`): clean samples x_0, shape (B, *D).
            noise (`torch.Tensor`): standard normal noise, same shape.
            timesteps (`torch.Tensor`): noise levels in the network's convention, as in `timesteps`, shape (B,) or ().
        """
        t = self._time_of(timesteps, original_samples)
        mean, std = self.sde.marginal(original_samples, t)
        return mean + expand_to(std, original_samples) * noise

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The v-prediction target alpha noise - sigma x_0 of clean samples (B, *D) at `timesteps` (B,)."""
        t = self._time_of(timesteps, sample)
        return Parameterization("v_prediction").target(self.sde, sample, noise, t)

    def _time_of(self, timesteps: Tensor, samples: Tensor) -> Tensor:
        # float64: index arithmetic and small times stay exact whatever dtype the samples have.
        return self.parameterization.t_from_network_time(self.sde, timesteps.to(samples.device))

    def score_fn(self, model: Callable[..., Any], **model_kwargs: Any) -> Callable[[Tensor, Tensor], Tensor]:
        """The score of a network as a function of the SDE's own time.

        Args:
            model (`torch.nn.Module` or callable): called as `model(x, network_time, **model_kwargs)`; returns a tensor
                or an object with `.sample`. If it has a `dtype`, as diffusers' models do, it gets the state in it.

        Returns:
            A function `(x, t) -> score`: `x` of shape (B, *D), `t` in (0, T] of shape (B,) or scalar; the score has
            the shape of `x`, in float32 at least.
        """

        def score(x: Tensor, t: Tensor) -> Tensor:
            precise = x if x.dtype == torch.float64 else x.float()
            t = torch.as_tensor(t, device=x.device).to(precise.dtype).expand(len(x))
            state = x.to(getattr(model, "dtype", x.dtype))
            output = model(state, self.parameterization.network_time(self.sde, t), **model_kwargs)
            output = output.sample if hasattr(output, "sample") else output
            return self.parameterization.score(self.sde, output.to(precise.dtype), precise, t)

        return score


def _make_predictor(name: str | None) -> Predictor | None:
    # Multistep predictors remember, so every scheduler has its own.
    return MULTISTEP_PREDICTORS[name]() if name in MULTISTEP_PREDICTORS else PREDICTORS.get(name or "")


def _check_config(config: Any) -> None:
    for key, known in (
        ("predictor", {**PREDICTORS, **MULTISTEP_PREDICTORS}),
        ("corrector", CORRECTORS),
        ("timestep_spacing", TIME_GRIDS),
    ):
        check_choice(key, config[key], known, optional=key != "timestep_spacing")
    for key in ("num_train_timesteps", "correct_steps"):
        check_integer(key, config[key])
    check_number("snr", config["snr"], 0, ends="()")
