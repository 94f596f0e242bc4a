"""Entries: losses, time sampling, data, checkpoints, and the arguments of the training scripts."""

from .case import Entry
from .strategies import (
    Kind,
    count,
    flag,
    image,
    instance,
    name,
    numbers,
    only,
    path,
    real,
    score_function,
    some,
    tensor,
    words,
)


AN_SDE = instance("sde('ve')", "sde('vp')", extra=("scheduler('vp')", "VPSDE"))
X = tensor(2, 1, 4, 4, strict=False)
LEVELS = Kind(some("torch.tensor([0.1, 0.9])"), tensor(2).hopeless, some("torch.tensor([0.5, 2.0])"))
ONE_GENERATOR = Kind(
    some("None", "torch.Generator().manual_seed(0)"), some("'a'", "3", "object()", "[]", "np.random.default_rng(0)")
)


def losses() -> list[Entry]:
    """Losses, objectives and the times that they are averaged over."""
    common = {"x0": X, "noise": X}
    loss = {
        "score_fn": score_function(),
        "sde": AN_SDE,
        **common,
        "t": LEVELS,
        "likelihood_weighting": flag(),
        "reduce_mean": flag(),
    }
    index = Kind(
        some("torch.tensor([0, 2])"),
        some("None", "'a'", "torch.tensor([-1, 0])", "torch.tensor([0, 3])", "torch.ones(2)", "torch.ones(3).long()"),
    )
    table = numbers(
        "torch.tensor([5.0, 1.0, 0.1])", hopeless=("[5.0, 1.0]", "torch.tensor([nan, 1.0, 1.0])", "torch.zeros(0)")
    )
    eps = real(1e-5, 1e-2, "0.0", "-1.0", "1.0", "2.0")
    positive = real(0.3, 5, "0.0", "-1.0")
    weighting = Kind(
        some("(lambda sde, t: t)"),
        some(
            "None",
            "'a'",
            "3",
            "object()",
            "(lambda sde, t: None)",
            "(lambda sde, t: t[:1])",
            "(lambda sde, t: t * nan)",
        ),
    )
    output = {
        "output_fn": score_function(),
        "parameterization": instance("Parameterization()"),
        "sde": AN_SDE,
        **common,
        "t": LEVELS,
        "weighting": weighting,
        "reduce_mean": flag(),
    }
    options = {
        "training_eps": eps,
        "sigma_data": positive,
        "P_mean": real(-2, 1),
        "P_std": positive,
        "snr_gamma": positive,
        "num_train_timesteps": count(10, 20),
    }
    names = name("score_matching", "likelihood", "importance", "edm")
    told = {"score_fn": ("score",), "output_fn": ("output", "score_fn")}
    return [
        Entry("score_matching_loss", loss, aliases=told),
        Entry("denoising_loss", output, aliases=told),
        Entry("smld_loss", {"model": only("lambda x, t: -x"), "sigmas": table, "labels": index, **common}),
        Entry(
            "ddpm_loss",
            {
                "model": only("lambda x, t: -x"),
                "alphas_cumprod": only("torch.tensor([0.9, 0.5, 0.1])"),
                "labels": index,
                **common,
            },
        ),
        Entry("ObjectiveOptions", options),
        Entry(
            "make_objective",
            {
                "name": Kind(some("list(OBJECTIVES)[0]", "'edm'"), names.hopeless, names.doubtful),
                "options": instance("None", "ObjectiveOptions()").optional(),
            },
        ),
        Entry("MinSNR", {"gamma": positive}),
        Entry("EDMWeighting", {"sigma_data": positive}),
        Entry("UniformTimes", {"training_eps": eps}),
        Entry("ImportanceTimes", {"training_eps": eps}),
        Entry("LogNormalTimes", {"P_mean": real(-2, 1), "P_std": positive, "training_eps": eps}),
        Entry("IndexTimes", {"num_train_timesteps": count(10, 20), "from_zero": flag()}),
    ]


