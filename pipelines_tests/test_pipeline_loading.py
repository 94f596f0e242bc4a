"""The one resolver of model names, complete weights, class names, and a scheduler of a user's own through every folder."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel
from diffusers.configuration_utils import register_to_config
from safetensors.torch import load as read_tensors
from safetensors.torch import save_file

import scoresde_pipelines
from scoresde_pipelines import (
    SDE,
    NCSNpp,
    ScoreSdeLikelihoodPipeline,
    ScoreSdePipeline,
    SDEScheduler,
    VESDEScheduler,
    shipped,
)
from scoresde_pipelines.training.model_names import HubName, ModelNotFoundError, locate, resolve_pipeline
from scoresde_pipelines.training.pipeline_folder import save_pipeline_folder
from scoresde_pipelines.training.pipeline_loading import Components, load_pipeline_folder


TINY = {"sample_size": 8, "block_out_channels": (8, 8), "layers_per_block": 1, "attention_resolutions": ()}


class PowerSDE(SDE):
    def __init__(self, power: float):
        self.power = power

    def alpha(self, t):
        return torch.ones_like(t)

    def sigma(self, t):
        return t**self.power


class PowerScheduler(SDEScheduler):
    """A user's own SDE with a parameter of its own."""

    @register_to_config
    def __init__(
        self,
        power: float = 2.0,
        num_train_timesteps: int = 1000,
        prediction_type: str = "epsilon",
        predictor: str | None = "reverse_diffusion",
        corrector: str | None = None,
        snr: float = 0.16,
        correct_steps: int = 1,
        batch_mean_norm: bool = False,
        sampling_eps: float = 1e-3,
        timestep_spacing: str = "linspace",
        prologue: bool = False,
    ):
        self.setup()

    def make_sde(self):
        return PowerSDE(self.config.power)


def network() -> NCSNpp:
    torch.manual_seed(0)
    return NCSNpp(**TINY).eval()


def draw(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe(2, 3, generator=torch.Generator().manual_seed(0), output_type="pt").images


# ---------------------------------------------------------------------- names


def test_a_name_is_a_folder_a_shipped_pipeline_or_a_hub_id(tmp_path):
    name = shipped()[0]
    assert resolve_pipeline(tmp_path) == tmp_path
    assert resolve_pipeline(name) == Path(shipped(name))
    with pytest.raises(ValueError, match="model must be a shipped name, a folder or a Hub id, got 'not a/hub/id'"):
        resolve_pipeline("not a/hub/id")
    assert locate("someone/model@v1") == HubName("someone/model", "v1") and locate("someone/model").revision is None
    components = load_pipeline_folder(name)
    for key, value in ScoreSdePipeline.from_pretrained(name).unet.state_dict().items():
        assert torch.equal(components.unet.state_dict()[key], value)


class Named(os.PathLike):
    """A path of another class than pathlib's."""

    def __init__(self, path):
        self.path = str(path)

    def __fspath__(self):
        return self.path


def test_every_path_is_a_name_and_one_that_no_file_system_takes_is_refused(tmp_path):
    assert resolve_pipeline(Named(tmp_path)) == tmp_path
    with pytest.raises(ValueError, match=r"got '.*none': there is no such folder"):
        locate(Named("none"))
    with pytest.raises(ValueError, match=r"model must be a shipped name, a folder or a Hub id, got 'x+': .*too long"):
        locate("x" * 5000)


def test_a_local_folder_comes_before_a_shipped_name(tmp_path, monkeypatch):
    name = shipped()[0]
    ScoreSdePipeline(network(), VESDEScheduler(sigma_max=7.0)).save_pretrained(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert load_pipeline_folder(name).scheduler.sde.sigma_max == 7.0
    assert ScoreSdePipeline.from_pretrained(name).scheduler.sde.sigma_max == 7.0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "./nofolder",
            r"model must be a shipped name, a folder or a Hub id, got './nofolder': there is no such folder",
        ),
        (Path("nofolder"), "got 'nofolder': there is no such folder"),
        ("/nowhere/at/all", "got '/nowhere/at/all': there is no such folder"),
        ("emoji-32-ve@v2", "model must have no revision where it is shipped, got 'emoji-32-ve@v2'"),
        ("someone/model@", "got 'someone/model@'"),
        ("", "got ''"),
    ],
)
def test_a_name_without_a_model_is_named(name, message):
    for load in (ScoreSdePipeline.from_pretrained, load_pipeline_folder):
        with pytest.raises(ModelNotFoundError, match=message) as found:
            load(name)
        assert isinstance(found.value, OSError) and isinstance(found.value, ValueError)


def test_a_file_and_a_second_revision_are_refused(tmp_path):
    (tmp_path / "model").write_text("")
    with pytest.raises(ModelNotFoundError, match="which is a file"):
        ScoreSdePipeline.from_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="revision must be the one of the name, 'v1', got 'v2'"):
        ScoreSdePipeline.from_pretrained("someone/model@v1", revision="v2")


# ---------------------------------------------------------------------- a scheduler of one's own


