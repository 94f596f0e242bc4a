"""The training script from end to end on eight-pixel images: resuming, fine-tuning, launching, publishing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from PIL import Image
from safetensors.torch import load_file

from scoresde_pipelines import ScoreSdePipeline, SubVPSDEScheduler, VESDEScheduler, VPSDEScheduler
from scoresde_pipelines.cli import app
from scoresde_pipelines.training import pipeline_folder, train_classifier, train_unconditional
from scoresde_pipelines.training.arguments import parse_args
from scoresde_pipelines.training.components import build_components
from scoresde_pipelines.training.data import to_uint8
from scoresde_pipelines.training.model_card import command_line
from scoresde_pipelines.training.safe_state import load_state_file
from scoresde_pipelines.training.trainer import Trainer


ROOT = Path(__file__).resolve().parents[1]
SIZE = ["--block_out_channels", "8", "8", "--layers_per_block", "1", "--attention_resolutions", "4"]
QUICK = ["--resolution", "8", "--train_batch_size", "4", "--lr_warmup_steps", "0", "--eval_batch_size", "0"]
QUIET = ["--report_to", "none", "--cpu"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Ten 8 x 8 RGB images in a folder."""
    folder = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)
    for k, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{k}.png")
    return folder


@pytest.fixture
def train(images, tmp_path):
    """Runs the script in this process: `train(output_name, *arguments) -> output folder`."""

    def run(name, *arguments):
        AcceleratorState._reset_state(reset_partial_state=True)
        output = tmp_path / name
        data = ["--train_data_dir", str(images), "--cache_dir", str(tmp_path / "cache")]
        train_unconditional.main([*data, "--output_dir", str(output), *QUICK, *QUIET, *arguments])
        return output

    yield run
    AcceleratorState._reset_state(reset_partial_state=True)


def assert_equal_checkpoints(first, second):
    for name in ("unet.safetensors", "unet_ema.safetensors"):
        ours, theirs = load_file(first / name), load_file(second / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    ours, theirs = (load_state_file(folder / "optimizer.safetensors")["state"] for folder in (first, second))
    assert all(torch.equal(ours[k][name], theirs[k][name]) for k in ours for name in ("exp_avg", "exp_avg_sq"))
    ours, theirs = (load_state_file(folder / "lr_scheduler.safetensors") for folder in (first, second))
    assert ours == theirs


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(train, tmp_path):
    # Mid-epoch (10 images, 8 per update), with everything that draws random numbers, in mixed precision.
    options = ["--sde", "ve", *SIZE, "--dropout", "0.2", "--random_flip", "--gradient_accumulation_steps", "2"]
    options += ["--max_train_steps", "4", "--mixed_precision", "bf16", "--lr_scheduler", "cosine"]
    whole = train("whole", *options, "--checkpointing_steps", "2", "--checkpoints_total_limit", "2")
    resumed = tmp_path / "resumed"
    shutil.copytree(whole / "checkpoint-2", resumed / "checkpoint-2")
    shutil.copytree(whole / "checkpoint-4", resumed / "checkpoint-3")
    (resumed / "checkpoint-3" / "unet.safetensors").write_bytes(b"cut off")
    train("resumed", *options, "--checkpointing_steps", "3", "--resume_from_checkpoint", "latest")
    assert_equal_checkpoints(whole / "checkpoint-4", resumed / "checkpoint-4")
    assert sorted(path.name for path in whole.glob("*checkpoint*")) == ["checkpoint-2", "checkpoint-4"]
    # The last checkpoint is of the end although 4 is no multiple of 3.
    assert (resumed / "checkpoint-4" / "trainer_state.json").exists()


@pytest.mark.parametrize(
    "sde, scheduler", [("ve", VESDEScheduler), ("vp", VPSDEScheduler), ("subvp", SubVPSDEScheduler)]
)
def test_the_output_is_a_pipeline_that_draws_the_sample_grid(train, sde, scheduler):
    output = train(
        "run", "--sde", sde, *SIZE, "--max_train_steps", "1", "--eval_batch_size", "3", "--num_inference_steps", "4"
    )
    pipeline = ScoreSdePipeline.from_pretrained(output)
    pipeline.set_progress_bar_config(disable=True)
    assert type(pipeline.scheduler) is scheduler
    ema = load_file(output / "checkpoint-1" / "unet_ema.safetensors")
    assert all(torch.equal(ema[key], value) for key, value in pipeline.unet.state_dict().items())
    generators = [torch.Generator().manual_seed(k) for k in range(3)]
    drawn = pipeline(batch_size=3, num_inference_steps=4, generator=generators, output_type="pt").images
    grid = np.asarray(Image.open(output / "samples" / "00000001.png"))[::2, ::2]
    for k, image in enumerate(to_uint8(drawn, (0.0, 1.0)).permute(0, 2, 3, 1).numpy()):
        top, left = k // 2 * 10, k % 2 * 10
        assert np.abs(grid[top : top + 8, left : left + 8].astype(int) - image).max() <= 1


def test_fine_tuning_starts_from_the_pretrained_weights(train):
    first = train("first", "--sde", "ve", "--sigma_max", "7", *SIZE, "--max_train_steps", "1")
    pretrained = ["--pretrained_model_name_or_path", str(first)]
    second = train("second", *pretrained, "--max_train_steps", "1", "--learning_rate", "0")
    ours, theirs = (load_file(folder / "unet" / "diffusion_pytorch_model.safetensors") for folder in (first, second))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert ScoreSdePipeline.from_pretrained(second).scheduler.config.sigma_max == 7
    with pytest.raises(ValueError, match="sde must be that of the pretrained network, VESDEScheduler, got vp"):
        train("third", *pretrained, "--sde", "vp", "--max_train_steps", "1")
    with pytest.raises(ValueError, match="channels must be the network's, 3, got 1"):
        train("fourth", *pretrained, "--channels", "1", "--max_train_steps", "1")


def test_a_stock_ddpm_pipeline_can_be_fine_tuned(train, tmp_path):
    unet = UNet2DModel(
        sample_size=8, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), add_attention=False,
    )  # fmt: skip
    DDPMPipeline(unet, DDPMScheduler(beta_end=0.01)).save_pretrained(tmp_path / "stock")
    options = ["--max_train_steps", "1", "--learning_rate", "0"]
    output = train("tuned", "--pretrained_model_name_or_path", str(tmp_path / "stock"), *options)
    tuned = ScoreSdePipeline.from_pretrained(output)
    assert type(tuned.unet) is UNet2DModel and type(tuned.scheduler) is VPSDEScheduler
    assert tuned.scheduler.config.beta_end == 0.01
    assert all(torch.equal(value, tuned.unet.state_dict()[key]) for key, value in unet.state_dict().items())


