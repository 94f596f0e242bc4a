"""Entries: constructors and calls of the pipelines, on exact networks of 4 x 4 images and tiny networks of 8 x 8."""

from typing import Any

from .case import Entry, shape_of, shaped
from .entries_schedulers import STOCK
from .strategies import Kind, count, flag, functions, instance, name, numbers, only, real, some, without
from .strategies_data import generator, image, labels, operator, tensor


OUTPUT_TYPE = name("pil", "np", "pt", "latent")
STEPS = count(2, 3)
TOLERANCE = real(1e-2, 5e-2, "0.0", "-1e-3", "1.0", "5.0")
CALLBACK = Kind(
    some("None", *functions("pipe, i, t, kwargs", "kwargs; {}; None")),
    some(
        "'a'; 3; object(); []",
        *functions(
            "pipe, i, t, kwargs",
            "3; 'a'; [1]; {'latents': None}; {'latents': 'a'}; {'latents': torch.zeros(3)}; {'x': 3}; "
            "{'latents': kwargs['latents'][:1]}; {'latents': kwargs['latents'] * nan}; "
            "{'latents': kwargs['latents'].long()}",
        ),
    ),
)
CALLBACK_INPUTS = Kind(
    some("['latents']", "[]"),
    some("None", "3", "['nope']", "[3]", "'nope'", "object()", "[['latents']]", "{'a': 1}"),
    some("('latents',)", "'latents'", "{'latents'}"),
)
COMMON = {
    "output_type": OUTPUT_TYPE,
    "return_dict": flag(),
    "callback_on_step_end": CALLBACK,
    "callback_on_step_end_tensor_inputs": CALLBACK_INPUTS,
    "quality": name("draft", "default").optional(),
}
TOLD = {
    "unet": ("network", "sample", "score_fn", "model"),
    "callback_on_step_end": ("latents",),
    "callback_on_step_end_tensor_inputs": ("latents",),
    "height": ("latents",),
    "width": ("latents",),
    "operator": ("known", "A", "At", "measurement", "factor", "weights"),
    "scheduler": ("beta_start",),
}


def images(count_of: str = "", number: int = 2, channels: int = 1, size: int = 4) -> Any:
    """A check that the images have the expected number and shape."""

    def check(result: Any, arguments: dict[str, Any]) -> str | None:
        value = getattr(result, "images", result[0] if isinstance(result, tuple) else result)
        total = int(arguments[count_of]) if count_of else number
        kind = arguments.get("output_type", "pil")
        if kind == "pil":
            good = isinstance(value, list) and len(value) == total and value[0].size == (size, size)
            return None if good else f"{value!r:.80} instead of {total} images"
        expected = (total, size, size, channels) if kind == "np" else (total, channels, size, size)
        return None if shape_of(value) == expected else f"shape {shape_of(value)}, expected {expected}"

    return check


def networks() -> Kind:
    """A network of gray images, and what is none or returns something else."""
    results = (
        "None; x[:1]; x[:, :0]; 1.0; x.long(); x * nan; 'a'; x[..., None]; x.to(torch.complex64); x.mean(); x > 0"
    )
    wrong = [f"Outputs({function})" for function in functions("x", results)]
    wrong += [
        "None; 'unet'; 3; object(); []; {}; NCSNpp; torch.nn.Linear(2, 2); torch.nn.Identity(); lambda x, t: x; "
        "torch.nn.DataParallel(network()); scheduler(); classifier(); filled(vp_unet(), nan); gaussian()",
    ]
    return Kind(some("network()", "vp_unet()", "stock_unet()", "Outputs(lambda x: -x)"), some(*wrong))


def constructors() -> list[Entry]:
    """Each pipeline's constructor, with two sampling steps after it."""
    wrong = ("FlowMatchEulerDiscreteScheduler()", "VPSDEScheduler", "sde('vp')", "unet()")
    schedulers = instance("scheduler('vp')", "scheduler('table')", *STOCK[:2], extra=wrong)
    ends = {"data_min": real(-1, 0, "5.0").optional(), "data_max": real(1, 2, "-5.0").optional()}
    wrong_names = ("{'a': 3}", "{0: None}", "[1]", "{-1: 'a'}")
    names = (
        without(instance("None", "{0: 'cat', 1: 'dog'}", extra=wrong_names), "{}").optional().plus(doubtful=("{}",))
    )
    modules = {"id2label": names, "unet": networks(), "scheduler": schedulers, **ends}
    judge = (
        instance("classifier()")
        .optional()
        .plus(hopeless=("unet()", "NoiseConditionalClassifier", "torch.nn.Linear(2, 2)"))
    )
    return [
        Entry("ScoreSdePipeline", modules, then="images_of", aliases=TOLD),
        Entry("ScoreSdeInpaintPipeline", {**modules, "unet": only("network()")}, aliases=TOLD),
        Entry("ScoreSdeColorizationPipeline", {**modules, "unet": only("network()")}, aliases=TOLD),
        Entry("ScoreSdeSuperResolutionPipeline", {**modules, "unet": only("network()")}, aliases=TOLD),
        Entry("ScoreSdeInverseProblemPipeline", {**modules, "unet": only("network()")}, aliases=TOLD),
        Entry("ScoreSdeLikelihoodPipeline", modules, then="likelihood_of", aliases=TOLD),
        Entry(
            "ScoreSdeClassConditionalPipeline",
            {**modules, "unet": only("vp_unet()"), "classifier": judge},
            aliases=TOLD,
        ),
    ]