def test_a_scheduler_of_one_s_own_comes_back_with_its_parameter(tmp_path):
    pipe = ScoreSdePipeline(network(), PowerScheduler(power=3.0, corrector="langevin"), data_min=-2.0, data_max=2.0)
    pipe.save_pretrained(tmp_path / "pipeline")
    components = Components(pipe.unet, pipe.scheduler, (-2.0, 2.0))
    save_pipeline_folder(tmp_path / "training", components, "# card\n")
    for folder in ("pipeline", "training"):
        index = json.loads((tmp_path / folder / "model_index.json").read_text())
        assert index["scheduler"] == ["scoresde_pipelines", "PowerScheduler"]
        loaded = ScoreSdePipeline.from_pretrained(tmp_path / folder)
        trained = load_pipeline_folder(tmp_path / folder)
        for scheduler in (loaded.scheduler, trained.scheduler):
            assert type(scheduler) is PowerScheduler and scheduler.sde.power == 3.0
            assert scheduler.config.corrector == "langevin"
        assert trained.data_range == (loaded.config.data_min, loaded.config.data_max) == (-2.0, 2.0)
        assert torch.equal(draw(loaded), draw(pipe))


def test_an_assigned_scheduler_of_one_s_own_is_saved_as_well(tmp_path):
    pipe = ScoreSdeLikelihoodPipeline(network(), VESDEScheduler(sigma_max=7.0))
    pipe.scheduler = PowerScheduler(power=1.5)
    pipe.save_pretrained(tmp_path)
    assert ScoreSdeLikelihoodPipeline.from_pretrained(tmp_path).scheduler.sde.power == 1.5


