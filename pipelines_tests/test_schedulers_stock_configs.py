"""Configurations of ours in stock schedulers: our own time spacings, and `sigmas` where stock code asks for it."""

import inspect
import json

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler

from scoresde_pipelines import SubVPSDEScheduler, VESDEScheduler, VPSDEScheduler
from scoresde_pipelines.schedulers import TIME_GRIDS


OURS = [name for name in TIME_GRIDS if name not in ("linspace", "leading", "trailing")]
TABLE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
STOCK = sorted(VPSDEScheduler().compatibles, key=lambda stock: stock.__name__)  # in one order in every process
SPACED = [stock for stock in STOCK if "timestep_spacing" in inspect.signature(stock.__init__).parameters]


@pytest.mark.parametrize("stock", STOCK, ids=lambda stock: stock.__name__)
@pytest.mark.parametrize("spacing", TIME_GRIDS)
def test_every_compatible_stock_scheduler_takes_every_time_spacing(spacing, stock, tmp_path):
    ours = VPSDEScheduler(timestep_spacing=spacing, snr=0.05, **TABLE)
    assert ours.config.timestep_spacing == spacing
    ours.save_pretrained(tmp_path)
    chosen = {"timestep_spacing": spacing} if stock in SPACED and spacing not in OURS else {}
    usual = stock(**chosen, **(TABLE if stock in SPACED else {}))
    usual.set_timesteps(10)
    for other in (stock.from_config(ours.config), stock.from_pretrained(tmp_path)):
        other.set_timesteps(10)
        # It keeps its own default where it does not know ours.
        assert torch.equal(other.timesteps, usual.timesteps)
        assert VPSDEScheduler.from_config(other.config).config.snr == 0.05
        if stock in SPACED:
            assert other.config.timestep_spacing == usual.config.timestep_spacing


def test_most_compatible_stock_schedulers_have_time_spacings():
    assert len(STOCK) >= 14 and len(SPACED) >= 12


@pytest.mark.parametrize("scheduler_class", [VESDEScheduler, VPSDEScheduler, SubVPSDEScheduler])
@pytest.mark.parametrize("spacing", TIME_GRIDS)
def test_time_spacings_survive_a_config_a_file_and_a_stock_scheduler(spacing, scheduler_class, tmp_path):
    scheduler = scheduler_class(timestep_spacing=spacing)
    scheduler.save_pretrained(tmp_path)
    copies = [scheduler_class.from_config(scheduler.config), scheduler_class.from_pretrained(tmp_path)]
    copies.append(scheduler_class.from_config(copies[0].config))
    if scheduler_class is VPSDEScheduler:
        copies.append(VPSDEScheduler.from_config(EulerDiscreteScheduler.from_config(scheduler.config).config))
    for copy in copies:
        assert copy.config.timestep_spacing == spacing
        copy.set_timesteps(7)
        scheduler.set_timesteps(7)
        assert torch.equal(copy.times, scheduler.times)


def test_a_chosen_time_spacing_replaces_ours():
    ours = VPSDEScheduler(timestep_spacing="log_snr")
    assert VPSDEScheduler.from_config(ours.config, timestep_spacing="karras").config.timestep_spacing == "karras"
    linear = VPSDEScheduler.from_config(ours.config, timestep_spacing="linspace")
    assert linear.config.timestep_spacing == "linspace"
    assert VPSDEScheduler.from_config(linear.config).config.timestep_spacing == "linspace"
    stock = DDPMScheduler.from_config(ours.config, timestep_spacing="trailing")
    assert VPSDEScheduler.from_config(stock.config).config.timestep_spacing == "trailing"


def test_files_of_earlier_releases_are_read(tmp_path):
    VPSDEScheduler().save_pretrained(tmp_path)
    file = tmp_path / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"timestep_spacing": "karras"}))
    assert VPSDEScheduler.from_pretrained(tmp_path).config.timestep_spacing == "karras"


def test_sigmas_are_those_of_euler():
    ours, stock = VPSDEScheduler(timestep_spacing="trailing"), EulerDiscreteScheduler(timestep_spacing="trailing")
    for one in (ours, stock):
        one.set_timesteps(20)
    assert ours.timesteps.tolist() == stock.timesteps.tolist()
    torch.testing.assert_close(ours.sigmas, stock.sigmas, rtol=1e-4, atol=0)
    assert stock.sigmas[-1] == 0


def test_sigmas_have_an_entry_for_every_network_call():
    scheduler = VESDEScheduler(corrector="langevin", sigma_max=50.0)
    scheduler.set_timesteps(3)
    sigmas = [50.0, 50.0, 0.7072, 0.7072, 0.0100, 0.0100, 0.0]
    assert scheduler.sigmas.tolist() == pytest.approx(sigmas, rel=1e-3)
    assert scheduler.sigmas[:-1].tolist() == scheduler.timesteps.tolist()


def test_ddim_pipelines_convert_a_scheduler_with_a_spacing_of_ours():
    ddim = DDIMScheduler.from_config(VPSDEScheduler(timestep_spacing="karras", beta_schedule="scaled_linear").config)
    ddim.set_timesteps(4)
    assert ddim.config.beta_schedule == "scaled_linear" and ddim.timesteps.tolist() == [750, 500, 250, 0]