@pytest.mark.parametrize("sde, default", [("ve", "score"), ("vp", "epsilon"), ("subvp", "epsilon")])
def test_network_and_scheduler_follow_the_arguments(sde, default):
    arguments = ["--train_data_dir", "images", "--sde", sde, "--resolution", "8", *SIZE, "--snr", "0.1"]
    built = build_components(parse_args([*arguments, "--network", "ncsnpp"]), image_channels=1)
    assert built.scheduler.config.prediction_type == default and built.scheduler.config.snr == 0.1
    assert built.unet.config.time_embedding_type == ("fourier" if sde == "ve" else "positional")
    assert built.unet.config.in_channels == 1 and tuple(built.unet.config.block_out_channels) == (8, 8)
    assert built.data_range == ((0.0, 1.0) if sde == "ve" else (-1.0, 1.0))
    changed = build_components(parse_args([*arguments, "--prediction_type", "v_prediction"]), image_channels=3)
    assert changed.scheduler.config.prediction_type == "v_prediction" and changed.unet.config.in_channels == 3


def test_a_new_network_has_the_configuration_of_a_model_but_its_own_weights(tmp_path):
    shipped = ScoreSdePipeline.from_pretrained("fashion-mnist-32-vp")
    shipped.save_pretrained(tmp_path / "copy")
    arguments = ["--train_data_dir", "images", "--sde", "vp", "--resolution", "32", "--model_config_name_or_path"]
    for name in ("fashion-mnist-32-vp", str(tmp_path / "copy"), str(tmp_path / "copy" / "unet")):
        unet = build_components(parse_args([*arguments, name]), 1, class_names=[str(k) for k in range(10)]).unet
        for key, value in shipped.unet.config.items():
            assert key.startswith("_") or unet.config[key] == value, key
        assert not torch.equal(unet.conv_in.weight, shipped.unet.conv_in.weight)
    with pytest.raises(ValueError, match=r"model must be a shipped name, a folder or a Hub id, got './nowhere'"):
        build_components(parse_args([*arguments, "./nowhere"]), 1)