def data() -> list[Entry]:
    """Readers of images, and small helpers."""
    folder = path("file('data')").plus(hopeless=("file('empty')", "file('text.txt')", "file('broken')"))
    images = tensor(2, 1, 4, 4)
    ends = numbers(
        "(-1.0, 1.0)",
        "(0.0, 1.0)",
        hopeless=("(1.0, -1.0)", "(0.0, 0.0)", "(nan, 1.0)", "(0.0,)", "(0.0, 1.0, 2.0)", "()"),
    )
    bytes_ = Kind(some("torch.zeros(2, 1, 4, 4, dtype=torch.uint8)"), images.hopeless, images.good | images.doubtful)
    covariance = numbers(
        "torch.eye(3)", hopeless=("torch.eye(4)", "torch.full((3, 3), nan)", "-torch.eye(3)", "torch.ones(3)")
    )
    mean = numbers("torch.zeros(3)", hopeless=("torch.zeros(4)", "torch.full((3,), nan)", "torch.zeros(3, 3)"))
    formats = {
        "resolution": count(4, 8),
        "channels": count(1, 1).plus(good=("3", "4"), hopeless=("2", "5")),
        "fit": name("crop", "pad"),
        "pad_value": count(0, 255).plus(hopeless=("256",)),
        "background": count(0, 255).plus(hopeless=("256",)),
    }
    stream = {
        "num_images": count(4, 5),
        "batch_size": count(1, 2, huge=False),
        "seed": count(0, 5, huge=False),
        "start": count(0, 3),
        "rank": count(0, 0).plus(hopeless=("1",)),
        "world_size": count(1, 1),
    }
    return [
        Entry(
            "load_images",
            {"train_data_dir": folder, "split": name("train")},
            aliases={"train_data_dir": ("data_dir", "a.png")},
        ),
        Entry("ImageFormat", formats, then="(lambda read: read(Image.new('RGB', (9, 5))))"),
        Entry(
            "ImageFormat(4, 1)",
            {"image": one_picture().plus(hopeless=("None", "'a'", "3", "object()", "[]", "Image.new('L', (0, 0))"))},
        ),
        Entry(
            "ImageStore",
            {
                "dataset": only("load_images(train_data_dir=file('data'))"),
                "image_format": instance("ImageFormat(4, 1)"),
                "image_column": name("image").optional(),
                "max_cached_gb": real(0, 1, "-1.0"),
                "skip_broken_images": flag(),
            },
            then="read_all",
        ),
        Entry("ShuffledBatches", stream, then="first_three"),
        Entry("to_data_range", {"images": bytes_, "data_range": ends}),
        Entry("to_uint8", {"images": images, "data_range": ends}),
        Entry("random_flip", {"images": images, "generator": ONE_GENERATOR.plus(hopeless=("None",)).optional()}),
        Entry(
            "image_grid",
            {
                "images": Kind(bytes_.good, bytes_.hopeless, bytes_.doubtful),
                "columns": count(1, 2).optional(),
                "scale": count(1, 2),
            },
        ),
        Entry(
            "frechet_distance",
            {"mean_1": mean, "covariance_1": covariance, "mean_2": mean, "covariance_2": covariance},
        ),
        Entry(
            "find_checkpoint",
            {
                "output_dir": path("file('empty')"),
                "resume_from": name("latest").tolerant().plus(hopeless=("'nowhere'", "3")),
            },
        ),
        Entry("rotate", {"output_dir": path("file('empty')"), "total_limit": count(1, 3).optional()}),
        Entry(
            "ExponentialMovingAverage",
            {
                "model": instance("unet()", extra=("NCSNpp",)),
                "max_decay": real(0.9, 0.999, "-1.0", "1.5"),
                "inv_gamma": real(0.5, 2, "0.0", "-1.0"),
                "power": real(0.5, 1, "-1.0").optional(),
            },
        ),
    ]


def one_picture() -> Kind:
    """A PIL image."""
    odd = image(1, 4).tolerant()
    return Kind(some("Image.new('L', (9, 5), 7)", "Image.new('RGB', (4, 4))"), odd.hopeless, odd.doubtful)


def integer(low: int, *more: str) -> Kind:
    """An integer option."""
    return words(str(max(low, 8)), hopeless=("1.5", str(low - 1), "inf", *more), doubtful=("9" * 30,))


def decimal(good: str, *more: str) -> Kind:
    """A number as an option."""
    return words(good, hopeless=("inf", *more))


def choice(*good: str) -> Kind:
    """One of several words."""
    return Kind(
        some(*map(repr, good)),
        some("''", "'nope'", "'1'", "'nan'", repr(good[0] + " "), repr(good[0] + "," + good[0])),
        some(repr(good[0].upper())),
    )


