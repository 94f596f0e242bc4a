"""Entries: constructors of the schedulers, their methods, and the conversion of stock schedulers."""

from typing import Any

from .case import Entry, like
from .strategies import Kind, count, flag, functions, instance, name, numbers, only, real, some
from .strategies_data import generator, tensor


PREDICTOR_NAMES = (
    "reverse_diffusion",
    "euler_maruyama",
    "ancestral",
    "probability_flow",
    "exponential",
    "exponential_multistep",
    "exponential_adams_bashforth",
    "heun",
)


def names_or_functions(*choices: str) -> Kind:
    """Names where a function may be given as well: one of another signature raises Python's own error when it is called."""
    kind = name(*choices)
    return Kind(kind.good, kind.hopeless.filter(lambda text: text not in ("lambda: 1", "str")), kind.doubtful)


PREDICTOR = names_or_functions(*PREDICTOR_NAMES)
CORRECTOR = names_or_functions("langevin", "annealed_langevin", "metropolis_langevin").optional()
SAMPLE = tensor(2, 1, 4, 4, strict=False)
LEARNED = "{'2': {'noise_ratios': [50.0, 1.0], 'weights': [[-49.0], [0.0, -1.0]]}}"
COMMON = {
    "num_train_timesteps": count(10, 50),
    "prediction_type": name("epsilon", "score", "sample", "v_prediction", "edm"),
    "predictor": PREDICTOR.tolerant().plus(hopeless=("'nope'", "[]", "{}", "object()")),
    "corrector": CORRECTOR,
    "snr": real(0.01, 0.3, "0.0", "-1.0"),
    "correct_steps": count(1, 2),
    "batch_mean_norm": flag(),
    "sampling_eps": real(1e-4, 1e-2, "0.0", "-1e-3", "1.0", "2.0"),
    "timestep_spacing": name("linspace", "leading", "trailing", "log_snr", "karras").optional(),
    "prologue": flag(),
    "sigma_data": real(0.3, 1, "0.0", "-1.0"),
    "last_noise_level": real(0, 0.5, "-0.1", "1.5"),
    "multistep_order": count(2, 5).optional(),
    "learned_steps": only("None", LEARNED).plus(
        hopeless=("[]", "3", "{'2': 3}", "{'2': {'noise_ratios': [nan, 1.0], 'weights': [[1.0], [1.0, 1.0]]}}")
    ),
    "data_mean": real(-1, 1).plus(good=("[0.1]",), hopeless=("[nan]", "['a']")).tolerant(),
}
BETAS = {
    "beta_start": real(1e-4, 1e-3, "-1.0", "2.0", "-1e-9"),
    "beta_end": real(0.01, 0.03, "-1.0", "2.0", "0.0"),
    "beta_schedule": name("linear", "scaled_linear", "squaredcos_cap_v2"),
}
TRAINED_BETAS = numbers(
    "None",
    "[0.01] * 20",
    "np.linspace(1e-4, 0.02, 10)",
    hopeless=("[-0.1, 0.1]", "[1.5, 0.1]", "[[0.1]]", "[0.0, 0.0]"),
    doubtful=("[]", "torch.linspace(1e-4, 0.02, 10)"),
).optional()
STOCK = ("DDPMScheduler()", "DDIMScheduler()", "ScoreSdeVeScheduler()", "EulerDiscreteScheduler()")