def test_a_pipeline_that_is_not_there_is_named(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"model must be a shipped name, a folder or a Hub id, got '.*nowhere': there is no such folder",
    ):
        pipeline_folder.load_pipeline_folder(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"is not a pipeline: it has no model_index.json"):
        pipeline_folder.load_pipeline_folder(str(tmp_path))


def launch(*command, **environment):
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_it_runs_by_path_and_by_accelerate_launch(images, tmp_path):
    options = ["--train_data_dir", str(images), "--cache_dir", str(tmp_path / "cache"), *QUICK, *QUIET, *SIZE]
    options += ["--max_train_steps", "1"]
    script = str(ROOT / "training" / "train_unconditional.py")
    module = "scoresde_pipelines.training.train_unconditional"
    by_path = launch(script, *options, "--output_dir", str(tmp_path / "path"))
    assert by_path.returncode == 0, by_path.stderr
    accelerate = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "-m", module]
    by_module = launch(*accelerate, *options, "--output_dir", str(tmp_path / "module"), PYTHONPATH=str(ROOT))
    assert by_module.returncode == 0, by_module.stderr
    assert_equal_checkpoints(tmp_path / "path" / "checkpoint-1", tmp_path / "module" / "checkpoint-1")


def test_two_processes_save_both_states_and_one_process_resumes(images, train, tmp_path):
    options = ["--train_data_dir", str(images), "--cache_dir", str(tmp_path / "cache"), *QUICK, *QUIET, *SIZE]
    output = tmp_path / "two"
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    torchrun += ["-m", "scoresde_pipelines.training.train_unconditional"]
    both = launch(*torchrun, *options, "--max_train_steps", "1", "--output_dir", str(output), PYTHONPATH=str(ROOT))
    assert both.returncode == 0, both.stderr
    states = [load_state_file(output / "checkpoint-1" / f"process_{k}.safetensors")["random"] for k in range(2)]
    assert not torch.equal(states[0]["torch"], states[1]["torch"])
    # The gradients are those of one process with the images, times and noise of both.
    one = train("one", *SIZE, "--max_train_steps", "1", "--train_batch_size", "8")
    ours, theirs = (load_state_file(run / "checkpoint-1" / "optimizer.safetensors")["state"] for run in (one, output))
    for key, state in ours.items():
        torch.testing.assert_close(theirs[key]["exp_avg"], state["exp_avg"], rtol=1e-4, atol=1e-7)
    train("two", *SIZE, "--max_train_steps", "2", "--resume_from_checkpoint", "latest")
    state = Trainer(
        parse_args(
            ["--train_data_dir", str(images), "--cache_dir", str(tmp_path / "cache"), *QUICK, *QUIET, *SIZE,
             "--output_dir", str(output), "--resume_from_checkpoint", "latest"]
        )
    )  # fmt: skip
    assert (state.step, state.images_seen, state.ema.num_updates) == (2, 8 + 4, 2)


@pytest.mark.parametrize("script", ["train", "train_unconditional", "train_classifier"])
@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--train_data_dir", "nowhere"], "train_data_dir must be an existing folder or file, got 'nowhere'"),
        (["--train_data_dir", "empty"], "train_data_dir must hold images or parquet files, 'empty' has none"),
        (["--train_data_dir", "IMAGES", "--image_column", "photo"], "photo"),
        (["--train_data_dir", "IMAGES", "--label_column", "kind", "--class_conditional"], "kind"),
        (["--train_data_dir", "IMAGES", "--split", "test"], "test"),
        (["--train_data_dir", "IMAGES", "--pretrained_model_name_or_path", "./none"], "there is no such folder"),
        (["--train_data_dir", "broken"], "broken.png"),
        (["--train_data_dir", "IMAGES", "--output_dir", "file"], "file"),
        (["--train_data_dir", "IMAGES", "--output_dir", "IMAGES"], "output_dir must be another folder"),
    ],
    ids=["data", "empty", "image-column", "label-column", "split", "pretrained", "broken", "output", "inside"],
)  # fmt: skip
def test_what_a_user_gets_wrong_is_one_line_and_code_2(
    script, arguments, message, images, tmp_path, monkeypatch, capsys
):
    if script == "train_classifier":
        arguments = [word for word in arguments if word != "--class_conditional"]
        if not {"nowhere", "empty", "kind", "test"} & {*arguments}:
            arguments, message = arguments[:2], "a column of labels" if "IMAGES" in arguments else "broken.png"
    for name in ("empty", "broken"):
        (tmp_path / name).mkdir()
    for name in "ab":
        (tmp_path / "broken" / name).mkdir()
        (tmp_path / "broken" / name / "broken.png").write_text("no picture")
    (tmp_path / "file").write_text("mine")
    monkeypatch.chdir(tmp_path)
    AcceleratorState._reset_state(reset_partial_state=True)
    words = ["--output_dir", "out", "--cache_dir", "cache", "--cpu", "--max_train_steps", "1", "--report_to", "none"]
    words += [word.replace("IMAGES", str(images)) for word in arguments]
    with pytest.raises(SystemExit) as end:
        if script == "train":
            app(["train", *words, *SIZE])
        else:
            run_of = train_unconditional.run if script == "train_unconditional" else train_classifier.run
            run_of(words, script)
    assert end.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    prog = "scoresde train" if script == "train" else script
    found = [line for line in lines if line.startswith(f"{prog}: error: ")]
    assert len(found) == 1 and lines[-1] == found[0] and message in found[0], lines
    assert "Traceback" not in "".join(lines)


