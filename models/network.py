"""The common base of our networks: a diffusers model that is loaded whole or not at all."""

from os import PathLike
from typing import Any

from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin


class Network(ModelMixin, ConfigMixin):  # type: ignore[misc]  # both name their config file
    """A `ModelMixin` whose `from_pretrained` refuses a folder that lacks weights."""

    config: Any  # type: ignore[assignment]  # diffusers declares a dict; its keys are attributes
    # diffusers declares these as None.
    _no_split_modules: Any = None
    _keep_in_fp32_modules: Any = None
    _skip_layerwise_casting_patterns: Any = None
    main_input_name = "sample"

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | PathLike[str], **kwargs: Any
    ) -> Any:
        """Load a network; arguments as in diffusers.

        Raises:
            ValueError: the file lacks tensors of the network. (diffusers only warns, and leaves memory as it is in them.)
        """
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
        return loaded if with_info else network