def constructors() -> list[Entry]:
    """The three schedulers, each used for three steps."""
    sigmas = {"sigma_min": real(0.005, 0.1, "0.0", "-1.0", "60.0"), "sigma_max": real(5, 50, "0.0", "-1.0", "0.001")}
    continuous_betas = {**BETAS, "beta_schedule": name("linear").tolerant().plus(hopeless=("'nope'", "None", "3"))}
    table = {
        **COMMON,
        **BETAS,
        "variance_type": name("fixed_small", "fixed_large"),
        "rescale_betas_zero_snr": only("False"),
        "continuous": only("False"),
    }
    no_table = {key: kind for key, kind in table.items() if key not in ("num_train_timesteps", *BETAS)}
    return [
        Entry("VESDEScheduler", {**COMMON, **sigmas}, then="sampled"),
        Entry("VPSDEScheduler", table, then="sampled"),
        Entry("VPSDEScheduler", {**no_table, "trained_betas": TRAINED_BETAS}, then="sampled"),
        Entry("VPSDEScheduler", {**COMMON, **continuous_betas, "continuous": only("True")}, then="sampled"),
        Entry("SubVPSDEScheduler", {**COMMON, **continuous_betas}, then="sampled"),
        Entry(
            "sampled_with",
            {
                "kind": only("'ve'", "'vp'", "'subvp'"),
                "predictor": function("exponential"),
                "corrector": function("langevin"),
            },
        ),
    ]


def function(good: str) -> Kind:
    """A predictor or corrector given as an attribute."""
    results = "None; x; (x, x, x); (x[:1], x); (None, 0.0); 'a'; (x.long(), x)"
    wrong = ("'nope'; 3; object(); []; torch.zeros(2)", *functions("sde, x, score, t, s=None, *a", results))
    return Kind(some(good), some(*wrong))


def methods(kind: str) -> list[Entry]:
    """The methods that a diffusers loop calls, for one scheduler."""
    made = f"scheduler('{kind}')"
    labels = timesteps(kind)
    steps = count(1, 5)
    custom = numbers(
        *custom_timesteps(kind),
        hopeless=("[1.0, 2.0]", "[0.5, 0.5]", "[1e9]", "[-1.0]", "[[2.0], [1.0]]", "torch.zeros(0)"),
    )
    device = Kind(
        some("'cpu'", "None", "torch.device('cpu')"),
        some("'nope'", "3.5", "object()", "[]", "'cpu:x'", "{}"),
        some("'cuda'", "'meta'", "0"),
    )
    condition = {"original_samples": SAMPLE, "noise": SAMPLE, "timesteps": labels}
    step = {
        "model_output": SAMPLE,
        "timestep": some_timestep(kind),
        "sample": SAMPLE,
        "eta": real(0, 1).tolerant(),
        "use_clipped_model_output": only("None", "False"),
        "generator": generator(2),
        "return_dict": flag(),
    }
    return [
        Entry(f"{made}.set_timesteps", {"num_inference_steps": steps, "device": device}),
        Entry(f"{made}.set_timesteps", {"timesteps": custom}),
        Entry(f"{made}.set_begin_index", {"begin_index": count(0, 5)}),
        Entry(
            f"{made}.scale_model_input", {"sample": SAMPLE.tolerant(), "timestep": only("None")}, check=like("sample")
        ),
        Entry(f"{made}.add_noise", condition, check=like("original_samples")),
        Entry(f"{made}.get_velocity", {"sample": SAMPLE, "noise": SAMPLE, "timesteps": labels}, check=like("sample")),
        Entry(f"{made}.step", step, check=first_like_sample),
        Entry(
            f"{made}.step_score",
            {"score": SAMPLE, **{key: value for key, value in step.items() if key != "model_output"}},
        ),
        Entry(
            f"{made}.score_fn",
            {"model": network_function()},
            then="(lambda f: f(torch.ones(2, 1, 4, 4), torch.tensor(0.5)))",
            aliases={"model": ("model output", "network", "output")},
        ),
        Entry(f"{made}.score_fn(network({kind!r}))", {"x": SAMPLE, "t": state_time()}, aliases={"x": ("sample",)}),
    ]


def first_like_sample(result: Any, arguments: dict[str, Any]) -> str | None:
    """The next state has the shape and dtype of `sample`."""
    return like("sample")(result[0], arguments)


