"""Training state in safetensors: what is restored is what was saved, to the bit; nothing is executed; NaN is named."""

import collections
import pickle
import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from scoresde_pipelines.training.random_state import get_random_state, set_random_state
from scoresde_pipelines.training.safe_state import check_finite_state, load_state_file, save_state_file


OPTIMIZERS = {
    "AdamW": lambda p: torch.optim.AdamW(p, 0.1),
    "AdamW fused": lambda p: torch.optim.AdamW(p, 0.1, fused=True),
    "AdamW foreach amsgrad": lambda p: torch.optim.AdamW(p, 0.1, foreach=True, amsgrad=True),
    "AdamW, tensor as rate": lambda p: torch.optim.AdamW(p, torch.tensor(0.1), foreach=False),
    "AdamW, two groups": lambda p: torch.optim.AdamW([{"params": p[:1], "lr": 0.01}, {"params": p[1:]}], 0.1),
    "SGD momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "SGD": lambda p: torch.optim.SGD(p, 0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 0.01, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, 0.1),
    "NAdam": lambda p: torch.optim.NAdam(p, 0.1),
    "Rprop": lambda p: torch.optim.Rprop(p, 0.1),
    "Adafactor": lambda p: torch.optim.Adafactor(p, 0.1),
    "ASGD": lambda p: torch.optim.ASGD(p, 0.1),
}


def network():
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.GroupNorm(1, 5), torch.nn.Conv2d(5, 3, 3))
    return layers.to(memory_format=torch.channels_last)


def updates(layers, optimizer, schedule, steps):
    for step in steps:
        x = torch.randn(2, 3, 7, 7, generator=torch.Generator().manual_seed(step))
        layers(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_and_its_schedule_go_on_to_the_bit(name, tmp_path):
    def make():
        layers = network()
        optimizer = OPTIMIZERS[name](list(layers.parameters()))
        return layers, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)

    whole = make()
    updates(*whole, range(5))
    parts = make()
    updates(*parts, range(3))
    for k, part in enumerate(parts):
        save_state_file(tmp_path / str(k), part.state_dict())
    again = make()
    for k, part in enumerate(again):
        part.load_state_dict(load_state_file(tmp_path / str(k)))
    updates(*again, range(3, 5))
    for expected, value in zip(whole[0].parameters(), again[0].parameters()):
        assert torch.equal(expected, value)
    assert whole[2].state_dict() == again[2].state_dict()
    for key, moment in whole[1].state[whole[0][0].weight].items():
        value = again[1].state[again[0][0].weight][key]
        if isinstance(moment, torch.Tensor):
            assert torch.equal(moment, value) and moment.stride() == value.stride()
        else:
            assert moment == value


def test_every_kind_of_value_comes_back_as_it_was(tmp_path):
    big = torch.arange(12.0)
    state = {
        "numbers": [0, -7, 2**70, 0.1, -0.0, 1e-320, float("inf"), True, None, "text", ()],
        1: {"1": torch.tensor(3, dtype=torch.int16)},
        "1": {1: torch.tensor([True, False])},
        "nested": ({"a": [torch.tensor(0.5, dtype=torch.bfloat16)]}, [torch.zeros(0, 3)]),
        "numpy": np.float32(0.5),
        "views": [big[2:5], big[::2], big, big],
        "complex": torch.tensor([1 + 2j]),
    }
    save_state_file(tmp_path / "state", collections.OrderedDict(state))
    back = load_state_file(tmp_path / "state")
    assert list(back) == list(state)
    assert back["numbers"] == state["numbers"] and str(back["numbers"][4]) == "-0.0" and back["numbers"][-1] == ()
    assert back["numpy"] == 0.5 and isinstance(back["nested"], tuple)
    pairs = [
        (state[1]["1"], back[1]["1"]), (state["1"][1], back["1"][1]), (state["complex"], back["complex"]),
        (state["nested"][0]["a"][0], back["nested"][0]["a"][0]), (state["nested"][1][0], back["nested"][1][0]),
        *zip(state["views"], back["views"]),
    ]  # fmt: skip
    for expected, value in pairs:
        assert expected.dtype == value.dtype and expected.shape == value.shape and torch.equal(expected, value)


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", print, torch.float32, {(1, 2): 3}, {True: 1}])
def test_what_would_need_pickle_is_refused_by_name(value, tmp_path):
    with pytest.raises(TypeError, match=r"groups\.0\.value must"):
        save_state_file(tmp_path / "state", {"groups": [{"value": value}]})
    assert not (tmp_path / "state").exists()


class Hostile:
    def __reduce__(self):
        return (pytest.fail, ("code was executed",))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        pickle.dumps(Hostile()),
        "no metadata",
        "not JSON",
        '{"tensor": "missing"}',
        '{"unknown": 1}',
        '{"dict": [[[1], 2]]}',
        '{"dict": 7}',
        "[" * 100_000,
    ],
)
def test_a_damaged_or_hostile_file_is_named_and_not_executed(content, tmp_path):
    path = tmp_path / "optimizer.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        save_file({"a": torch.ones(1)}, path, metadata=None if content == "no metadata" else {"structure": content})
    with pytest.raises(ValueError, match=r"optimizer\.safetensors cannot be read as training state"):
        load_state_file(path)


def test_the_random_state_continues_every_generator(tmp_path):
    def draw():
        return random.random(), np.random.rand(), np.random.randn(), torch.rand(3).tolist(), random.gauss(0, 1)

    draw()  # NumPy and Python keep half of a pair of normal numbers
    save_state_file(tmp_path / "state", get_random_state(torch.device("cpu")))
    expected = draw()
    draw()
    set_random_state(load_state_file(tmp_path / "state"), torch.device("cpu"))
    assert draw() == expected
    with pytest.raises(ValueError, match="the random state of the checkpoint cannot be restored"):
        set_random_state({"python": [3, torch.zeros(2), None]}, torch.device("cpu"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64])
def test_a_tensor_that_is_not_finite_is_named(value, dtype):
    good, bad = torch.ones(3, 4, dtype=dtype), torch.ones(3, 4, dtype=dtype)
    bad[2, 3] = value
    state = {"state": {0: {"step": torch.tensor(1), "exp_avg": good}, 1: {"exp_avg": bad}}, "rate": float("inf")}
    with pytest.raises(FloatingPointError, match=r"^optimizer\.state\.1\.exp_avg is not finite at step 7$"):
        check_finite_state(state, "optimizer", " at step 7")
    bad[2, 3] = 1
    check_finite_state(state, "optimizer")


def test_what_is_not_floating_point_is_finite():
    check_finite_state({"a": torch.tensor([1, 2]), "b": torch.tensor([True]), "c": torch.zeros(0)})
    check_finite_state({"a": torch.ones(2).to(torch.float8_e4m3fn)})
    with pytest.raises(FloatingPointError, match=r"^a is not finite"):
        check_finite_state({"a": torch.tensor([float("nan")]).to(torch.float8_e4m3fn)})


def test_the_file_is_plain_safetensors(tmp_path):
    save_state_file(tmp_path / "state", {"state": {0: {"exp_avg": torch.ones(2)}}})
    assert {name: value.tolist() for name, value in load_file(tmp_path / "state").items()} == {
        "state.0.exp_avg": [1.0, 1.0]
    }