def sampling() -> list[Entry]:
    """Unconditional and class-conditional sampling."""
    latents = tensor(2, 1, 4, 4).optional()
    side = Kind(some("4", "None"), some("0; -4; 4.5; 'a'; nan; [4]"), some("8; 5; 4.0; np.int64(4); True"))
    tile_size = Kind(some("4", "None"), some("0; -4; 2; 5; 4.5; 'a'; nan; [4]; (4, 4, 4)"), some("np.int64(4); True"))
    tiles = {"tile_size": tile_size, "tile_batch_size": count(1, 2)}
    plain = {
        "batch_size": Kind(some("2"), count().hopeless, count(2, 2).doubtful),
        "num_inference_steps": STEPS.optional(),
        "generator": generator(2),
        "latents": latents,
        "height": side,
        "width": side,
        **tiles,
        **COMMON,
    }
    ode = {key: plain[key] for key in ("batch_size", "generator", "latents", "output_type")} | {
        "ode_tolerance": TOLERANCE.optional()
    }
    interval = numbers("(0.1, 5.0)", hopeless=("(5.0, 0.1)", "(-1.0, 1.0)", "(nan, 1.0)", "(0.1,)", "()")).optional()
    conditional = {
        "guidance_interval": interval,
        "class_labels": labels(),
        "guidance_scale": real(0, 2, "-1.0"),
        "num_inference_steps": only("2"),
        "num_samples": Kind(some("1"), count().hopeless, some("np.int64(1)", "True", "1.0")),
        "generator": generator(2),
        "latents": tensor(2, 1, 8, 8).optional(),
        **COMMON,
    }
    with_network = "pipe('ClassConditional', unet=vp_unet(num_class_embeds=3))"
    with_classifier = "pipe('ClassConditional', unet=vp_unet(), classifier=classifier())"
    entries = [
        Entry(f"pipe(kind={kind!r})", plain, check=images("batch_size"), aliases=TOLD)
        for kind in ("ve", "vp", "table")
    ]
    entries.append(Entry("pipe(kind='vp')", ode, check=images("batch_size"), aliases=TOLD))
    restarts = {**ode, "ode_tolerance": TOLERANCE, "num_restarts": count(0, 1)}
    entries.append(Entry("pipe(kind='vp')", restarts, check=images("batch_size"), aliases=TOLD))
    weak = {
        "weak_unet": Kind(some("vp_unet()", "None"), networks().hopeless, networks().good),
        "weak_guidance_scale": real(0, 2, "-1.0").optional(),
        "weak_guidance_interval": interval,
        "num_inference_steps": only("2"),
        "batch_size": only("2"),
    }
    told = TOLD | {"weak_unet": (*TOLD["unet"], "weak_guidance")}
    entries.append(Entry("pipe(unet=vp_unet())", weak, check=images("batch_size", size=8), aliases=told))
    for source in (with_network, with_classifier):
        entries.append(Entry(source, conditional, check=images(size=8), aliases=TOLD))
    return entries


