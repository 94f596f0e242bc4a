"""The documentation is complete: every public name, every page, every flag of the official code."""

import re
from pathlib import Path

import pytest

import scoresde_pipelines
from scoresde_pipelines import models, schedulers


DOCS = Path(__file__).resolve().parent.parent / "docs"
pytestmark = pytest.mark.skipif(not (DOCS / "index.md").is_file(), reason="needs the source tree")

# All that the configurations of score_sde_pytorch (commit cb1f359) set, and the flags of its main.py.
OFFICIAL_FLAGS = {
    "training": "sde continuous likelihood_weighting reduce_mean batch_size n_iters snapshot_freq loss "
    "snapshot_freq_for_preemption snapshot_sampling log_freq eval_freq",
    "sampling": "method predictor corrector snr n_steps_each probability_flow noise_removal",
    "eval": "begin_ckpt end_ckpt batch_size enable_sampling num_samples enable_loss enable_bpd bpd_dataset",
    "data": "dataset category tfrecords_path image_size num_channels channels random_flip centered uniform_dequantization",
    "model": "name sigma_min sigma_max sigma_begin beta_min beta_max num_scales nf ch_mult num_res_blocks attn_resolutions "
    "embedding_type fourier_scale conditional resblock_type skip_rescale progressive progressive_input "
    "progressive_combine fir fir_kernel resamp_with_conv nonlinearity normalization dropout init_scale scale_by_sigma "
    "attention_type conv_size interpolation ema_rate num_classes",
    "optim": "optimizer amsgrad lr beta1 eps weight_decay warmup grad_clip",
}


def test_the_reference_lists_every_public_name():
    page = (DOCS / "api.md").read_text("utf-8")
    listed = set(re.findall(r"^\.\. auto\w+:: (\w+)$", page, re.MULTILINE)) | set(
        re.findall(r"^\| `\w+\.(\w+)`", page, re.MULTILINE)
    )
    public = {name for module in (scoresde_pipelines, schedulers, models) for name in module.__all__}
    assert sorted(public - listed) == ["matched_prior"]  # deprecated
    assert sorted(listed - public) == []


def test_every_page_is_in_the_contents():
    entries = "\n".join(re.findall(r"```\{toctree\}\n(.*?)```", (DOCS / "index.md").read_text("utf-8"), re.DOTALL))
    names = [line for line in entries.splitlines() if line and not line.startswith(":")]
    pages = {page.stem for page in DOCS.glob("*.md")} - {"index"}
    found = {page.stem for name in names for page in DOCS.glob(f"{name}.md")}
    assert found == pages
    assert all(list(DOCS.glob(f"{name}.md")) for name in names if "*" not in name)


def test_every_flag_of_the_official_code_is_named():
    page = (DOCS / "from_score_sde_pytorch.md").read_text("utf-8")
    flags = [f"{section}.{name}" for section, names in OFFICIAL_FLAGS.items() for name in names.split()]
    assert len(flags) > 70
    assert [flag for flag in [*flags, "seed", "device"] if f"`{flag}`" not in page] == []
    assert all(f"--{flag}" in page for flag in ("mode", "config", "workdir", "eval_folder"))


def test_pages_name_options_of_the_training_script_that_exist():
    from scoresde_pipelines.training.arguments import parse_args

    with pytest.raises(SystemExit):
        parse_args(["--train_data_dir", "x", "--no_such_option", "1"])
    known = {name for name in vars(parse_args(["--train_data_dir", "x"]))}
    page = (DOCS / "from_score_sde_pytorch.md").read_text("utf-8")
    commands = {
        "mode",
        "workdir",
        "eval_folder",
        "section",
        "model",
        "metrics",
        "num-images",
        "batch-size",
        "output",
        "features",
    }
    named = set(re.findall(r"--([a-zA-Z_-]+\w)", page)) - commands
    assert len(named) > 30 and sorted(named - known) == []
