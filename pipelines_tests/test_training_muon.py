"""Muon beside AdamW: torch's own steps, convolutions as matrices, what it trains, resumed runs, checkpoints of others."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import UNet2DModel
from PIL import Image
from safetensors.torch import load_file
from test_training_checkpoint_manager import entries_changed
from torch import nn
from two_processes import run_in_two_processes

from scoresde_pipelines.models import NCSNpp
from scoresde_pipelines.training.arguments import parse_args
from scoresde_pipelines.training.ema import ExponentialMovingAverage
from scoresde_pipelines.training.muon import MuonAdamW, hidden_and_others
from scoresde_pipelines.training.posthoc_ema import PowerAverages
from scoresde_pipelines.training.run_report import size_report
from scoresde_pipelines.training.trainer import Trainer


ROOT = Path(__file__).resolve().parents[1]
needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch 2.9 brings Muon")
OPTIONS = {"lr": 1e-2, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}


def gradients(parameters, step):
    generator = torch.Generator().manual_seed(step)
    for parameter in parameters:
        values = torch.randn(parameter.shape, generator=generator)
        strides = (
            torch.channels_last if parameter.ndim == 4 and not parameter.is_contiguous() else torch.contiguous_format
        )
        parameter.grad = values.to(memory_format=strides)


def trained(parameters, optimizers, steps=4):
    for step in range(steps):
        gradients(parameters, step)
        for optimizer in optimizers:
            optimizer.step()
    return parameters


def start(*shapes):
    generator = torch.Generator().manual_seed(7)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


@needs_muon
def test_matrices_take_the_steps_of_torchs_muon_and_the_rest_those_of_its_adamw():
    ours, theirs = start((6, 4), (3, 8), (5,)), start((6, 4), (3, 8), (5,))
    trained(ours, [MuonAdamW(ours[:2], ours[2:], **OPTIONS)])
    muon = torch.optim.Muon(theirs[:2], lr=1e-2, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    trained(theirs, [muon, torch.optim.AdamW(theirs[2:], **OPTIONS)])
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs))


@needs_muon
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_convolution_is_trained_as_the_matrix_of_its_kernels(channels_last):
    matrix, kernel = start((6, 4 * 9), (3,)), start((6, 4, 3, 3), (3,))
    kernel[0].data = matrix[0].detach().clone().view(6, 4, 3, 3)
    if channels_last:
        kernel[0].data = kernel[0].data.to(memory_format=torch.channels_last)
    for parameters in (matrix, kernel):
        trained(parameters, [MuonAdamW(parameters[:1], parameters[1:], **OPTIONS)])
    assert torch.equal(kernel[0].flatten(1), matrix[0])


@needs_muon
def test_the_first_step_replaces_the_singular_values_by_about_one():
    # Newton-Schulz in five steps leaves them between 0.68 and 1.13 (Jordan et al. 2024).
    (weight,) = start((8, 32))
    before, optimizer = weight.detach().clone(), MuonAdamW([weight], start((1,)), lr=1e-2)
    gradients([weight], 0)
    u, _, v = torch.linalg.svd(weight.grad, full_matrices=False)
    optimizer.step()
    step = (before - weight.detach()) / (1e-2 * 0.2 * 32**0.5)
    values = u.T @ step @ v.T
    assert (values.diagonal() - 0.9).abs().max() < 0.25
    assert (values - values.diagonal().diag()).abs().max() < 0.02  # bfloat16


def network():
    return NCSNpp(sample_size=8, block_out_channels=(8, 8), layers_per_block=1, attention_resolutions=(4,),
                  num_class_embeds=3, augment_dim=9)  # fmt: skip


def names(net, chosen):
    ids = {id(parameter) for parameter in chosen}
    return {name for name, parameter in net.named_parameters() if id(parameter) in ids}


def test_muon_trains_the_layers_between_the_images_and_the_embeddings():
    net = network()
    hidden, others = hidden_and_others(net)
    assert names(net, hidden) | names(net, others) == {name for name, _ in net.named_parameters()}
    assert len(hidden) + len(others) == len(list(net.parameters()))
    matrices = {name for name, parameter in net.named_parameters() if parameter.ndim > 1}
    assert matrices - names(net, hidden) == {
        "conv_in.weight", "conv_out.weight", "down_blocks.0.pyramid.conv.weight", "time_embedding.linear_1.weight",
        "time_embedding.linear_2.weight", "class_embedding.weight", "augment_embedding.weight",
    }  # fmt: skip
    unet = UNet2DModel(sample_size=8, block_out_channels=(32, 32), down_block_types=("DownBlock2D",) * 2,
                       up_block_types=("UpBlock2D",) * 2, layers_per_block=1, num_class_embeds=3)  # fmt: skip
    matrices = {name for name, parameter in unet.named_parameters() if parameter.ndim > 1}
    assert {name.split(".")[0] for name in matrices - names(unet, hidden_and_others(unet)[0])} == {
        "conv_in", "conv_out", "time_embedding", "class_embedding",
    }  # fmt: skip


@needs_muon
def test_the_memory_before_the_run_counts_one_moment_of_each_matrix():
    net = network()
    average = ExponentialMovingAverage(net)
    hidden, others = hidden_and_others(net)
    numbers, by_muon = (sum(p.numel() for p in group) for group in (net.parameters(), hidden))
    for optimizer, moments in ((MuonAdamW(hidden, others), 2 * numbers - by_muon),
                               (torch.optim.AdamW(net.parameters()), 2 * numbers)):  # fmt: skip
        text = f"{4 * (3 * numbers + moments) / 1e6:.3g} MB"
        assert size_report(net, average, PowerAverages(net, ()), optimizer).endswith(f"averages take {text}")


def test_a_torch_without_muon_is_named(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(ValueError, match=r"optimizer must be adamw with torch .*, got muon, which needs torch 2\.9"):
        MuonAdamW(*hidden_and_others(network()))


# ------------------------------------------------------------------ a run


@pytest.fixture
def run(tmp_path):
    """`run(folder, *arguments)` trains a small network and returns its trainer."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 8), dtype=np.uint8)
    (tmp_path / "images").mkdir()
    for k, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "images" / f"{k}.png")
    fixed = ["--train_data_dir", str(tmp_path / "images"), "--cache_dir", str(tmp_path / "cache"), "--resolution", "8"]
    fixed += ["--block_out_channels", "8", "8", "--layers_per_block", "1", "--train_batch_size", "4", "--cpu"]
    fixed += ["--attention_resolutions", "4", "--report_to", "none", "--eval_batch_size", "0", "--optimizer", "muon"]

    def words(folder, *arguments):
        return [*fixed, "--output_dir", str(tmp_path / folder), *arguments]

    def trained_run(folder, *arguments):
        AcceleratorState._reset_state(reset_partial_state=True)
        trainer = Trainer(parse_args(words(folder, *arguments)))
        trainer.train()
        trainer.checkpoints.close()
        return trainer

    trained_run.words = words
    yield trained_run
    AcceleratorState._reset_state(reset_partial_state=True)


