"""Arguments given by position survive `from_config`; diffusers marks them as defaults, which it drops."""

import pytest

from scoresde_pipelines import DDPMpp, NCSNpp, SubVPSDEScheduler, VESDEScheduler, VPSDEScheduler
from scoresde_pipelines.models import NoiseConditionalClassifier
from scoresde_pipelines.models.class_conditioning import with_classes


@pytest.mark.parametrize("kind", [VESDEScheduler, VPSDEScheduler, SubVPSDEScheduler])
def test_those_of_a_scheduler(kind):
    scheduler = kind(500)
    assert kind.from_config(scheduler.config).config.num_train_timesteps == 500


@pytest.mark.parametrize("kind", [NCSNpp, DDPMpp])
def test_those_of_a_network(kind):
    network = kind(8, 1, 1, block_out_channels=(8, 8), layers_per_block=1, attention_resolutions=())
    config = kind.from_config(network.config).config
    assert (config.sample_size, config.in_channels, config.out_channels) == (8, 1, 1)
    assert with_classes(network, 3).config.in_channels == 1


def test_those_of_a_classifier():
    classifier = NoiseConditionalClassifier(1, 3, 10, 1)
    config = NoiseConditionalClassifier.from_config(classifier.config).config
    assert (config.in_channels, config.num_classes, config.depth) == (1, 3, 10)