def arguments() -> list[Entry]:
    """Each option of the two training scripts beside those that are always needed."""
    counts = (
        "resolution",
        "train_batch_size",
        "gradient_accumulation_steps",
        "num_epochs",
        "max_train_steps",
        "checkpointing_steps",
        "checkpoints_total_limit",
        "sample_steps",
        "save_images_epochs",
        "save_model_epochs",
        "num_inference_steps",
        "logging_steps",
        "layers_per_block",
    )
    main = {option: integer(1) for option in counts}
    main |= {option: integer(0) for option in ("eval_batch_size", "lr_warmup_steps", "seed", "dataloader_num_workers")}
    shared = {
        "channels": Kind(some("'1'", "'3'", "'4'"), some("'2'", "'0'", "'a'", "''", "'-1'", "'1.0'")),
        "pad_value": integer(0, "256", "99999"),
        "image_fit": choice("crop", "pad"),
        "max_cached_gb": decimal("4.0", "-1"),
        "training_eps": decimal("1e-5", "0", "-1", "1", "2"),
        "learning_rate": decimal("1e-3", "0", "-1"),
        "adam_weight_decay": decimal("0.01", "-1"),
        "max_grad_norm": decimal("1.0", "-1"),
        "ema_max_decay": decimal("0.99", "-1", "1.5"),
        "dropout": decimal("0.1", "-1", "1.5"),
        "mixed_precision": choice("no", "bf16"),
        "sde": choice("vp", "subvp"),
        "lr_scheduler": choice("cosine", "linear"),
        "logger": choice("tensorboard", "none"),
        "split": words("train", numeric=False),
        "output_dir": words("out", numeric=False),
    }
    main |= shared | {
        "network": choice("ncsnpp", "ddpmpp"),
        "prediction_type": choice("epsilon", "score"),
        "predictor": choice("ancestral", "exponential"),
        "corrector": choice("langevin"),
        "snr": decimal("0.16", "0", "-1"),
        "adam_beta1": decimal("0.9", "-1", "1", "1.5"),
        "adam_beta2": decimal("0.999", "-1", "1"),
        "adam_epsilon": decimal("1e-8", "-1"),
        "ema_power": decimal("0.75", "-1"),
        "ema_inv_gamma": decimal("1.0", "0", "-1"),
        "label_dropout": decimal("0.1", "-1", "1.5"),
        "class_sampling": choice("natural"),
        "recipe": choice("edm"),
        "report_to": choice("tensorboard", "none"),
        "scheduler_options": words("snr=0.1", numeric=False, hopeless=("snr", "=", "nope=3", "snr=a")),
        "objective": choice("likelihood"),
        "P_mean": decimal("-1.2"),
        "P_std": decimal("1.2", "0", "-1"),
        "snr_gamma": decimal("5.0", "0", "-1"),
        "ema_widths": decimal("0.1", "0", "-1"),
        "ema_snapshots": integer(1),
        "lr_step_rules": words("1:10,0.1:20,0.01", numeric=False, hopeless=("a:b", "1:", "nan")),
        "time_sampling": choice("stratified", "uniform"),
        "block_out_channels": integer(1),
        "attention_resolutions": integer(1),
    }
    scripts = {
        "parse_args": main,
        "parse_classifier_args": {
            **{key: shared[key] for key in shared},
            "depth": words("28", "10", hopeless=("11", "3", "0", "-2", "1.5")),
            "width": integer(1),
            "max_train_steps": integer(1),
            "train_batch_size": integer(1),
            "resolution": words("32", hopeless=("30", "0", "-4", "1.5")),
            "seed": integer(0),
            "lr_warmup_steps": integer(0),
            "logging_steps": integer(1),
            "checkpointing_steps": integer(1),
        },
    }
    entries = []
    for parser, options in scripts.items():
        fixed = {"parser": only(repr(parser)), "train_data_dir": only("file('data')")}
        entries += [Entry("parsed", {**fixed, option: kind}) for option, kind in options.items()]
    ve = {
        "parser": only("'parse_args'"),
        "train_data_dir": only("file('data')"),
        "sde": only("'ve'"),
        "sigma_min": decimal("0.01", "0", "-1", "100"),
        "sigma_max": decimal("50", "0", "-1", "0.001"),
    }
    edm = {
        **ve,
        "prediction_type": only("'edm'"),
        "sigma_data": decimal("0.5", "0", "-1"),
        "data_mean": decimal("0.1"),
    }
    edm = {key: kind for key, kind in edm.items() if key not in ("sigma_min", "sigma_max")}
    return [*entries, Entry("parsed", ve), Entry("parsed", edm)]


ENTRIES = {"losses": losses(), "data": data(), "arguments": arguments()}
