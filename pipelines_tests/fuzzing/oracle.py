"""Runs one call and judges its outcome.

Right outcomes are a valid result, and a refusal that names a bad argument: TypeError, ValueError or ODEError, and for
command lines the exit code 2 (`Refused`). Everything else is a failure: another exception, a message without the
argument's name, NaN or infinity that no state and no function of the user's brought in, a result of a wrong shape or
type, a value accepted that has no right result, and a call that takes too long.
"""

import contextlib
import dataclasses
import io
import linecache
import math
import re
import signal
import traceback
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import huggingface_hub
import numpy as np
import torch
from PIL import Image

import scoresde_pipelines
from scoresde_pipelines.schedulers import ODEError

from .case import Case
from .pieces import NAMESPACE
from .pieces_files import Refused, workspace


LIMIT_S = 5.0  # CPU seconds of one call, which another process on the machine does not use up
PACKAGE = Path(scoresde_pipelines.__file__).resolve().parent.parent


class Hang(BaseException):
    """Raised inside of a call that took too long; no `except Exception` stops it."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a call ended.

    Args:
        right: whether the contract holds.
        kind: "result", "refused", or what is wrong: "unnamed", "type", "not finite", "invalid", "accepted", "hang".
        detail: the exception or what is wrong with the result.
    """

    right: bool
    kind: str
    detail: str = ""


def judge(case: Case) -> Outcome:
    """Runs the case and judges how it ended."""
    torch.manual_seed(0)
    np.random.seed(0)
    torch.use_deterministic_algorithms(False)
    with _quiet():
        kwargs = {name: _evaluate(text) for name, text in case.arguments.items()}
        function = _evaluate(case.entry.source)
        then = _evaluate(case.entry.then) if case.entry.then else None
        finite = not _spreads(case, kwargs)
        try:
            with _time_limit(LIMIT_S):
                result = function(**kwargs)
                result = then(result) if then else result
        except Hang:
            return Outcome(False, "hang", f"more than {LIMIT_S:g} s")
        except Exception as error:
            return _judge_error(case, kwargs, error)
        finally:
            torch.set_grad_enabled(True)
        return _judge_result(case, result, kwargs, finite)


def _spreads(case: Case, kwargs: dict[str, Any]) -> bool:
    """Whether NaN or infinity may be in the result: functions of the user's return them, or states of a formula hold them.

    Formulas do not look at the values of states, which would wait for the device: NaN in, NaN out. Numbers are refused, and
    so is everything that is not finite in a pipeline.
    """
    if any("lambda" in text and re.search(r"\b(nan|inf)\b", text) for text in case.arguments.values()):
        return True
    states = [value for value in kwargs.values() if isinstance(value, torch.Tensor | np.ndarray)]
    return not case.entry.source.startswith("pipe(") and not all(map(is_finite, states))


def repeat(text: str) -> Any:
    """The result of a call as the reports print it: one expression in the names of `pieces`."""
    torch.manual_seed(0)
    np.random.seed(0)
    return _evaluate(text)


def _evaluate(text: str) -> Any:
    return eval(text, NAMESPACE)


def _judge_error(case: Case, kwargs: dict[str, Any], error: Exception) -> Outcome:
    words = _words(error)
    frames = traceback.extract_tb(error.__traceback__)
    given = any("lambda" in text for text in case.arguments.values())
    if given and frames[-1].filename == "<string>":  # a function of the user's, such as a callback, raised it
        return Outcome(True, "the argument's own error", words)
    if not case.corrupted:
        return Outcome(False, "valid call refused", words)
    if not isinstance(error, TypeError | ValueError | ODEError):
        return Outcome(False, "type", words)
    names = {alias for name in case.corrupted for alias in (name, *case.entry.aliases.get(name, ()))}
    if any(names_argument(error, name) for name in names):
        return Outcome(True, "refused", words)
    if any(is_path(kwargs[name]) and str(kwargs[name]) in str(error) for name in case.corrupted):
        return Outcome(True, "refused", words)
    return Outcome(False, "unnamed", words)


def is_path(value: Any) -> bool:
    """Whether a value is the path of a file or folder, which names itself in a message."""
    return isinstance(value, str | Path) and len(str(value)) > 3 and ("/" in str(value) or Path(value).suffix != "")


def _judge_result(case: Case, result: Any, kwargs: dict[str, Any], finite: bool) -> Outcome:
    if case.hopeless:
        return Outcome(False, "accepted", _short(result))
    if not is_finite(result) and finite:
        return Outcome(False, "not finite", _short(result))
    problem = case.entry.check(result, kwargs) if case.entry.check else None
    return Outcome(False, "invalid", problem) if problem else Outcome(True, "result")


def names_argument(error: BaseException, name: str) -> bool:
    """Whether an error's message says which argument is bad.

    A message of the package's own `raise` may have the name anywhere. Others, from torch or Python, name an argument
    only by accident unless the name is quoted or followed by what it must be.
    """
    message, escaped = str(error), re.escape(name)
    if isinstance(error, Refused):
        escaped = escaped.replace("_", "[-_]")
        if re.search(rf"(--|for ){escaped}(?![\w-])", message):
            return True
    elif _is_deliberate(error) and len(name) > 2:
        return re.search(rf"(?<![\w']){escaped}(?![\w'])|['`]{escaped}['`]", message) is not None
    if _is_deliberate(error) and re.search(rf"\b(of|for) {escaped}\b", message):
        return True  # "score must have the shape of x": both are named
    verbs = "must|should|is|are|has|have|needs|holds|lies|of shape|and|cannot"
    return re.search(rf"(?<![\w']){escaped} ({verbs})\b|['`]{escaped}['`]|\b{escaped}=", message) is not None


def is_finite(value: Any, depth: int = 0) -> bool:
    """Whether no number inside of a value is NaN or infinite."""
    if isinstance(value, torch.Tensor):
        return value.is_meta or value.is_sparse or bool(torch.isfinite(value).all())
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.kind not in "fc" or bool(np.isfinite(value).all())
    if isinstance(value, float | complex):
        return math.isfinite(abs(value))
    if depth > 3 or isinstance(value, str | bytes | type | Image.Image | torch.nn.Module):
        return True
    if dataclasses.is_dataclass(value):
        return all(is_finite(getattr(value, field.name), depth + 1) for field in dataclasses.fields(value))
    if isinstance(value, Mapping):
        return all(is_finite(item, depth + 1) for item in value.values())
    return not isinstance(value, list | tuple) or all(is_finite(item, depth + 1) for item in value)


def _is_deliberate(error: BaseException) -> bool:
    """Whether a `raise` statement of the package is where the error comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or not Path(frames[-1].filename).resolve().is_relative_to(PACKAGE):
        return False
    return linecache.getline(frames[-1].filename, frames[-1].lineno or 0).lstrip().startswith("raise")


def _words(error: BaseException) -> str:
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message[:200]}"


def _short(result: Any) -> str:
    text = " ".join(repr(result).split())
    return text if len(text) < 120 else f"{type(result).__name__} {text[:100]}..."


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with (
        contextlib.chdir(workspace()),  # what a call writes must not land in the user's folder
        warnings.catch_warnings(),
        mock.patch.object(huggingface_hub.constants, "HF_HUB_OFFLINE", True),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield
