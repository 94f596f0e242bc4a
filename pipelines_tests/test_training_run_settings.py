"""What identifies a run, and which of it may change at a resume."""

import argparse

import pytest
import torch

from scoresde_pipelines.models import DDPMpp
from scoresde_pipelines.training.arguments import default_arguments
from scoresde_pipelines.training.classifier_arguments import parse_classifier_args
from scoresde_pipelines.training.run_settings import MAY_CHANGE, check_settings, data_fingerprint, run_settings


def network(**options):
    return DDPMpp(sample_size=8, block_out_channels=(8, 8), layers_per_block=1, attention_resolutions=(4,), **options)


class Images(list):
    """A data set of tensors, which is not kept in memory as one."""

    def __getitem__(self, indices):
        return torch.stack([super(Images, self).__getitem__(k) for k in indices])


ARGUMENTS = sorted({**default_arguments(), **vars(parse_classifier_args(["--train_data_dir", "x"]))})
COMPARED = {
    "P_mean", "P_std", "augment_prob", "class_conditional", "class_names", "class_sampling", "data_mean", "ema_widths",
    "label_dropout",
    "lr_step_rules", "objective", "scheduler_options", "sigma_data", "snr_gamma",
    "adam_beta1", "adam_beta2", "adam_epsilon", "adam_weight_decay", "attention_resolutions", "block_out_channels",
    "channels", "depth", "dropout", "ema_inv_gamma", "ema_max_decay", "ema_power", "gradient_accumulation_steps",
    "image_fit", "layers_per_block", "learning_rate", "lr_scheduler",
    "lr_warmup_steps", "max_grad_norm", "mixed_precision", "model_config_name_or_path", "network", "optimizer", "pad_value",
    "prediction_type", "pretrained_model_name_or_path", "random_flip", "resolution", "sde", "seed", "shuffle_buffer",
    "sigma_max", "sigma_min", "streaming", "sum_loss", "time_density", "time_sampling", "train_batch_size",
    "training_eps", "use_ema", "validation_fraction", "width",
}  # fmt: skip


@pytest.mark.parametrize("name", ARGUMENTS)
def test_each_argument_is_compared_or_may_change(name):
    old, new = {name: 1}, {name: 2}
    if name not in COMPARED:
        assert check_settings(old, new) == []
        return
    with pytest.raises(ValueError, match=rf"{name} was 1 and is 2; --allow_changed_settings {name} resumes"):
        check_settings(old, new)
    assert check_settings(old, new, [name]) == [f"{name} was 1 and is 2"]


def test_the_table_and_the_arguments_agree():
    assert set(ARGUMENTS) - COMPARED <= MAY_CHANGE and not COMPARED & MAY_CHANGE


def test_the_network_never_changes_and_unknown_names_are_refused():
    data = "10 images"
    old = run_settings(argparse.Namespace(dropout=0.0), {"unet": network()}, data)
    new = run_settings(argparse.Namespace(dropout=0.0), {"unet": network(out_channels=6)}, data)
    with pytest.raises(ValueError, match=r"networks was .*DDPMpp, \d+ numbers.*unet.out_channels was 3 and is 6"):
        check_settings(old, new)
    with pytest.raises(ValueError, match=r"networks was .*; the weights of the checkpoint belong to another network"):
        check_settings(old, new, ["networks", "unet.out_channels"])
    dropped = run_settings(argparse.Namespace(dropout=0.5), {"unet": network(dropout=0.5)}, data)
    with pytest.raises(ValueError, match=r"--allow_changed_settings dropout unet\.dropout resumes"):
        check_settings(old, dropped)
    assert len(check_settings(old, dropped, ["dropout", "unet.dropout"])) == 2
    with pytest.raises(ValueError, match="allow_changed_settings must name settings of the run, got learning_rat"):
        check_settings(old, old, ["learning_rat"])
    assert check_settings(old, run_settings(argparse.Namespace(dropout=0.0), {"unet": network()}, data)) == []


def test_secrets_are_not_stored():
    args = argparse.Namespace(hub_token="secret", wandb_token="secret", seed=1)
    assert "secret" not in str(run_settings(args, {}, "data"))


def test_a_longer_run_with_a_schedule_that_has_an_end_is_said():
    old, new = ({"lr_scheduler": "cosine", "max_train_steps": n} for n in (5, 9))
    assert "the learning rates of 'cosine'" in check_settings(old, new)[0]
    assert check_settings({**old, "lr_scheduler": "constant"}, {**new, "lr_scheduler": "constant"}) == []


def test_the_data_set_is_known_by_its_pixels():
    pixels = [torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8) for _ in range(200)]
    first = data_fingerprint(Images(pixels))
    assert first == data_fingerprint(Images([p.clone() for p in pixels])) and first.startswith("200 images, ")
    others = [pixels[:-1], pixels[::-1], [255 - p for p in pixels], [p.reshape(1, 8, 24) for p in pixels]]
    assert len({first, *(data_fingerprint(Images(other)) for other in others)}) == 5
    labels = torch.arange(200)
    assert (
        len({first, data_fingerprint(Images(pixels), labels), data_fingerprint(Images(pixels), labels.flip(0))}) == 3
    )
    # In memory every image counts.
    stored = Images(pixels)
    stored.cache = torch.stack(pixels)
    changed = Images(pixels)
    changed.cache = stored.cache.clone()
    changed.cache[7, 0, 0, 0] ^= 1
    assert data_fingerprint(stored) != data_fingerprint(changed)
