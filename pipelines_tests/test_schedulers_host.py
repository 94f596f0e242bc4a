"""Our schedulers as guests of diffusers: configurations, stock pipelines and loops, DDPM and DDIM step for step."""

import copy
import inspect
import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, ScoreSdeVeScheduler
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import retrieve_timesteps
from linear_recursions import CLOSED_FORMS, sampled_variance, uniform_levels

from scoresde_pipelines import GaussianScoreModel, SubVPSDEScheduler, VESDEScheduler, VPSDEScheduler


SCHEDULERS = [VESDEScheduler, VPSDEScheduler, SubVPSDEScheduler]
STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def toy_network(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    return 0.9 * torch.tanh(x) + 0.1 * float(timestep) / (1 + float(timestep))


def run(scheduler, x: torch.Tensor, seed: int = 0) -> list[torch.Tensor]:
    generator, states = torch.Generator().manual_seed(seed), []
    for timestep in scheduler.timesteps:
        x = scheduler.step(toy_network(x, timestep), timestep, x, generator=generator).prev_sample
        states.append(x)
    return states


# ---------------------------------------------------------------------- configurations


@pytest.mark.parametrize("scheduler_class", SCHEDULERS)
def test_a_saved_scheduler_steps_like_the_original(scheduler_class, tmp_path):
    config = {
        "predictor": "euler_maruyama",
        "corrector": "langevin",
        "snr": 0.07,
        "correct_steps": 2,
        "sampling_eps": 2e-3,
    }
    scheduler = scheduler_class(**config)
    scheduler.save_pretrained(tmp_path)
    loaded = scheduler_class.from_pretrained(tmp_path)
    assert {key: loaded.config[key] for key in config} == config
    for one in (scheduler, loaded):
        one.set_timesteps(3)
    x = torch.randn(2, 3, 4, 4)
    for ours, theirs in zip(run(scheduler, x), run(loaded, x)):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("scheduler_class", SCHEDULERS)
def test_trained_betas_survive_a_round_trip(scheduler_class, tmp_path):
    scheduler = scheduler_class(trained_betas=np.array([0.1, 0.3]))
    scheduler.save_pretrained(tmp_path)
    loaded = scheduler_class.from_pretrained(tmp_path)
    assert loaded.betas.tolist() == scheduler.betas.tolist() == pytest.approx([0.1, 0.3])
    times = torch.tensor([0.5, 1.0], dtype=torch.float64)
    assert torch.equal(loaded.sde.sigma(times), scheduler.sde.sigma(times))


def test_any_compatible_scheduler_there_and_back_keeps_every_setting():
    config = {"predictor": "exponential", "corrector": "annealed_langevin", "snr": 0.123, "num_train_timesteps": 500}
    scheduler = VPSDEScheduler(**config)
    assert len(scheduler.compatibles) >= 10
    for other in scheduler.compatibles:
        back = VPSDEScheduler.from_config(other.from_config(scheduler.config).config)
        for key, value in scheduler.config.items():
            assert back.config[key] == value, (other.__name__, key)


@pytest.mark.parametrize("scheduler_class", [VESDEScheduler, SubVPSDEScheduler])
@pytest.mark.parametrize("table", [{}, {"trained_betas": [0.1, 0.3], "num_train_timesteps": 2}], ids=["", "table"])
def test_no_stock_scheduler_reads_an_sde_that_is_no_table(scheduler_class, table, tmp_path):
    scheduler = scheduler_class(prediction_type="epsilon", snr=0.07, **table)
    name = scheduler_class.__name__
    assert scheduler.compatibles == [scheduler_class]
    scheduler.save_pretrained(tmp_path)
    for stock in VPSDEScheduler().compatibles:
        if "beta_schedule" in inspect.signature(stock.__init__).parameters:
            with pytest.raises(NotImplementedError, match=f"{name} .no DDPM table. is not"):
                stock.from_pretrained(tmp_path)
            with pytest.raises(NotImplementedError, match=f"{name} .no DDPM table. is not"):
                stock.from_config(scheduler.config)
    for again in (scheduler_class.from_pretrained(tmp_path), scheduler_class.from_config(scheduler.config)):
        for key, value in scheduler.config.items():
            assert key.startswith("_") or again.config[key] == value
        times = torch.tensor([0.5, 1.0], dtype=torch.float64)
        assert torch.equal(again.sde.sigma(times), scheduler.sde.sigma(times))


@pytest.mark.parametrize("source, target", itertools.permutations(SCHEDULERS, 2))
def test_the_configuration_of_another_sde_is_refused(source, target, tmp_path):
    scheduler = source()
    scheduler.save_pretrained(tmp_path)
    if (source, target) == (
        VPSDEScheduler,
        SubVPSDEScheduler,
    ):  # the same beta(t), which a new network may be trained with
        assert target.from_config(scheduler.config).sde.beta_max == pytest.approx(20)
        return
    named = f"config must describe the SDE of a {target.__name__}, got "
    for load in (lambda: target.from_config(scheduler.config), lambda: target.from_pretrained(tmp_path)):
        with pytest.raises(
            ValueError, match=named + (f"that of a {source.__name__}" if source is not VPSDEScheduler else "")
        ):
            load()


def test_compatible_schedulers_have_the_same_betas_in_memory_and_from_a_file(tmp_path):
    scheduler = VPSDEScheduler()  # at its defaults, which are not those of HeunDiscreteScheduler
    scheduler.save_pretrained(tmp_path)
    for stock in scheduler.compatibles:
        if "beta_schedule" in inspect.signature(stock.__init__).parameters:
            for other in (stock.from_config(scheduler.config), stock.from_pretrained(tmp_path)):
                assert (other.config.beta_start, other.config.beta_end, other.config.num_train_timesteps) == (
                    1e-4,
                    0.02,
                    1000,
                )


def test_ddim_pipeline_refuses_a_scheduler_that_it_would_make_a_vp_table_of():
    network = GaussianScoreModel(torch.zeros(1, 4, 4), 0.01).network(VESDEScheduler())
    with pytest.raises(
        NotImplementedError, match=r"VESDEScheduler .no DDPM table. is not implemented for .*DDIMScheduler"
    ):
        DDIMPipeline(network, VESDEScheduler())


def test_stock_configurations_keep_their_noise_schedule():
    for stock in (DDPMScheduler(**STABLE_DIFFUSION), DDIMScheduler(beta_end=0.01), DDPMScheduler()):
        ours = VPSDEScheduler.from_config(stock.config)
        torch.testing.assert_close(ours.alphas_cumprod, stock.alphas_cumprod, rtol=1e-5, atol=0)
        assert type(stock).from_config(ours.config).config.beta_end == stock.config.beta_end
    for stock in (ScoreSdeVeScheduler(), ScoreSdeVeScheduler(sigma_max=380.0, snr=0.075)):
        ours = VESDEScheduler.from_config(stock.config)
        assert (ours.sde.sigma_max, ours.config.snr) == (stock.config.sigma_max, stock.config.snr)


# ---------------------------------------------------------------------- step for step


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("spacing, n", [("linspace", 1000), ("leading", 20), ("trailing", 25)])
def test_ancestral_sampling_is_ddpm(prediction_type, variance_type, spacing, n):
    config = {"prediction_type": prediction_type, "variance_type": variance_type, "timestep_spacing": spacing}
    stock = DDPMScheduler(clip_sample=False, **config, **STABLE_DIFFUSION)
    ours = VPSDEScheduler(predictor="ancestral", **config, **STABLE_DIFFUSION)
    for one in (stock, ours):
        one.set_timesteps(n)
    assert ours.timesteps.tolist() == stock.timesteps.tolist()
    # DDPM's last step goes to the clean image; only with the large variance and a last index above 0 does it add noise
    # there, which ours never does.
    noisy_end = variance_type == "fixed_large" and int(stock.timesteps[-1]) > 0
    for i in [*range(0, n - 1, max(1, n // 20)), *([] if noisy_end else [n - 1])]:
        x, timestep = torch.randn(2, 4, 8, 8), stock.timesteps[i]
        ours._step_index = i
        outputs = [
            one.step(toy_network(x, timestep), timestep, x, generator=torch.Generator().manual_seed(i))
            for one in (stock, ours)
        ]
        scale = float(outputs[0].prev_sample.abs().max())
        torch.testing.assert_close(outputs[1].prev_sample, outputs[0].prev_sample, rtol=1e-4, atol=1e-4 * scale)
        scale = float(outputs[0].pred_original_sample.abs().max())
        torch.testing.assert_close(
            outputs[1].pred_original_sample, outputs[0].pred_original_sample, rtol=1e-3, atol=1e-3 * scale
        )


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("spacing, n", [("leading", 20), ("trailing", 25)])
def test_the_exponential_predictor_is_ddim(prediction_type, spacing, n):
    config = {"prediction_type": prediction_type, "timestep_spacing": spacing}
    stock = DDIMScheduler(clip_sample=False, **config, **STABLE_DIFFUSION)
    ours = VPSDEScheduler(predictor="exponential", **config, **STABLE_DIFFUSION)
    for one in (stock, ours):
        one.set_timesteps(n)
    assert ours.timesteps.tolist() == stock.timesteps.tolist()
    x = torch.randn(2, 4, 8, 8)
    for a, b in zip(run(stock, x), run(ours, x)):
        torch.testing.assert_close(b, a, rtol=2e-4, atol=2e-4 * float(a.abs().max()))


def test_noising_and_velocity_are_ddpm_s():
    stock, ours = DDPMScheduler(**STABLE_DIFFUSION), VPSDEScheduler(**STABLE_DIFFUSION)
    x, noise, timesteps = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.tensor([0, 500, 999])
    torch.testing.assert_close(
        ours.add_noise(x, noise, timesteps), stock.add_noise(x, noise, timesteps), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(
        ours.get_velocity(x, noise, timesteps), stock.get_velocity(x, noise, timesteps), rtol=1e-4, atol=1e-4
    )


# ---------------------------------------------------------------------- stock pipelines


@pytest.mark.parametrize("pipeline_class", [DDPMPipeline, DDIMPipeline])
@pytest.mark.parametrize(
    "name, scheduler",
    [
        ("ve", VESDEScheduler(sigma_max=50.0, prologue=True)),
        ("ve", VESDEScheduler(sigma_max=50.0, prologue=True, predictor="exponential", corrector=None)),
        ("vp", VPSDEScheduler(continuous=True, predictor="reverse_diffusion", corrector="langevin", snr=0.1)),
        ("vp", VPSDEScheduler(continuous=True, predictor="exponential")),
        ("subvp", SubVPSDEScheduler(predictor="ancestral")),
    ],
    ids=["ve", "ve-ode", "vp", "vp-ode", "subvp"],
)
def test_stock_pipelines_sample_gaussian_data(pipeline_class, name, scheduler):
    n, v, config = 40, 0.01, scheduler.config
    data = GaussianScoreModel(torch.full((3, 32, 32), 0.1), v)
    # DDIMPipeline converts schedulers in its constructor.
    pipe = pipeline_class(data.network(scheduler).float(), DDIMScheduler())
    pipe.register_modules(scheduler=scheduler)
    pipe.set_progress_bar_config(disable=True)
    images = pipe(
        batch_size=8, num_inference_steps=n, output_type="np", generator=torch.Generator().manual_seed(0)
    ).images
    x = 2 * images - 1
    levels = uniform_levels(n, config.sampling_eps)
    expected = math.sqrt(
        sampled_variance(CLOSED_FORMS[name], v, levels, config.predictor, config.corrector, config.snr)
    )
    assert float(x.std()) == pytest.approx(expected, rel=4.5 / math.sqrt(2 * x.size) + 5e-3)
    assert float(x.mean()) == pytest.approx(0.1, abs=0.03)


def test_the_prologue_scales_unit_noise_to_the_prior_and_nothing_else():
    scheduler = VESDEScheduler(sigma_max=50.0, prologue=True)
    plain = VESDEScheduler(sigma_max=50.0)
    for one in (scheduler, plain):
        one.set_timesteps(4)
    assert (scheduler.init_noise_sigma, plain.init_noise_sigma) == (1.0, 50.0)
    assert scheduler.timesteps.tolist() == [*plain.timesteps[:1].tolist(), *plain.timesteps.tolist()]
    x = torch.randn(2, 3, 4, 4)
    states = run(scheduler, x)
    assert torch.equal(states[0], 50 * x)
    for a, b in zip(states[1:], run(plain, 50 * x)):
        assert torch.equal(a, b)


# ---------------------------------------------------------------------- loops that begin in the middle


@pytest.mark.parametrize("scheduler_class", SCHEDULERS)
def test_image_to_image_slicing_continues_the_run(scheduler_class):
    scheduler = scheduler_class(corrector="langevin", correct_steps=2, snr=0.05)
    scheduler.set_timesteps(6)
    assert scheduler.order == 3 and len(scheduler.timesteps) == 18
    x, generator, whole = torch.randn(2, 3, 4, 4) * scheduler.init_noise_sigma, torch.Generator().manual_seed(3), []
    for timestep in scheduler.timesteps:
        whole.append((x, generator.get_state()))
        x = scheduler.step(toy_network(x, timestep), timestep, x, generator=generator).prev_sample
    end, start = x, 2
    for begin_index in (start * scheduler.order, None):
        scheduler.set_timesteps(6)
        if begin_index is not None:
            scheduler.set_begin_index(begin_index)
            assert scheduler.begin_index == begin_index and scheduler.step_index is None
        x, state = whole[start * scheduler.order]
        generator.set_state(state)
        for timestep in scheduler.timesteps[start * scheduler.order :]:
            x = scheduler.step(toy_network(x, timestep), timestep, x, generator=generator).prev_sample
        assert torch.equal(x, end) and scheduler.step_index == 18


def test_the_first_of_repeated_timesteps_is_meant():
    scheduler = VPSDEScheduler(corrector="langevin")
    scheduler.set_timesteps(10)
    x = torch.randn(1, 3, 4, 4)
    scheduler.step(x, scheduler.timesteps[6], x)
    assert scheduler.step_index == 7


def test_bars_and_callbacks_of_stable_diffusion_loops_count_levels():
    scheduler = VPSDEScheduler(corrector="langevin", **STABLE_DIFFUSION)
    timesteps, n = retrieve_timesteps(scheduler, 10, device="cpu")
    warmup = len(timesteps) - n * scheduler.order
    updates = [
        i
        for i in range(len(timesteps))
        if i == len(timesteps) - 1 or (i + 1 > warmup and (i + 1) % scheduler.order == 0)
    ]
    assert (n, len(timesteps), len(updates)) == (10, 20, 10)


def test_custom_timesteps_are_the_network_s_noise_levels():
    scheduler = VPSDEScheduler(predictor="exponential")
    timesteps, n = retrieve_timesteps(scheduler, timesteps=[999, 500, 20], device="cpu")
    assert timesteps.tolist() == [999, 500, 20] and n == 3
    assert scheduler.levels.tolist() == pytest.approx([1.0, 0.501, 0.021])
    ve = VESDEScheduler(corrector=None, sigma_max=50.0)
    ve.set_timesteps(timesteps=[50.0, 1.0, 0.02])
    assert ve.timesteps.tolist() == pytest.approx([50.0, 1.0, 0.02], rel=1e-6)


# ---------------------------------------------------------------------- noising


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 3, 8, 8), (4, 2, 3, 4, 5)])
@pytest.mark.parametrize("scheduler_class", SCHEDULERS)
def test_add_noise_takes_any_of_its_own_timesteps_and_any_state_shape(scheduler_class, shape):
    scheduler = scheduler_class()
    scheduler.set_timesteps(20)
    picks = torch.tensor([0, 3, 11, len(scheduler.timesteps) - 1])
    x, noise, timesteps = torch.randn(shape), torch.randn(shape), scheduler.timesteps[picks]
    t = scheduler.levels[picks // scheduler.order]
    alpha, sigma = (
        value.float().reshape(-1, *(1,) * (len(shape) - 1))
        for value in (scheduler.sde.alpha(t), scheduler.sde.sigma(t))
    )
    expected = alpha * x + sigma * noise
    noised = scheduler.add_noise(x, noise, timesteps)
    assert noised.dtype == x.dtype
    torch.testing.assert_close(noised, expected, rtol=1e-5, atol=1e-5)
    one = scheduler.add_noise(x, noise, timesteps[1])
    torch.testing.assert_close(one[1], expected[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scheduler_class", SCHEDULERS)
def test_bfloat16_states_keep_their_dtype_and_single_precision_arithmetic(scheduler_class):
    scheduler = scheduler_class(corrector="langevin", predictor="euler_maruyama")
    scheduler.set_timesteps(4)
    x = (torch.randn(2, 3, 8, 8) * scheduler.init_noise_sigma).bfloat16()
    for timestep in scheduler.timesteps:
        output = toy_network(x.float(), timestep)
        index = scheduler.step_index or 0
        result = scheduler.step(output, timestep, x, generator=torch.Generator().manual_seed(1))
        scheduler._step_index = index
        exact = scheduler.step(output, timestep, x.float(), generator=torch.Generator().manual_seed(1))
        for half, single in zip(result.to_tuple(), exact.to_tuple()):
            assert half.dtype == torch.bfloat16 and single.dtype == torch.float32
            assert torch.equal(half, single.bfloat16())
        x = result.prev_sample


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda scheduler: pickle.loads(pickle.dumps(scheduler))])
@pytest.mark.parametrize("scheduler_class", SCHEDULERS)
def test_a_copy_made_in_the_middle_of_a_run_goes_on_alike(scheduler_class, copy_of):
    scheduler = scheduler_class(corrector="annealed_langevin")
    scheduler.set_timesteps(4)
    x = torch.randn(2, 3, 4, 4)
    for timestep in scheduler.timesteps[:3]:
        x = scheduler.step(toy_network(x, timestep), timestep, x).prev_sample
    twin, ends = copy_of(scheduler), []
    for one in (scheduler, twin):
        state, generator = x, torch.Generator().manual_seed(0)
        for timestep in one.timesteps[3:]:
            state = one.step(toy_network(state, timestep), timestep, state, generator=generator).prev_sample
        ends.append(state)
    assert torch.equal(*ends)


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize("scheduler_class", SCHEDULERS)
def test_misuse_is_named(scheduler_class):
    scheduler = scheduler_class()
    for value in (0, -1, 2.5, True, "ten"):
        with pytest.raises(ValueError, match="num_inference_steps must be an integer"):
            scheduler.set_timesteps(value)
    with pytest.raises(ValueError, match="exactly one of num_inference_steps and timesteps"):
        scheduler.set_timesteps()
    with pytest.raises(ValueError, match="timesteps must decrease"):
        scheduler.set_timesteps(timesteps=scheduler.timesteps.unique().tolist()[:3])
    scheduler.set_timesteps(2)
    x = torch.zeros(1, 3, 4, 4)
    with pytest.raises(ValueError, match="model_output must have the shape of sample"):
        scheduler.step(x[..., :2], scheduler.timesteps[0], x)
    with pytest.raises(ValueError, match="timestep must be one of"):
        scheduler.step(x, 123456.0, x)
    for timestep in scheduler.timesteps:
        scheduler.step(x, timestep, x)
    with pytest.raises(ValueError, match="step was called more than"):
        scheduler.step(x, scheduler.timesteps[-1], x)


@pytest.mark.parametrize("scheduler_class", SCHEDULERS)
@pytest.mark.parametrize(
    "config",
    [
        {"predictor": "euler"},
        {"corrector": "hmc"},
        {"timestep_spacing": "quadratic"},
        {"prediction_type": "noise"},
        {"snr": 0.0},
        {"snr": float("nan")},
        {"correct_steps": 0},
        {"num_train_timesteps": 0},
        {"sampling_eps": 0.0},
        {"sampling_eps": 1.0},
    ],
    ids=str,
)
def test_bad_configurations_name_the_key(scheduler_class, config):
    with pytest.raises(ValueError, match=next(iter(config))):
        scheduler_class(**config)


def test_a_scheduler_needs_a_predictor_or_a_corrector():
    with pytest.raises(ValueError, match="predictor or a corrector"):
        VPSDEScheduler(predictor=None, corrector=None)


def test_integer_noise_levels_are_no_sigmas():
    with pytest.raises(ValueError, match="timesteps must be noise levels"):
        VESDEScheduler().add_noise(torch.zeros(1, 3), torch.zeros(1, 3), torch.tensor([3]))
