"""DDPM++: the network of `ncsnpp` with the defaults of the paper's VP and sub-VP models."""

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
        block_out_channels: tuple[int, ...] = (128, 256, 256, 256),
        layers_per_block: int = 4,
        attention_resolutions: tuple[int, ...] = (16,),
        attention_head_dim: int | None = None,
        up_attention: str = "last",
        dropout: float = 0.0,
        act_fn: str = "silu",
        norm_num_groups: int | None = None,
        norm_eps: float = 1e-6,
        base_channels: int | None = None,
        fourier_scale: float = 16.0,
        freq_shift: float = 1.0,
        resnet_type: str = "biggan",
        resample_with_conv: bool = True,
        downsample_padding: int = 0,
        fir: bool = False,
        fir_kernel: tuple[float, ...] = (1, 3, 3, 1),
        input_pyramid: str = "none",
        output_pyramid: str = "none",
        pyramid_combine: str = "sum",
        skip_rescale: bool = True,
        scale_by_sigma: bool = False,
        sigma_min: float = 0.01,
        sigma_max: float = 50.0,
        num_train_timesteps: int = 1000,
        discrete_sigmas: bool = False,
        time_conditioning: bool = True,
        init_scale: float = 0.0,
        num_class_embeds: int | None = None,
        augment_dim: int | None = None,
    ) -> None:
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__(**arguments)
