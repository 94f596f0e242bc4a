"""Entries: networks, their forward passes, presets, and the conversions from and to other networks and files."""

from typing import Any

from .case import Entry, like
from .strategies import Kind, count, flag, instance, name, numbers, only, path, real, some, without
from .strategies_data import labels, tensor, time


SIZES = count(8, 8).plus(
    good=("(8, 8)", "(8, 16)"), hopeless=("(8,)", "(8, 8, 8)", "(0, 8)", "('a', 8)", "(8, 8.5)", "7.5", "(-8, 8)")
)
CHANNELS = count(1, 3)
WIDTHS = numbers(
    "(4, 4)",
    "(4, 8)",
    "[4, 4]",
    hopeless=("(0, 4)", "(-4, 4)", "(4.5, 4)", "(4, None)", "()", "((4, 4), 4)", "(4, nan)"),
)
NCSNPP = {
    "sample_size": SIZES,
    "in_channels": CHANNELS,
    "out_channels": only("1"),
    "center_input_sample": flag(),
    "time_embedding_type": name("fourier", "positional"),
    "block_out_channels": WIDTHS,
    "layers_per_block": count(1, 2),
    "attention_resolutions": without(
        numbers("(4,)", "()", "[4]", "[]", hopeless=("(0,)", "(-4,)", "('a',)", "(4.5,)")), "[]"
    ),
    "attention_head_dim": count(2, 2).optional().plus(hopeless=("3",)),
    "up_attention": name("last", "every"),
    "dropout": real(0, 0.5, "-0.1", "1.5"),
    "act_fn": name("silu", "relu", "elu"),
    "norm_num_groups": count(2, 2).optional().plus(hopeless=("3",)),
    "norm_eps": real(1e-6, 1e-5, "0.0", "-1.0"),
    "base_channels": count(4, 8).optional(),
    "fourier_scale": real(1, 16, "0.0", "-1.0"),
    "freq_shift": real(0, 1, "-1.0"),
    "resnet_type": name("biggan", "ddpm"),
    "resample_with_conv": flag(),
    "downsample_padding": count(0, 1).plus(hopeless=("5",)),
    "fir": flag(),
    "fir_kernel": numbers(
        "(1, 3, 3, 1)", "[1.0, 2.0, 1.0]", hopeless=("()", "(0, 0)", "(nan, 1)", "((1, 2), (3, 4))", "('a',)")
    ),
    "input_pyramid": name("none", "residual", "input_skip"),
    "output_pyramid": name("none", "residual", "output_skip"),
    "pyramid_combine": name("sum", "cat"),
    "skip_rescale": flag(),
    "scale_by_sigma": flag(),
    "sigma_min": real(0.005, 0.1, "0.0", "-1.0", "60.0"),
    "sigma_max": real(5, 50, "0.0", "-1.0", "0.001"),
    "num_train_timesteps": count(10, 50),
    "discrete_sigmas": Kind(some("False"), flag().hopeless, flag().doubtful),
    "time_conditioning": flag(),
    "init_scale": real(0, 1, "-1.0"),
    "num_class_embeds": count(2, 4).optional(),
    "augment_dim": count(2, 4).optional(),
}
# Arguments that exclude each other keep the value under which a tiny network works.
FIXED = {
    "num_class_embeds": only("None"),
    "norm_num_groups": only("None"),
    "attention_head_dim": only("None"),
    "in_channels": only("1"),
}


def constructors() -> list[Entry]:
    """Each group of arguments by itself: the others keep the values of a tiny network."""
    tiny = {
        "sample_size": only("8"),
        "in_channels": only("1"),
        "out_channels": only("1"),
        "block_out_channels": only("(4, 4)"),
        "layers_per_block": only("1"),
        "attention_resolutions": only("(4,)"),
        "dropout": only("0.0"),
    }
    entries = []
    for source in ("NCSNpp", "DDPMpp"):
        for key, kind in NCSNPP.items():
            good = only("1") if key in ("in_channels", "out_channels") else kind
            fitted = Kind(good.good, kind.hopeless, kind.doubtful)
            entries.append(Entry(source, {**tiny, key: fitted}, then="" if key == "num_class_embeds" else "forwarded"))
    return entries


