"""Files, folders and command lines to call the package with."""

import contextlib
import io
import json
import os
import re
import tempfile
from functools import cache
from math import nan
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from typer.testing import CliRunner

from scoresde_pipelines.cli import app
from scoresde_pipelines.training.arguments import parse_args
from scoresde_pipelines.training.classifier_arguments import parse_classifier_args

from .pieces_models import pipe, unet


os.environ["COLUMNS"] = "400"  # the command line's messages must not be broken into lines
PARSERS = {"parse_args": parse_args, "parse_classifier_args": parse_classifier_args}


class Refused(ValueError):
    """A command line ended with a message and an exit code that is not 0."""


OFFICIAL_CONFIG = {
    "data": {"image_size": 8, "num_channels": 1, "centered": True},
    "model": {
        "name": "ncsnpp",
        "nf": 4,
        "ch_mult": (1, 1),
        "num_res_blocks": 1,
        "attn_resolutions": (4,),
        "dropout": 0.0,
        "resamp_with_conv": True,
        "conditional": True,
        "scale_by_sigma": True,
        "num_scales": 1000,
        "embedding_type": "fourier",
        "resblock_type": "biggan",
        "fir": True,
        "progressive_input": "residual",
        "progressive": "none",
        "progressive_combine": "sum",
        "skip_rescale": True,
    },
    "training": {"sde": "vesde", "continuous": True},
}


@cache
def workspace() -> Path:
    """A temporary folder with images (`data`), a pipeline (`model`) and an official checkpoint (`official.pth`)."""
    root = Path(_FOLDER.name)
    (root / "data").mkdir()
    for i in range(4):
        Image.new("L", (8, 8), 50 * i + 20).save(root / "data" / f"{i}.png")
    (root / "empty").mkdir()
    (root / "broken").mkdir()
    (root / "broken" / "a.png").write_bytes((root / "data" / "0.png").read_bytes()[:30])
    (root / "config.json").write_text(json.dumps(OFFICIAL_CONFIG), "utf-8")
    (root / "text.txt").write_text("no checkpoint")
    small = unet(sample_size=4, block_out_channels=(4,), attention_resolutions=())
    pipe(unet=small, kind="ve").save_pretrained(root / "model")
    from official_names import to_official  # of the folder above, which pytest puts on the path

    state = to_official(unet(center_input_sample=False))
    content = {
        "model": {f"module.{key}": value for key, value in state.items()},
        "ema": {"decay": 0.999, "num_updates": 5, "shadow_params": list(state.values())},
        "optimizer": {},
        "step": 5,
    }
    torch.save(content, root / "official.pth")
    return root


_FOLDER = tempfile.TemporaryDirectory(prefix="fuzzing-")


def file(name: str) -> str:
    """A file or folder of `workspace`."""
    return str(workspace() / name)


def fresh(name: str) -> str:
    """A path in an empty folder, for what a call writes."""
    return str(Path(tempfile.mkdtemp(dir=workspace())) / name)


def damaged(how: str, value: int = 0) -> str:
    """The official checkpoint with one damage: "cut" or "flip" at a byte, or a change of its content."""
    data = bytearray(Path(file("official.pth")).read_bytes())
    target = Path(fresh("damaged.pth"))
    if how == "cut":
        data = data[: value % len(data)]
    elif how == "flip":
        data[value % len(data)] ^= 1 << value % 8
    if how in ("cut", "flip"):
        target.write_bytes(data)
        return str(target)
    content = torch.load(file("official.pth"), weights_only=True)
    torch.save(_changed(content, how, value), target)
    return str(target)


def _changed(content: Any, how: str, value: int) -> Any:
    keys = sorted(content["model"])
    key, part = keys[value % len(keys)], sorted(content)[value % len(content)]
    changes = {
        "no tensor": lambda: content["model"].pop(key),
        "bool": lambda: content["model"].update({key: content["model"][key].bool()}),
        "int8": lambda: content["model"].update({key: content["model"][key].to(torch.int8)}),
        "nan": lambda: content["ema"]["shadow_params"][value].mul_(nan),
        "shape": lambda: content["model"].update({key: content["model"][key][None]}),
        "extra": lambda: content["model"].update({"module.extra": torch.zeros(2)}),
        "short": lambda: content["ema"]["shadow_params"].pop(),
        "no part": lambda: content.pop(part),
        "part": lambda: content.update({part: [1, "a"]}),
        "keys": lambda: content["model"].update({3: torch.zeros(1)}),
    }
    changes[how]()
    return content


def command(name: str, *arguments: str, **options: str) -> str:
    """The output of `scoresde <name>`."""
    words = [f"--{key.replace('_', '-')}={value}" for key, value in options.items() if not isinstance(value, bool)]
    words += [f"--{key.replace('_', '-')}" for key, value in options.items() if value is True]
    result = CliRunner().invoke(app, [name, *words, *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    if result.exit_code:
        output = " ".join(result.output.split())
        raise Refused(re.split(r"─ Error ─+╮|\berror: ", output)[-1].strip(" │╰─╯"))
    return result.output


def likelihood_command(**options: str) -> str:
    """`scoresde likelihood`."""
    return command("likelihood", **options)


def sample_command(**options: str) -> str:
    """`scoresde sample`."""
    return command("sample", **options)


def convert_command(checkpoint: str, folder: str, **options: str) -> str:
    """`scoresde convert`."""
    return (
        command("convert", "--", checkpoint, folder)
        if not options
        else command("convert", checkpoint, folder, **options)
    )


def parsed(parser: str, **options: str | bool) -> dict:
    """The arguments that a training script reads from a command line."""
    words = [f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()]
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages):
            return vars(PARSERS[parser](words))
    except SystemExit as end:
        if end.code != 2:
            raise RuntimeError(f"exit code {end.code}") from end
        raise Refused(" ".join(messages.getvalue().partition("error:")[2].split())) from end
