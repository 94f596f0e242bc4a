"""Unit noise where a VE run begins: stock pipelines that start like that are warned of, other starts are not."""

import warnings

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline

from scoresde_pipelines import GaussianScoreModel, VESDEScheduler, VPSDEScheduler
from scoresde_pipelines.schedulers.sampling_loop import sampling_loop


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (1, 3, 8, 8), (8, 3, 32, 32)])
@pytest.mark.parametrize("pipeline_class", [DDPMPipeline, DDIMPipeline])
def test_a_stock_pipeline_without_the_prologue_is_warned_of(pipeline_class, shape):
    data = GaussianScoreModel(torch.full(shape[1:], 0.1), 0.01)
    for prologue in (False, True):
        scheduler = VESDEScheduler(sigma_max=50.0, prologue=prologue)
        pipe = pipeline_class(data.network(scheduler).float(), DDIMScheduler())
        pipe.register_modules(scheduler=scheduler)
        pipe.set_progress_bar_config(disable=True)
        for seed in range(10):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                pipe(shape[0], num_inference_steps=2, generator=torch.Generator().manual_seed(seed))
            found = [str(warning.message) for warning in caught if "prologue=True" in str(warning.message)]
            assert len(found) == (0 if prologue else 1)
            assert all("standard deviation 50 at the first step, got unit noise" in message for message in found)


def test_other_starts_are_not_warned_of():
    """Scaled noise, image-to-image, grids that begin at little noise, custom latents, few values, VP, vmap."""
    ve, vp = VESDEScheduler(sigma_max=50.0), VPSDEScheduler()
    noise = torch.randn(200, 1, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def first_step(scheduler, x, index=0):
        output = torch.zeros_like(x)
        scheduler.step(output, scheduler.timesteps[index], x, generator=torch.Generator().manual_seed(1))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for x in noise:
            ve.set_timesteps(4)
            first_step(ve, ve.init_noise_sigma * x)
        for x in (torch.zeros(1, 3, 8, 8), torch.rand(1, 3, 8, 8), 0.5 + 50 * noise[0], noise[0, :, :, :2]):
            ve.set_timesteps(4)
            first_step(ve, x)
        ve.set_timesteps(4)
        ve.set_begin_index(4)
        first_step(ve, noise[0], 4)  # in the middle, where the noise may have any size
        ve.set_timesteps(timesteps=[1.0, 0.5])
        first_step(ve, noise[0])
        vp.set_timesteps(4)
        first_step(vp, noise[0])
        ve.set_timesteps(4)
        torch.func.vmap(lambda x: ve.step(x, 50.0, x).prev_sample, randomness="same")(noise[:1])


def test_a_prologue_refuses_a_state_that_has_its_noise_already():
    """Image-to-image at strength 1 with `prologue=True`: pictures of standard deviation 10 instead of 0.2."""
    for sigma_max in (20.0, 1348.0):
        scheduler = VESDEScheduler(sigma_max=sigma_max, prologue=True)
        scheduler.set_timesteps(4)
        noise = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        x = scheduler.add_noise(torch.zeros_like(noise), noise, scheduler.timesteps[:1])
        with pytest.raises(ValueError, match=r"sample must be unit noise .* make the scheduler with prologue=False"):
            scheduler.step(x, scheduler.timesteps[0], x)
        for unit in (noise, 2 * noise):
            prior = scheduler.step(x, scheduler.timesteps[0], unit).prev_sample
            assert torch.equal(prior, sigma_max * unit)
            scheduler.set_timesteps(4)


def test_a_preconditioned_network_without_scaled_inputs_is_warned_of_once_a_run():
    """DDPMPipeline does not call `scale_model_input`; our loop and stock ones that call it get no warning."""
    data = GaussianScoreModel(torch.full((3, 8, 8), 0.1), 0.04)
    for prediction_type in ("edm", "epsilon"):
        scheduler = VPSDEScheduler(continuous=True, prediction_type=prediction_type, sigma_data=0.3)
        network = data.network(scheduler).float()
        pipe = DDPMPipeline(network, DDIMScheduler())
        pipe.register_modules(scheduler=scheduler)
        pipe.set_progress_bar_config(disable=True)
        for _ in range(2):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                pipe(2, num_inference_steps=5)
            found = [warning for warning in caught if "scale_model_input(sample, timestep)" in str(warning.message)]
            assert len(found) == (1 if prediction_type == "edm" else 0)
    scheduler = VPSDEScheduler(continuous=True, prediction_type="edm", sigma_data=0.3)
    network = data.network(scheduler).float()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for prologue in (False, True):
            scheduler = VPSDEScheduler(continuous=True, prediction_type="edm", sigma_data=0.3, prologue=prologue)
            scheduler.set_timesteps(5)
            x = torch.randn(2, 3, 8, 8)
            for t in scheduler.timesteps:
                x = scheduler.step(network(scheduler.scale_model_input(x, t), t).sample, t, x).prev_sample
            scheduler.set_timesteps(5)
            sampling_loop(scheduler, scheduler.score_fn(network), torch.randn(2, 3, 8, 8))
