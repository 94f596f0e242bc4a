"""DDPM++: the network of `ncsnpp` with the defaults of the paper's VP and sub-VP models."""

from typing import Any

from diffusers.configuration_utils import register_to_config

from .ncsnpp import NCSNpp


class DDPMpp(NCSNpp):
    r"""Time-dependent U-Net; the defaults are the paper's DDPM++ (VP, continuous) for CIFAR-10. Arguments: see `NCSNpp`.

    Against NCSN++: images in [-1, 1], positional embedding of `999 t`, plain resampling, no pyramids, an output that is
    not divided by sigma.

    Example:
        >>> model = DDPMpp(sample_size=32, in_channels=1, out_channels=1, block_out_channels=(32, 64), layers_per_block=1)
        >>> noise = model(torch.randn(2, 1, 32, 32), torch.tensor([10.0, 990.0])).sample
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int | tuple[int, int] = 32,
        in_channels: int = 3,
        out_channels: int = 3,
        center_input_sample: bool = False,
        time_embedding_type: str = "positional",
        *,
        fir: bool = False,
        input_pyramid: str = "none",
        scale_by_sigma: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            sample_size,
            in_channels,
            out_channels,
            center_input_sample,
            time_embedding_type,
            fir=fir,
            input_pyramid=input_pyramid,
            scale_by_sigma=scale_by_sigma,
            **kwargs,
        )