def restoration() -> list[Entry]:
    """Inverse problems, inpainting, colorization and super-resolution."""
    common = {
        "method": name("moment_matching", "pseudo_inverse", "replacement", "twisted_smc"),
        "num_inference_steps": STEPS.optional(),
        "num_samples": Kind(some("2"), count().hopeless, some("np.int64(2)", "True", "2.0")),
        "generator": generator(2),
        "sampler": name("ode", "scheduler").optional(),
        "solver_tolerance": real(1e-3, 1e-2, "-1.0", "1.0", "5.0"),
        "solver_iterations": count(1, 2),
        **COMMON,
    }
    gray, color = (
        {**common, "latents": tensor(2, 1, 4, 4).optional()},
        {**common, "latents": tensor(2, 3, 4, 4).optional()},
    )
    measured = Kind(
        some("torch.tensor([0.5, 0.0]).repeat(1, 1, 4, 2)"),
        tensor(1, 1, 4, 4).hopeless,
        some(
            "torch.zeros(1, 1, 4, 4).half(); torch.zeros(1, 1, 4, 4, dtype=torch.int64); np.zeros((1, 1, 4, 4)); "
            "torch.zeros(1, 1, 4, 4).requires_grad_(); torch.zeros(1, 1, 4, 4).to('meta'); "
            "torch.full((1, 1, 4, 4), 5.0)",
        ),
    )
    operators = Kind(
        some("MaskOperator(torch.tensor([1.0, 0.0]).repeat(2))"), operator(1, 4).hopeless, operator(1, 4).good
    )
    mask = Kind(
        some(
            "torch.tensor([0.0, 1.0]).repeat(1, 1, 4, 2)",
            "np.uint8([[0, 255, 0, 0]] * 4)",
            "Image.fromarray(np.uint8([[0, 255, 0, 0]] * 4))",
        ),
        image(1, 4).hopeless
        | some("torch.zeros(1, 1, 4, 4)", "torch.full((3, 1, 4, 4), 1.0)", "Image.new('L', (3, 4))"),
        image(1, 4).good | some("torch.ones(4, 4, dtype=torch.bool)", "np.eye(4)", "np.eye(4, dtype=bool)"),
    )
    weights = numbers(
        "(0.3, 0.6, 0.1)",
        "[1, 1, 1]",
        hopeless=("[0, 0, 0]", "[1.0, nan, 1.0]", "[]", "[1.0]", "[1.0] * 4", "(inf, 1, 1)"),
        doubtful=("torch.ones(3)", "np.ones(3)"),
    )
    noise_std, resize = real(0, 0.1, "-1.0"), name("crop", "pad").optional()
    return [
        Entry(
            "pipe('InverseProblem')",
            {"measurement": measured, "operator": operators, "noise_std": noise_std, **gray},
            check=images(),
            aliases=TOLD,
        ),
        Entry(
            "pipe('InverseProblem', 've')",
            {"measurement": measured, "operator": operators, "noise_std": noise_std, **gray},
            check=images(),
            aliases=TOLD,
        ),
        Entry(
            "pipe('Inpaint')",
            {"image": image(1, 4), "mask_image": mask, "resize": resize, **gray},
            check=images(),
            aliases=TOLD,
        ),
        Entry(
            "pipe('Colorization', channels=3)",
            {"image": image(1, 4), "gray_weights": weights, "noise_std": noise_std, "resize": resize, **color},
            check=images(channels=3),
            aliases=TOLD,
        ),
        Entry(
            "pipe('SuperResolution')",
            {
                "image": image(1, 2),
                "scale": count(2, 2).plus(hopeless=("3", "1")),
                "noise_std": noise_std,
                "resize": resize,
                **gray,
            },
            check=images(),
            aliases={**TOLD, "scale": ("image",), "image": ("scale",)},
        ),
    ]


def likelihoods() -> list[Entry]:
    """Likelihood, codes and interpolation."""
    pictures = image(1, 4, batch=2)
    eps = real(1e-4, 1e-2, "0.0", "-1.0", "1.0", "5.0").optional()
    levels = count(256, 256).plus(hopeless=("1",))
    measure = {
        "images": pictures,
        "dequantization": name("uniform", "truncated_normal", "none"),
        "num_dequantizations": count(1, 1),
        "class_labels": only("None"),
        "importance_weighted": flag(),
        "divergence": name("hutchinson", "exact").plus(hopeless=("Divergence",)),
        "num_probes": count(1, 1),
        "tolerance": TOLERANCE,
        "generator": generator(2),
        "sampling_eps": eps,
        "levels": levels,
        "official_cells": flag(),
        "return_dict": flag(),
    }
    data = tensor(2, 1, 4, 4)
    classes = {"class_labels": labels().optional(), "tolerance": TOLERANCE}
    decode = {
        "latents": data,
        "tolerance": TOLERANCE,
        "temperature": real(0.5, 1, "-1.0"),
        "output_type": OUTPUT_TYPE,
        "sampling_eps": eps,
    }
    one = Kind(image(1, 4).good, image(1, 4).hopeless | pictures.good, image(1, 4).doubtful)
    told = {"images": ("levels",), "first": ("images",), "second": ("images",), "levels": ("images",)}
    conditional = "pipe('Likelihood', unet=vp_unet(num_class_embeds=3))"
    return [
        Entry("pipe('Likelihood')", measure, check=bits, aliases=told),
        Entry("pipe('Likelihood')", {"images": data, "levels": only("None"), "tolerance": TOLERANCE}, aliases=told),
        Entry(
            "pipe('Likelihood').encode",
            {"images": pictures, "tolerance": TOLERANCE, "sampling_eps": eps, "levels": levels},
            check=shaped(2, 1, 4, 4),
            aliases=told,
        ),
        Entry("pipe('Likelihood').decode", decode, check=images(), aliases=told),
        Entry(
            "pipe('Likelihood').interpolate",
            {
                "first": one,
                "second": one,
                "num_images": count(2, 3),
                "tolerance": TOLERANCE,
                "output_type": OUTPUT_TYPE,
            },
            check=images("num_images"),
            aliases=told,
        ),
        Entry(f"{conditional}.encode", {"images": image(1, 8, batch=2), **classes}, aliases=told),
        Entry(f"{conditional}.decode", {"latents": tensor(2, 1, 8, 8), **classes}, aliases=told),
    ]


def bits(result: Any, arguments: dict[str, Any]) -> str | None:
    """Bits/dim of two images."""
    value = getattr(result, "bits_per_dim", result[0])
    return None if shape_of(value) == (2,) else f"bits_per_dim of shape {shape_of(value)}"


ENTRIES = {
    "pipelines": constructors(),
    "sampling": sampling(),
    "restoration": restoration(),
    "likelihoods": likelihoods(),
}