def test_without_its_module_the_error_says_what_to_import(tmp_path):
    ScoreSdePipeline(network(), PowerScheduler()).save_pretrained(tmp_path)
    code = """
        import sys
        from scoresde_pipelines import ScoreSdePipeline
        from scoresde_pipelines.training.pipeline_loading import load_pipeline_folder
        for load in (ScoreSdePipeline.from_pretrained, load_pipeline_folder):
            try:
                load(sys.argv[1])
            except ValueError as error:
                print(error)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=Path(scoresde_pipelines.__file__).parents[1],
    )
    message = "'PowerScheduler' must be an imported subclass of SDEScheduler: import the module that defines it first"
    assert result.stdout.splitlines() == [message] * 2, result.stderr
    with pytest.raises(AttributeError, match="module 'scoresde_pipelines' has no attribute 'NoScheduler'"):
        scoresde_pipelines.NoScheduler  # noqa: B018


# ---------------------------------------------------------------------- folders


def test_training_and_pipeline_convert_a_stock_scheduler_alike(tmp_path):
    unet = UNet2DModel(
        sample_size=8, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), add_attention=False,
    )  # fmt: skip
    for k, scheduler in enumerate((DDPMScheduler(beta_end=0.01), DPMSolverMultistepScheduler(solver_order=3))):
        DDPMPipeline(unet, scheduler).save_pretrained(tmp_path / str(k))
        first, second = (
            load_pipeline_folder(tmp_path / str(k)).scheduler,
            ScoreSdePipeline.from_pretrained(tmp_path / str(k)).scheduler,
        )
        drop = ("_use_default_values", "_class_name", "_diffusers_version", "_name_or_path")
        configs = [{key: v for key, v in one.config.items() if key not in drop} for one in (first, second)]
        assert configs[0] == configs[1] and torch.equal(first.timesteps, second.timesteps)


def test_a_folder_with_a_missing_tensor_is_refused(tmp_path):
    ScoreSdePipeline(network(), VESDEScheduler(sigma_max=7.0)).save_pretrained(tmp_path)
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights = read_tensors(file.read_bytes())  # `load_file` would map the file that is written next
    del weights["conv_in.bias"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"must hold every tensor of NCSNpp, got none for \['conv_in.bias'\]"):
        load_pipeline_folder(tmp_path)


def test_names_of_classes_are_kept_in_the_index(tmp_path):
    names = ["boot", "bag", "coat"]
    components = Components(network(), VESDEScheduler(sigma_max=7.0), (0.0, 1.0), names)
    save_pipeline_folder(tmp_path, components, "# card\n")
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["id2label"] == {"0": "boot", "1": "bag", "2": "coat"}
    assert load_pipeline_folder(tmp_path).class_names == names
    pipe = ScoreSdePipeline(components.unet, components.scheduler)
    assert torch.equal(draw(ScoreSdePipeline.from_pretrained(tmp_path)), draw(pipe))
    index["id2label"] = {"0": "boot", "2": "coat"}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"id2label must name the classes 0..1, got \[0, 2\]"):
        load_pipeline_folder(tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"unet": "NCSNpp"}, "must name a library and a class under 'unet', got 'NCSNpp'"),
        ({"unet": ["os", "system"]}, "the class of a network must be one of .*, got 'system'"),
        ({"data_min": 1.0, "data_max": 1.0}, r"must hold a finite data_min < data_max, got \(1.0, 1.0\)"),
        ({"data_max": float("inf")}, "must hold a finite data_min < data_max"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_an_index_that_is_wrong_is_named(change, message, tmp_path):
    ScoreSdePipeline(network(), VESDEScheduler(sigma_max=7.0)).save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps({**index, **change}))
    with pytest.raises(ValueError, match=message):
        load_pipeline_folder(tmp_path)


@pytest.mark.parametrize("stock", [True, False])
def test_pipelines_refuse_missing_and_integer_weights(stock, tmp_path):
    unet = network()
    if stock:
        unet = UNet2DModel(
            8, 1, 1, block_out_channels=(4, 4), norm_num_groups=2, down_block_types=("DownBlock2D",) * 2,
            up_block_types=("UpBlock2D",) * 2, layers_per_block=1,
        )  # fmt: skip
    scheduler = DDPMScheduler() if stock else VESDEScheduler()
    ScoreSdePipeline(unet, scheduler).save_pretrained(tmp_path)
    path = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights = read_tensors(path.read_bytes())  # `load_file` would map the file that is written next
    first = min(weights)
    save_file({name: value for name, value in weights.items() if name != first}, path)
    for load in (ScoreSdePipeline.from_pretrained, load_pipeline_folder):
        with pytest.raises(ValueError, match=first.replace(".", r"\.")):
            load(tmp_path)
    save_file({**weights, first: weights[first].to(torch.int32)}, path)
    for load in (ScoreSdePipeline.from_pretrained, load_pipeline_folder):
        with pytest.raises(ValueError, match=rf"must be floating-point numbers, got I32 for {first} \(1 in all\)"):
            load(tmp_path)


@pytest.mark.parametrize(
    "text, message",
    [
        ("[]", "must hold an object, got list"),
        ("null", "must hold an object, got NoneType"),
        ("{", "it is not JSON"),
        ("[" * 100_000, "it is not JSON: maximum recursion depth"),
    ],
    ids=["list", "null", "cut", "deep"],
)
@pytest.mark.parametrize("name", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"])
def test_a_damaged_file_of_json_is_named(name, text, message, tmp_path):
    ScoreSdePipeline(network(), VESDEScheduler()).save_pretrained(tmp_path)
    (tmp_path / name).write_text(text)
    for load in (ScoreSdePipeline.from_pretrained, load_pipeline_folder):
        with pytest.raises(ValueError, match=rf"{name} is damaged.*{message}"):
            load(tmp_path)


@pytest.mark.parametrize("entry", [None, [], "x", ["a"], [1, 2]])
def test_an_index_without_a_class_is_named(entry, tmp_path):
    ScoreSdePipeline(network(), VESDEScheduler()).save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps({**index, "scheduler": entry}))
    with pytest.raises(ValueError, match=r"model_index\.json must name a library and a class under 'scheduler'"):
        ScoreSdePipeline.from_pretrained(tmp_path)


def test_an_index_without_a_pipeline_s_class_or_of_shards_without_names_is_named(tmp_path):
    ScoreSdePipeline(network(), VESDEScheduler()).save_pretrained(tmp_path)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    (tmp_path / "unet" / f"{weights.name}.index.json").write_text('{"weight_map": 5}')
    for load in (ScoreSdePipeline.from_pretrained, load_pipeline_folder):
        with pytest.raises(ValueError, match=r"index\.json must hold the files of all tensors under 'weight_map'"):
            load(tmp_path)
    (tmp_path / "unet" / f"{weights.name}.index.json").unlink()
    index = json.loads((tmp_path / "model_index.json").read_text())
    del index["_class_name"]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"model_index\.json must name a class under '_class_name', got none"):
        ScoreSdePipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize("component", ["unet", "scheduler"])
def test_a_pipeline_does_not_choose_what_is_imported(component, tmp_path, monkeypatch):
    ScoreSdePipeline(network(), VESDEScheduler()).save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps({**index, component: ["hostile_module", "Hostile"]}))
    (tmp_path / "hostile_module.py").write_text("raise SystemExit('code was executed')")
    monkeypatch.chdir(tmp_path)  # the working folder is on the path of notebooks and of `python -m`
    monkeypatch.syspath_prepend("")
    with pytest.raises(ValueError, match=rf"must name an imported library under '{component}', got 'hostile_module'"):
        ScoreSdePipeline.from_pretrained(tmp_path)


def test_complex_weights_are_refused_and_training_refuses_those_that_are_not_finite(tmp_path):
    ScoreSdePipeline(network(), VESDEScheduler()).save_pretrained(tmp_path)
    path = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights = read_tensors(path.read_bytes())
    name = min(weights)
    save_file({**weights, name: weights[name].to(torch.complex64)}, path)
    for load in (ScoreSdePipeline.from_pretrained, load_pipeline_folder):
        with pytest.raises(ValueError, match=rf"must be floating-point numbers, got C64 for {name} \(1 in all\)"):
            load(tmp_path)
    save_file({**weights, name: weights[name] * float("nan")}, path)
    with pytest.raises(ValueError, match=rf"the weights in \S+ must be finite: unet\.{name} is not finite"):
        load_pipeline_folder(tmp_path)