def others() -> list[Entry]:
    """NCSNv2 and the classifier."""
    ncsnv2 = {
        "sample_size": count(8, 8).plus(hopeless=("(8,)", "7.5", "'a'")),
        "in_channels": only("1"),
        "out_channels": only("1"),
        "center_input_sample": flag(),
        "block_out_channels": numbers(
            "(4, 4, 4, 4)", "[4, 8, 8, 8]", hopeless=("(0, 4, 4, 4)", "()", "(4.5, 4, 4, 4)")
        ),
        "dilations": numbers("(1, 1, 2, 4)", hopeless=("(0, 1, 2, 4)", "()", "(1.5, 1, 2, 4)", "(1,)")),
        "act_fn": name("elu", "relu"),
        "sigma_min": real(0.005, 0.1, "0.0", "-1.0", "60.0"),
        "sigma_max": real(5, 50, "0.0", "-1.0", "0.001"),
        "num_train_timesteps": count(5, 9),
    }
    judge = {
        "in_channels": CHANNELS,
        "num_classes": count(2, 4),
        "depth": count(10, 10).plus(hopeless=("11", "4", "3")),
        "width": count(1, 1),
        "dropout": real(0, 0.5, "-0.1", "1.5"),
        "embedding_channels": count(7, 8),
        "fourier_scale": real(1, 16, "0.0"),
        "min_noise_level": real(1e-3, 1e-2, "0.0", "-1.0"),
        "sample_size": count(8, 8).optional().plus(hopeless=("7",)),
        "data_min": real(-1, 0, "5.0"),
        "data_max": real(1, 2, "-5.0"),
    }
    kept = {"depth": only("10"), "width": only("1"), "embedding_channels": only("8")}
    entries = [Entry("NCSNv2", ncsnv2, then="forwarded")]
    for key in judge:
        entries.append(Entry("NoiseConditionalClassifier", {**kept, key: judge[key]}, then="forwarded"))
    return entries


def forward() -> list[Entry]:
    """Forward passes of tiny networks."""
    x, t = tensor(2, 1, 8, 8, strict=False), time(2).plus(good=("torch.tensor([3, 5])", "7"))
    # A network computes in the dtype of its weights.
    x = Kind(some("torch.randn(2, 1, 8, 8)", "torch.randn(2, 1, 8, 8).mT"), x.hopeless, x.doubtful)
    unused = Kind(some("None"), labels().hopeless, labels().good)
    networks = {
        "unet()": unused,
        "unet(num_class_embeds=3)": labels().optional(),
        "unet(discrete_sigmas=True, time_embedding_type='positional')": unused,
        "unet(time_embedding_type='positional', scale_by_sigma=False)": unused,
        "NCSNv2(sample_size=8, in_channels=1, out_channels=1, block_out_channels=(4, 4, 4, 4))": unused,
    }
    entries = [
        Entry(
            source,
            {
                "sample": x,
                "timestep": t,
                "class_labels": kind.tolerant() if kind is unused else kind,
                "return_dict": only("True"),
            },
            check=sample_like,
        )
        for source, kind in networks.items()
    ]
    level = Kind(some("0.5", "torch.tensor([0.1, 2.0])"), time(2).hopeless, time(2).doubtful)
    # NCSNv2 takes sides of any length: it interpolates to the size of what it fuses.
    uneven = entries[-1].arguments
    uneven["sample"] = without(x, "torch.rand(2, 1, 8, 9)")
    entries.append(Entry("classifier()", {"sample": x, "noise_level": level, "return_dict": only("True")}))
    return entries


def sample_like(result: Any, arguments: dict[str, Any]) -> str | None:
    """The output has the shape of `sample`."""
    return like("sample", dtype=False)(result.sample, arguments)