def test_a_failure_of_the_training_ends_with_1_and_own_code_keeps_its_traceback(images, tmp_path, monkeypatch, capsys):
    def fail(self):
        raise FloatingPointError("the loss is\nnot finite")

    monkeypatch.setattr(Trainer, "train", fail)
    words = ["--train_data_dir", str(images), "--cache_dir", str(tmp_path / "cache"), *QUICK, *QUIET, *SIZE]
    for more, error in (([], SystemExit), (["--sde", "scoresde_pipelines:VPSDEScheduler"], FloatingPointError)):
        AcceleratorState._reset_state(reset_partial_state=True)
        with pytest.raises(error) as end:
            train_unconditional.run([*words, "--output_dir", str(tmp_path / error.__name__), *more], "scoresde train")
        if error is SystemExit:
            assert end.value.code == 1
            assert capsys.readouterr().err.endswith("scoresde train: error: the loss is not finite\n")


def test_publishing_respects_privacy_and_leaves_checkpoints_at_home(monkeypatch, tmp_path):
    calls = {}

    class Api:
        def __init__(self, token):
            calls["token"] = token

        def create_repo(self, repo_id, **options):
            calls["create"] = (repo_id, options)
            return type("Url", (str,), {"repo_id": "me/" + repo_id})("address")

        def upload_folder(self, **options):
            calls["upload"] = options

    monkeypatch.setattr(pipeline_folder, "HfApi", Api)
    assert pipeline_folder.push_pipeline_folder(tmp_path / "run", None, True, "secret") == "address"
    assert calls["token"] == "secret"
    assert calls["create"] == ("run", {"private": True, "exist_ok": True})
    assert calls["upload"]["repo_id"] == "me/run"
    assert calls["upload"]["allow_patterns"] == ["model_index.json", "README.md", "unet/*", "scheduler/*", "samples/*"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "give either --dataset_name"),
        (["--train_data_dir", "a", "--dataset_name", "b"], "give either --dataset_name"),
        (["--train_data_dir", "a", "--train_batch_size", "0"], "--train_batch_size must be an integer of at least 1, got 0"),
        (["--train_data_dir", "a", "--sigma_max", "9", "--sde", "vp"], "--sigma_max belongs to --sde ve"),
        (["--train_data_dir", "a", "--pretrained_model_name_or_path", "b", "--model_config_name_or_path", "c"],
         "--model_config_name_or_path describes a new"),
        (["--train_data_dir", "a", "--likelihood_weighting", "--importance_sampling"], "give only one objective"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(arguments, message, capsys):
    with pytest.raises(SystemExit):
        parse_args(arguments)
    assert message in capsys.readouterr().err


def test_the_card_repeats_the_command_without_secrets_and_paths():
    arguments = ["--train_data_dir", "/home/me/data", "--hub_token", "secret", "--output_dir", "/home/me/out"]
    args = parse_args([*arguments, "--no-use_ema", "--random_flip", "--block_out_channels", "8", "16"])
    words = command_line(args, "data").replace("\\\n", "").split()
    launcher = ["accelerate", "launch", "-m", "scoresde_pipelines.training.train_unconditional"]
    options = ["--train_data_dir", "data", "--random_flip", "--block_out_channels", "8", "16", "--no-use_ema"]
    assert words == launcher + options


def test_the_card_names_a_pretrained_folder_without_its_path(tmp_path):
    (tmp_path / "first").mkdir()
    args = parse_args(["--train_data_dir", "d", "--pretrained_model_name_or_path", str(tmp_path / "first")])
    assert command_line(args, "d").endswith("--pretrained_model_name_or_path first")
