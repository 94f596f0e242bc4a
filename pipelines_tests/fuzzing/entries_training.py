"""Entries: losses, time sampling, data, checkpoints, and the arguments of the training scripts."""

from .case import Entry
from .strategies import Kind, count, flag, functions, instance, name, numbers, only, path, real, some, without
from .strategies_data import image, score_function, tensor


AN_SDE = instance("sde('ve')", "sde('vp')", extra=("scheduler('vp')", "VPSDE"))
X = tensor(2, 1, 4, 4, strict=False)
LEVELS = Kind(some("torch.tensor([0.1, 0.9])"), tensor(2).hopeless, some("torch.tensor([0.5, 2.0])"))
ONE_GENERATOR = Kind(
    some("None", "torch.Generator().manual_seed(0)"), some("'a'", "3", "object()", "[]", "np.random.default_rng(0)")
)


def losses() -> list[Entry]:
    """Losses, objectives and the times that they are averaged over."""
    common = {"x0": X, "noise": X}
    # The loss of an output with NaN is NaN: a run in half precision goes on from there.
    overflows = functions("x, t", "x * nan; x.double() * inf")
    outputs = without(score_function(), *overflows).plus(doubtful=overflows)
    loss = {
        "score_fn": outputs,
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
            "None; 'a'; 3; object(); (lambda sde, t: None); (lambda sde, t: t[:1]); (lambda sde, t: t * nan)",
        ),
    )
    output = {
        "output_fn": outputs,
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
    # A run's folder may not be there yet: then it has no checkpoints.
    run_folder = without(path("file('empty')"), "'nowhere/at/all'", "Path('nowhere')", "'https://example.invalid/a'")
    images = tensor(2, 1, 4, 4)
    ends = numbers(
        "(-1.0, 1.0)",
        "(0.0, 1.0)",
        hopeless=("(1.0, -1.0)", "(0.0, 0.0)", "(nan, 1.0)", "(0.0,)", "(0.0, 1.0, 2.0)", "()"),
    )
    bytes_ = Kind(some("torch.zeros(2, 1, 4, 4, dtype=torch.uint8)"), images.hopeless, images.good | images.doubtful)
    elementwise = tensor(2, 1, 4, 4, fixed=False)
    covariance = numbers(
        "torch.eye(3)", hopeless=("torch.eye(4)", "torch.full((3, 3), nan)", "-torch.eye(3)", "torch.ones(3)")
    )
    mean = numbers("torch.zeros(3)", hopeless=("torch.zeros(4)", "torch.full((3,), nan)", "torch.zeros(3, 3)"))
    formats = {
        "resolution": without(count(4, 8), "[1, 2]"),  # height and width
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
            # Images are read later, by `ImageStore`.
            {"train_data_dir": without(folder, "file('broken')"), "split": name("train")},
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
        Entry("to_data_range", {"images": elementwise, "data_range": ends}),
        Entry("to_uint8", {"images": elementwise, "data_range": ends}),
        Entry(
            "image_grid",
            {
                "images": bytes_,
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
                "output_dir": run_folder,
                "resume_from": name("latest").tolerant().plus(hopeless=("'nowhere'", "3")),
            },
        ),
        Entry("rotate", {"output_dir": run_folder, "total_limit": count(1, 3).optional()}),
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


ENTRIES = {"losses": losses(), "data": data()}
