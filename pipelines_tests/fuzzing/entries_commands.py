"""Entries: the commands of `scoresde`."""

from .case import Entry
from .entries_arguments import choice
from .entries_networks import conversions
from .strategies import Kind, count, flag, instance, name, only, some, without, words


MODEL = Kind(
    some("file('model')"),
    some("''", "'nowhere/at/all'", "file('empty')", "file('text.txt')", "file('data')", "'a b'", "'../..'"),
)
DATA = Kind(
    some("file('data')"), some("''", "'nowhere/at/all'", "file('empty')", "file('text.txt')", "file('broken')")
)
OUTPUT = Kind(
    some("fresh('table.csv')", "fresh('table.jsonl')"), some("fresh('table.txt')", "''", "file('empty')", "'/'")
)
TOLD = {"data": ("a.png", "image"), "model": ("model_index.json",), "output": ("table",)}


def integer(*more: str) -> Kind:
    """An integer option of at least 1."""
    return words("1", "2", hopeless=("0", "-1", "1.5", "inf", *more))


def likelihood() -> list[Entry]:
    """`scoresde likelihood` on one image."""
    fixed = {
        "model": only("file('model')"),
        "data": only("file('data')"),
        "output": OUTPUT,
        "split": only("'train'"),
        "limit": only("'1'"),
        "tolerance": only("'0.5'"),
        "device": only("'cpu'"),
    }
    options = {
        "model": MODEL,
        "data": DATA,
        "output": OUTPUT,
        # Of a folder without splits all images are read, whatever the split is called.
        "split": words("train", numeric=False, doubtful=("nope",)),
        "limit": integer(),
        "batch_size": integer(),
        "fit": choice("crop", "pad"),
        "dequantization": choice("uniform", "none"),
        "num_dequantizations": integer(),
        "divergence": choice("hutchinson", "exact"),
        "num_probes": integer(),
        "tolerance": words("0.5", hopeless=("0", "1", "-1", "inf", "5")),
        "seed": words("0", "5", hopeless=("1.5", "-1", "inf"), doubtful=("9" * 30,)),
        "device": Kind(some("'cpu'"), some("'nope'", "''", "'cpu:x'", "'7'"), some("'cuda'")),
    }
    return [Entry("likelihood_command", {**fixed, option: kind}, aliases=TOLD) for option, kind in options.items()]


def sample() -> list[Entry]:
    """`scoresde sample` of one picture in one step."""
    fixed = {
        "model": only("file('model')"),
        "output": only("fresh('pictures')"),
        "num_images": only("'1'"),
        "steps": only("'1'"),
        "device": only("'cpu'"),
    }
    options = {
        "model": MODEL,
        "output": Kind(some("fresh('pictures')", "file('empty')"), some("file('text.txt')", "file('data')")),
        "num_images": integer(),
        "steps": integer(),
        "batch_size": integer(),
        "sampler": choice("ddim", "euler_maruyama"),
        "seed": words("0", "5", hopeless=("1.5", "-1", "inf")),
        "dtype": choice("float32"),
        "device": Kind(some("'cpu'"), some("'nope'", "''", "'cpu:x'", "'7'"), some("'cuda'")),
    }
    told = {"model": TOLD["model"], "output": ("output",)}
    return [Entry("sample_command", {**fixed, option: kind}, aliases=told) for option, kind in options.items()]


def convert() -> list[Entry]:
    """`scoresde convert`."""
    path = next(entry.arguments["path"] for entry in conversions() if entry.source == "load_official_checkpoint")
    checkpoint = Kind(
        some("file('official.pth')"),
        path.hopeless.filter(lambda text: text.startswith(("damaged", "file", "'")) and "\\0" not in text),
    )
    folder = Kind(
        some("fresh('new')"), some("file('empty')", "file('text.txt')", "''", "fresh('a/b') + '/../../../text.txt/x'")
    )
    config = Kind(
        some("'cifar10_ncsnpp'").filter(lambda text: False),
        words("a", numeric=False, hopeless=("nope", "nowhere.json", "1")).hopeless,
    )
    told = {"checkpoint": ("weights", "damaged.pth", "text.txt", "ema", "model", "shadow_params")}
    return [
        Entry("convert_command", {"checkpoint": checkpoint, "folder": folder}, aliases=told),
        Entry(
            "convert_command",
            {
                "checkpoint": only("file('official.pth')"),
                "folder": folder,
                "config": Kind(some("file('config.json')"), config.hopeless),
            },
            aliases=told,
        ),
    ]


# The comparison of real images with real ones is NaN where there are no others.
ROWS = "(lambda result: result.rows)"


def evaluate() -> list[Entry]:
    """`evaluate` on two images of one step."""
    fixed = {
        "models": only("file('model')"),
        "data": only("file('data')"),
        "output": only("fresh('evaluation')"),
        "split": only("'train'"),
        "steps": only("1"),
        "num_images": only("4"),
        "features": only("lambda x: x.flatten(1)[:, :3].float()"),
        "metrics": only("'kid'"),
        "device": only("'cpu'"),
    }
    told = {
        "models": ("model", "nowhere/at/all", "empty", "text.txt", "data"),
        "data": ("a.png", "image", "split"),
        "samplers": ("sampler",),
        "features": ("extractor",),
    }
    options = {
        "models": instance(
            "[file('model')]",
            extra=("[]", "'nowhere/at/all'", "file('empty')", "file('text.txt')", "['a', 'a']", "[3]", "''"),
        ),
        "data": instance(
            "file('data')", extra=("'nowhere/at/all'", "file('empty')", "file('text.txt')", "file('broken')", "''")
        ),
        "output": instance("Path(fresh('e'))", extra=("file('text.txt')",)),
        "samplers": without(name("default"), "['default']", "('default',)").plus(
            good=("['default']",), hopeless=("['default'] * 2",)
        ),
        "steps": count(1, 2).plus(good=("[1, 2]",), hopeless=("[1, 1]", "['a']", "[nan]", "[0]")),
        "seeds": count(0, 3, huge=False).plus(good=("[0, 1]",), hopeless=("[0, 0]", "['a']")),
        "num_images": count(4, 4),
        "batch_size": count(1, 2),
        "metrics": without(name("kid"), "['kid']", "('kid',)").plus(
            good=("['kid']",), hopeless=("['nope']", "['kid', 'kid']")
        ),
        "num_reference": count(4, 4).optional(),
        "num_bpd_images": count(1, 1),
        "fit": name("crop", "pad").optional(),
        "npz": flag(),
        "write_cards": flag(),
        "guidance_scale": instance("None", extra=("-1", "[]", "[1, 1]", "'a'", "nan", "[2, 'a']")).optional(),
        "weak_model": instance(
            "file('model')", extra=("'nowhere/at/all'", "file('empty')", "file('text.txt')", "3", "''", "['a']")
        ).optional(),
        "weak_guidance_scale": instance("None", extra=("2", "[]", "'a'", "nan")).optional(),
        "device": name("cpu").tolerant().plus(hopeless=("'nope'", "3.5", "object()")),
        "features": instance("'emoji-32'", extra=("'nope'", "''", "lambda x: None", "lambda x: 'a'")).optional(),
        "sampler_settings": without(
            instance("None", extra=("{'mine': 3}", "{3: {}}", "{'mine': {'nope': 3}}")), "{}"
        ).optional(),
    }
    return [Entry("evaluate", {**fixed, option: kind}, then=ROWS, aliases=told) for option, kind in options.items()]


ENTRIES = {"commands": likelihood() + sample() + convert(), "evaluation": evaluate()}
