"""The base of the diffusers schedulers: configuration, and which part of the sampling each `step` is. No formulas.

A diffusers loop calls the network once per entry of `scheduler.timesteps` and passes its output to `step`. A
predictor-corrector sampler fits this loop unchanged when every noise level appears `order` times in a row: the first
entries of a level correct, the last one predicts the next level, and the very last entry denoises (`SamplingPlan`).

`step` turns the output into a score and does what `step_score` does. Call `step_score` if you have a score.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from .checks import (
    Generator,
    check_choice,
    check_flag,
    check_generator,
    check_integer,
    check_like,
    check_number,
    check_state,
)
from .correctors import Corrector, make_corrector
from .learned_steps import check_steps
from .multistep import STEPS
from .parameterization import Parameterization
from .predictors import Predictor, make_predictor
from .scheduling_network import NetworkMixin, precise
from .score_function import check_score
from .sde import DATA_STD, SDE, SMALLEST_TIME
from .start_check import check_unit_noise, warn_of_unit_noise, warn_of_unscaled_input
from .step_checks import LARGEST_SNR, check_correction, check_prediction
from .time_grids import MOST_LEVELS, TIME_GRIDS


MOST_CORRECTIONS = 10**4


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


class SDEScheduler(NetworkMixin):
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
            "linspace" for all others. An own grid may end below `sampling_eps`, at times that were trained,
            or above it (`last_noise_level`).
        prologue (`bool`): begin `timesteps` with one entry at which `step` ignores the network and scales unit noise to
            the prior, for stock pipelines that do not apply `init_noise_sigma` (DDPMPipeline, DDIMPipeline).
        sigma_data (`float`): standard deviation of the data, in the units of the state; prediction type "edm" uses it.
        data_mean (`float` or `list`): mean of the data, one number or one per channel; prediction type "edm" uses it.
        learned_steps (`dict`, *optional*): for the predictor "learned_steps", what `fit_steps` found.
        last_noise_level (`float`): the least sigma / alpha at which a predictor's own grid calls the network, in units of
            `data_std`, 0 to 1. At 0 the predictor's grid ends where it is most accurate on an exact score; a trained
            network's images may be better with about 0.2. Likelihoods, latent codes, `ode_tolerance` and all other grids
            do not use it.
        multistep_order (`int`, *optional*): how many network calls a step of a multistep predictor interpolates, 1 to 5; by
            default 5, and 4 of "exponential_adams_bashforth". With large guidance scales high orders diverge: 2 is stable
            there.

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
        learned_steps: dict[str, dict[str, list]] | None = None,
        last_noise_level: float = 0.0,
        multistep_order: int | None = None,
    ):
        self.setup()

    def make_sde(self) -> SDE:
        """The SDE of this scheduler, from `self.config`."""
        raise NotImplementedError(f"{type(self).__name__} must implement make_sde(self) and return an SDE")

    def setup(self) -> None:
        """Checks `self.config` and builds everything that follows from it. Called once, at the end of `__init__`."""
        config = self.config
        check_integer("num_train_timesteps", config["num_train_timesteps"], most=MOST_LEVELS)
        check_integer("correct_steps", config["correct_steps"], most=MOST_CORRECTIONS)
        for key in ("batch_mean_norm", "prologue"):
            check_flag(key, config[key])
        check_number("snr", config["snr"], 0, LARGEST_SNR, ends="(]")
        check_choice("timestep_spacing", config["timestep_spacing"], TIME_GRIDS, optional=True)
        check_steps("learned_steps", config.get("learned_steps"))
        check_number("last_noise_level", config.get("last_noise_level", 0.0), 0, 1)
        if config.get("multistep_order") is not None:
            check_integer("multistep_order", config["multistep_order"], 1, len(STEPS))
        self._keep_own_spacing()
        self.sde = self.make_sde()
        self._refuse_stock_schedulers()
        check_number("sampling_eps", config.sampling_eps, SMALLEST_TIME, self.sde.T, ends="[)")
        self.parameterization = Parameterization(
            config.prediction_type,
            self.time_convention,
            config.num_train_timesteps,
            config.get("sigma_data", DATA_STD),
            config.get("data_mean", 0.0),
        )
        # A predictor from another scheduler's configuration starts without that scheduler's memory.
        self._predictor = _own(self._make_predictor(config.predictor))
        self._corrector = _own(self._make_corrector(config.corrector))
        self.set_timesteps(config.num_train_timesteps)

    def __len__(self) -> int:
        return self.config.num_train_timesteps

    # ------------------------------------------------------------------ predictor and corrector

    def __copy__(self) -> "SDEScheduler":
        # The memory of a predictor, or corrector, belongs to one sampling run.
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._predictor, twin._corrector = _own(self._predictor), _own(self._corrector)
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
        if predictor is None:
            return None
        config = self.config  # checked in `setup`
        settings = {"data_std": self.data_std, "learned_steps": config.get("learned_steps") or {}}
        if config.get("multistep_order") is not None:
            settings["order"] = config["multistep_order"]
        return make_predictor(predictor, **settings)

    def _make_corrector(self, corrector: str | Corrector | None) -> Corrector | None:
        return make_corrector(corrector, self.config.batch_mean_norm)

    def _replace(self, key: str, value: Any) -> None:
        # `from_config` drops what is marked as a default.
        defaults = [name for name in self.config.get("_use_default_values", []) if name != key]
        self.register_to_config(**{key: value, "_use_default_values": defaults})
        if self.predictor or self.corrector:
            custom = self._plan.grid if self._custom else None
            self._begin(custom or self._grid(self.num_inference_steps), self.timesteps.device)

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
        check_like("model_output", model_output, check_state("sample", sample, 1), "sample")
        index = self._index_of(timestep)
        x, output = precise(sample), precise(model_output)
        if index == 0 and not self.config.prologue:
            warn_of_unit_noise(x, float(self._plan.sde.sigma(self.times[0])))
        if self.config.prediction_type == "edm" and not self._input_scaled:
            self._input_scaled = True  # one warning a run
            warn_of_unscaled_input()
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
        check_like("score", score, check_state("sample", sample, 1), "sample")
        index = self._index_of(timestep)
        return self._step(index, precise(score), precise(sample), generator, sample.dtype, return_dict)

    def _step(
        self, index: int, score: Tensor, x: Tensor, generator: Generator, dtype: torch.dtype, return_dict: bool
    ) -> SDESchedulerOutput | tuple[Tensor]:
        generator = check_generator("generator", generator, len(x))
        check_flag("return_dict", return_dict)
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
            check_unit_noise(x, self.sde.prior_std)
            return (x * self.sde.prior_std,) * 2
        if last and plan.denoises:
            denoise = getattr(self.predictor, "denoise", None)
            mean = sde.denoise(x, score, t) if denoise is None else denoise(sde, x, score, t)
            return (check_score(mean, x, "predictor.denoise"),) * 2
        if phase < plan.corrections:
            assert self.corrector is not None
            noise, nth = _noise_like(x, generator), _nth(phase % plan.per_correction)
            return check_correction(self.corrector(sde, x, score, t, noise, self.config.snr, **nth), x)
        assert self.predictor is not None
        nth = _nth(phase - plan.corrections)
        times = plan.grid.levels[level], plan.grid.targets[level]
        mean, std = check_prediction(self.predictor(sde, x, score, *times, **nth), x)
        if last or not bool(std.gt(0).any()):
            return mean, mean
        return mean, mean + std * _noise_like(x, generator)


def _own(rule: Any) -> Any:
    return copy.deepcopy(rule) if hasattr(rule, "start") else rule


def _nth(evaluation: int) -> dict[str, Any]:
    return {"evaluation": evaluation} if evaluation else {}


def _noise_like(x: Tensor, generator: Generator) -> Tensor:
    return randn_tensor(x.shape, generator=generator, device=x.device, dtype=x.dtype)
