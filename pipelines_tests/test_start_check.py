"""Unit noise where a VE run begins: stock pipelines that start like that are warned of, other starts are not."""

import warnings

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline

from scoresde_pipelines import GaussianScoreModel, VESDEScheduler, VPSDEScheduler


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