@needs_muon
def test_a_resumed_run_goes_on_bit_for_bit(run):
    whole = run("whole", "--max_train_steps", "6")
    run("parts", "--max_train_steps", "3", "--checkpointing_steps", "3")
    parts = run("parts", "--max_train_steps", "6", "--resume_from_checkpoint", "latest")
    assert type(parts.optimizer.optimizer) is MuonAdamW and parts.step == 6
    assert all(torch.equal(a, b) for a, b in zip(whole.network.parameters(), parts.network.parameters()))
    state, other = (trainer.optimizer.state_dict()["state"] for trainer in (whole, parts))
    assert state.keys() == other.keys()
    for index, values in state.items():
        assert values.keys() == other[index].keys()
        assert all(torch.equal(values[name], other[index][name]) for name in values)


@needs_muon
def test_a_checkpoint_of_adamw_and_one_without_its_momentum_are_refused(run, tmp_path):
    run("muon", "--max_train_steps", "1", "--checkpointing_steps", "1")
    with pytest.raises(ValueError, match=r"optimizer was 'muon' and is 'adamw'"):
        run("muon", "--max_train_steps", "2", "--resume_from_checkpoint", "latest", "--optimizer", "adamw")
    entries_changed(
        tmp_path / "muon" / "checkpoint-1",
        "optimizer.safetensors",
        lambda structure: json.loads(json.dumps(structure).replace('"momentum_buffer",', '"exp_avg",')),
    )
    with pytest.raises(ValueError, match=r"optimizer\.safetensors.* must have momentum_buffer, got none"):
        run("muon", "--max_train_steps", "2", "--resume_from_checkpoint", "latest")


@needs_muon
def test_two_processes_take_the_steps_of_one(run, tmp_path):
    one = run("one", "--max_train_steps", "3")
    two = run.words("two", "--max_train_steps", "3", "--train_batch_size", "2")
    codes, output = run_in_two_processes([{"module": "train_unconditional", "argv": two}])
    assert codes == [[0, 0]], output
    weights = load_file(tmp_path / "two" / "checkpoint-3" / "unet.safetensors")
    errors = [float((weights[name] - value.detach()).abs().max()) for name, value in one.network.named_parameters()]
    assert max(errors) < 1e-6, max(errors)  # an update moves a weight by up to 2e-4