def timesteps(kind: str) -> Kind:
    """Noise levels (2,) in the network's convention."""
    good = {"ve": "torch.tensor([0.5, 10.0])", "vp": "torch.tensor([900.0, 10.0])", "table": "torch.tensor([5, 900])"}[
        kind
    ]
    odd = (
        f"{good}.double()",
        f"{good}.numpy()",
        f"{good}.tolist()",
        "5",
        "torch.tensor(5)",
        f"{good}.half()",
        "torch.tensor([5])",
    )
    wrong = (
        "None; 'a'; []; {}; object(); torch.tensor([1e9, 1e9]); torch.tensor([-5, -5]); torch.tensor([nan, nan]); "
        "torch.ones(3); torch.ones(2, 2); torch.tensor([1j, 1j]); torch.zeros(0); ['a', 'b']; torch.tensor([inf, 1.0])",
    )
    return Kind(some(good), some(*wrong), some(*odd))


def some_timestep(kind: str) -> Kind:
    """One entry of a scheduler's `timesteps`."""
    first = f"scheduler('{kind}').timesteps[0]"
    wrong = ("None; 'a'; -1; 1e9; nan; object(); []; {}; torch.zeros(0); 1j; torch.tensor(nan); b'a'",)
    return Kind(
        some(first, f"{first}.item()"),
        some(*wrong),
        some(f"{first}[None]", f"{first}.repeat(2)", f"float({first})", "True"),
    )


def custom_timesteps(kind: str) -> tuple[str, ...]:
    """Decreasing noise levels."""
    numbers_ = {"ve": "[10.0, 1.0, 0.1]", "vp": "[900.0, 500.0, 10.0]", "table": "[900, 500, 10]"}[kind]
    return numbers_, f"torch.tensor({numbers_})", f"np.array({numbers_})"


def state_time() -> Kind:
    """A time of the state of two samples; outside of (0, T] there is no score.

    Values of tensors are not read, as that would wait for the device: NaN there gives NaN.
    """
    return Kind(
        some("0.5", "torch.tensor(0.5)", "torch.tensor([0.2, 0.9])"),
        some(
            "None; 'a'; object(); torch.ones(3); torch.ones(2, 2); nan; -1.0; 5.0; []; {}; 1j",
        ),
        some("1", "np.float64(0.5)", "[0.2, 0.9]", "np.array([0.2, 0.9])", "0.0", "torch.tensor([nan, 0.5])"),
    )


def network_function() -> Kind:
    """A network given to `score_fn`."""
    results = "None; x[:1]; x[:, :1, :1]; 1.0; x.long(); (x,); 'a'; x.to(torch.complex64); x.numpy(); x.sum()"
    wrong = functions("x, t", results)
    return Kind(some("lambda x, t: -x", "network('vp')"), some("None; 'a'; 3; object(); []", *wrong))


def conversion() -> list[Entry]:
    """Stock schedulers."""
    wrong = (
        "FlowMatchEulerDiscreteScheduler(); VPSDEScheduler; DDPMScheduler; sde('vp'); unet(); DDPMScheduler().config",
    )
    known = instance(*STOCK, "scheduler('ve')", extra=wrong)
    return [
        Entry("to_sde_scheduler", {"scheduler": known}, then="sampled"),
        Entry("cite", {"pipeline_or_scheduler": known}, aliases={"pipeline_or_scheduler": ["scheduler"]}),
    ]


LOADED = Kind(
    some("{}", "{'num_train_timesteps': 10}", "VPSDEScheduler().config", "DDPMScheduler().config"),
    some(
        "[]; {'beta_schedule': 'nope'}; {'num_train_timesteps': 'a'}; {'snr': nan}; "
        "{'beta_start': 'a'}; {'prediction_type': 3}; {'trained_betas': ['a']}; {'predictor': 'nope'}; "
        "{'num_train_timesteps': -1}; {'beta_end': 5.0}",
    ),
)

ENTRIES = {
    "schedulers": constructors()
    + conversion()
    + [
        Entry(
            "VPSDEScheduler.from_config",
            {"config": LOADED},
            then="sampled",
            aliases={
                "config": [
                    "beta_schedule",
                    "num_train_timesteps",
                    "snr",
                    "beta_start",
                    "prediction_type",
                    "trained_betas",
                    "predictor",
                    "beta_end",
                ]
            },
        ),
    ],
    "stepping": [entry for kind in ("ve", "vp", "table") for entry in methods(kind)],
}
