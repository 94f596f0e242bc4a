"""The common base of our networks: a diffusers model that is loaded whole or not at all."""

from os import PathLike
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from ..schedulers.checks import check_config_kind, describe
from ..schedulers.init_parameters import init_parameters, stored_arguments
from .config_checks import check_sample
from .weight_files import check_weight_files


class Network(ModelMixin, ConfigMixin):  # type: ignore[misc]  # both name their config file
    """A `ModelMixin` whose `from_pretrained` refuses a folder that lacks weights."""

    config: Any  # type: ignore[assignment]  # diffusers declares a dict; its keys are attributes
    conv_in: nn.Conv2d  # the first layer of those that take images
    # diffusers declares these as None.
    _no_split_modules: Any = None
    _keep_in_fp32_modules: Any = None
    _skip_layerwise_casting_patterns: Any = None
    main_input_name = "sample"

    def register_to_config(self, **kwargs: Any) -> None:
        """Store the arguments: see `stored_arguments`."""
        super().register_to_config(**stored_arguments(type(self), kwargs))

    def check_sample(self, sample: Any, divisor: int = 1) -> None:
        """Raise TypeError or ValueError unless `sample` are images for this network, with sides divisible by `divisor`."""
        captured = torch.compiler.is_compiling() or torch.jit.is_tracing()
        weight = self.conv_in.weight
        # diffusers finds `dtype` by reading every parameter: a tenth of what Python needs for a call of the network.
        usual = weight.dtype == getattr(sample, "dtype", None)
        dtype = None if captured else weight.dtype if usual else self.dtype
        check_sample(sample, self.config.in_channels, divisor, dtype, weight.is_meta)

    @staticmethod
    def _get_init_keys(input_class: type[Any]) -> set[str]:
        return {*init_parameters(input_class)}

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Make one from a configuration; arguments as in diffusers."""
        return super().from_config(check_config_kind(config), return_unused_kwargs, **kwargs)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | PathLike[str], **kwargs: Any
    ) -> Any:
        """Load a network; arguments as in diffusers.

        Raises:
            TypeError: for what is neither a name nor a path.
            ValueError: the file lacks tensors of the network (diffusers only warns, and leaves memory as it is in them), or
                has integers for them.
        """
        if not isinstance(pretrained_model_name_or_path, (str, PathLike)):
            kind = describe(pretrained_model_name_or_path)
            raise TypeError(f"pretrained_model_name_or_path must be a name or a path, got {kind}")
        with_info = kwargs.pop("output_loading_info", False)
        # diffusers declares the network alone, but returns a pair with output_loading_info.
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, output_loading_info=True, **kwargs)
        network, info = loaded
        missing = sorted(info["missing_keys"])
        if missing:
            raise ValueError(
                f"the weights in {pretrained_model_name_or_path} must hold every tensor of {cls.__name__}, got none for "
                f"{missing}"
            )
        check_weight_files(Path(pretrained_model_name_or_path) / (kwargs.get("subfolder") or ""), network)
        return loaded if with_info else network
