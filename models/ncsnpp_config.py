"""What the options of `NCSNpp` may be."""

from typing import Any

from ..schedulers.checks import check_numbers as check_sequence
from .config_checks import (
    check_booleans,
    check_choices,
    check_dropout,
    check_integer_lists,
    check_integers,
    check_noise_levels,
    check_numbers,
    check_sample_size,
)


CHOICES = {
    "time_embedding_type": ("fourier", "positional"),
    "resnet_type": ("biggan", "ddpm"),
    "input_pyramid": ("none", "input_skip", "residual"),
    "output_pyramid": ("none", "output_skip", "residual"),
    "pyramid_combine": ("sum", "cat"),
    "up_attention": ("last", "every"),
    "downsample_padding": (0, 1),
}
BOOLEANS = (
    "center_input_sample",
    "resample_with_conv",
    "fir",
    "skip_rescale",
    "scale_by_sigma",
    "discrete_sigmas",
    "time_conditioning",
)


def check_config(config: Any) -> None:
    """Raise ValueError where an option of `NCSNpp` has no meaning."""
    check_choices(config, CHOICES)
    check_integers(config, "in_channels", "out_channels", "layers_per_block")
    check_integers(config, "attention_head_dim", "norm_num_groups", "base_channels", "num_class_embeds", optional=True)
    check_integers(config, "augment_dim", optional=True)
    check_integer_lists(config, "block_out_channels")
    check_sample_size(config, divisor=2 ** (len(config["block_out_channels"]) - 1))
    check_integer_lists(config, "attention_resolutions", may_be_empty=True)
    check_dropout(config)
    check_numbers(config, "norm_eps", least=1e-30)  # smaller ones are zero in single precision
    check_numbers(config, "fourier_scale", above=0)
    check_numbers(config, "init_scale", "freq_shift", least=0)
    check_noise_levels(config)
    check_booleans(config, *BOOLEANS)
    kernel = tuple(check_sequence("fir_kernel", config["fir_kernel"]))
    if len(kernel) < 2 or abs(sum(kernel)) <= 1e-6 * max(map(abs, kernel)):
        raise ValueError(f"fir_kernel must be at least 2 numbers whose sum is not 0, got {kernel}")
    if config["discrete_sigmas"] and config["time_embedding_type"] != "positional":
        raise ValueError(
            "discrete_sigmas must be False unless time_embedding_type is 'positional', got True and "
            f"{config['time_embedding_type']!r}"
        )