def conversions() -> list[Entry]:
    """Networks from and to diffusers, presets, official checkpoints."""
    damages = ("no tensor", "bool", "int8", "nan", "shape", "short", "no part", "part", "keys")
    # Part 2 is the state of the optimizer, which nothing reads.
    wrong = [f"damaged({how!r}, {v})" for how in damages for v in (0, 1, 2) if (how[-4:], v) != ("part", 2)]
    wrong += [f"damaged('cut', {value})" for value in (0, 1, 100, 5000, 20000)] + [
        f"damaged('flip', {value})" for value in (0, 99, 4321)
    ]
    wrong += ["file('text.txt')", "file('empty')", "file('data/0.png')"]
    checkpoint = path("file('official.pth')", "Path(file('official.pth'))").plus(hopeless=wrong)
    config = (
        instance("None")
        .optional()
        .plus(hopeless=("'nope'", "{'model': 3}", "{'model': {}}", "{'data': None}", "['a']", "{'a': {'b': nan}}"))
    )
    names = (
        name("ve/cifar10_ncsnpp_continuous", "vp/cifar10_ddpmpp")
        .tolerant()
        .plus(hopeless=("'nope'", "None", "[]", "3", "''"))
    )
    told = {
        "path": ("weights", "damaged.pth", "text.txt", "checkpoint", "ema", "model", "shadow_params"),
        "config": ("model", "data"),
    }
    saved = "pipe(unet=vp_unet())"
    export = {
        "pipeline": instance(saved, extra=("pipe()", "unet()", "scheduler('vp')", "3", "'nowhere/at/all'", "''")),
        "folder": without(instance("Path(fresh('alone'))", extra=("file('text.txt')", "file('data')", "''")), "'vp'"),
        "overwrite": flag(),
    }
    exported = {"pipeline": only(saved), "folder": only("fresh('alone')"), "overwrite": only("False")}
    return [
        Entry(
            "from_unet2d",
            {
                "unet": instance(
                    "stock_unet()", extra=("unet()", "UNet2DModel", "torch.nn.Linear(2, 2)", "scheduler('vp')")
                )
            },
        ),
        Entry(
            "to_unet2d",
            {"model": instance("plain_ddpm()", extra=("unet()", "stock_unet()", "NCSNpp", "scheduler('vp')"))},
        ),
        Entry("load_official_checkpoint", {"path": checkpoint, "config": config}, aliases=told),
        Entry("load_official_checkpoint", {"path": only("file('official.pth')"), "use_ema": flag()}, aliases=told),
        Entry(
            "with_classes",
            {
                "network": instance("unet()", "vp_unet()", extra=("stock_unet()", "NCSNpp", "scheduler('vp')")),
                "num_classes": count(2, 4),
            },
        ),
        Entry(
            "with_augment_labels",
            {
                "network": instance("unet()", "vp_unet()", extra=("stock_unet()", "NCSNpp", "scheduler('vp')")),
                "augment_dim": count(2, 4),
            },
        ),
        Entry(
            "FeatureClassifier",
            {
                "in_channels": count(1, 3),
                "num_classes": count(2, 4),
                "widths": numbers("(4, 4, 4, 4)", hopeless=("()", "(0, 4)", "(1.5, 2)")),
                "num_features": count(2, 4),
                "sample_size": count(16, 16),
                "image_fit": name("crop", "pad"),
            },
        ),
        Entry("preset", {"name": names}),
        *(
            Entry(
                "export_standalone",
                {**exported, name: kind},
                aliases={"pipeline": ("model", "nowhere/at/all", "unet")},
            )
            for name, kind in export.items()
        ),
        Entry("shipped", {"name": name("emoji-32-ve").optional().plus(hopeless=("'../../x'", "'/'"))}),
        Entry(
            "packed_filters",
            {"network": instance("unet()", "stock_unet()", extra=("scheduler('vp')", "NCSNpp"))},
            then="entered",
        ),
    ]


ENTRIES = {"networks": constructors() + others(), "forward": forward(), "conversion": conversions()}
