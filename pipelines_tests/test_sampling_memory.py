"""Sampling keeps a constant number of images alive, however many steps it takes."""

import gc

import pytest
import torch

from scoresde_pipelines import DDPMpp, NCSNpp, ScoreSdePipeline, VESDEScheduler, VPSDEScheduler


SHAPE = (4, 3, 24, 24)


@pytest.mark.parametrize("predictor", ["reverse_diffusion", "exponential"])
@pytest.mark.parametrize("scheduler", [VESDEScheduler, VPSDEScheduler])
def test_images_alive_do_not_grow_with_the_steps(scheduler, predictor):
    network = {VESDEScheduler: NCSNpp, VPSDEScheduler: DDPMpp}[scheduler](
        block_out_channels=(4,), layers_per_block=1, sample_size=SHAPE[-1]
    )
    pipe = ScoreSdePipeline(network, scheduler(predictor=predictor))
    pipe.set_progress_bar_config(disable=True)
    alive = []

    def count(pipe, index, timestep, kwargs):
        alive.append(sum(type(item) is torch.Tensor and item.shape == SHAPE for item in gc.get_objects()))
        return {}

    pipe(batch_size=SHAPE[0], num_inference_steps=30, callback_on_step_end=count, output_type="pt")
    assert len(alive) == 30 * pipe.scheduler.order
    assert max(alive[2:]) == min(alive[2:]) <= 4
