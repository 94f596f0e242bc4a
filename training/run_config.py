"""Run files: a command line as YAML. `--config run.yaml` reads one; every run saves its own as `run.yaml`."""

import argparse
from pathlib import Path
from typing import Any

import yaml

from .durable_files import write_text


RUN_FILE = "run.yaml"
# What belongs to one start of a run, or is a secret.
NOT_SAVED = ("config", "hub_token", "resume_from_checkpoint", "overwrite_output_dir", "allow_changed_settings")


def config_words(parser: argparse.ArgumentParser, path: str | Path) -> list[str]:
    """The words of a command line that a YAML file of `name: value` stands for, so that they are checked alike.

    Lists become several words, true and false `--name` and `--no-name`, null leaves the default.

    Raises:
        ValueError: the file cannot be read, is no mapping, or has a name that is no argument.
    """
    try:
        values = yaml.safe_load(Path(path).read_text("utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"config must be a readable YAML file, got {path}: {error}") from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ValueError(f"config must be a YAML mapping of argument names, got {type(values).__name__} in {path}")
    known = {action.dest for action in parser._actions} - {"help", "config"}
    unknown = sorted(str(name) for name in values if name not in known)
    if unknown:
        raise ValueError(f"config must hold names of arguments, got {', '.join(unknown)} in {path}")
    options = parser._option_string_actions
    # Options that can only be switched on have no word for false.
    given = {name: value for name, value in values.items() if value is not False or f"--no-{name}" in options}
    return [word for name, value in given.items() for word in argument_words(name, value)]


def argument_words(name: str, value: Any) -> list[str]:
    """One argument as it is typed; nothing for None."""
    if value is None:
        return []
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if str(value).startswith("-"):  # -1e-05 would be taken for an option
        return [f"--{name}={value}"]
    values = value if isinstance(value, (list, tuple)) else [value]
    return [f"--{name}", *(str(item) for item in values)]


def save_run_config(args: argparse.Namespace, output_dir: str | Path) -> Path:
    """Writes the resolved arguments into `output_dir/run.yaml`; returns its path."""
    values = {name: _plain(value) for name, value in vars(args).items() if name not in NOT_SAVED}
    path = Path(output_dir) / RUN_FILE
    write_text(path, yaml.safe_dump(values, sort_keys=False))
    return path


def _plain(value: Any) -> Any:
    """What YAML can hold of an argument; objects given from Python are written by their name."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
