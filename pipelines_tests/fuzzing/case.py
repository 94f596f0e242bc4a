"""An entry of the public API with the kinds of its arguments, and calls of it with one or two bad arguments."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from .pieces import NAMESPACE
from .strategies import Kind


Check = Callable[[Any, dict[str, Any]], str | None]


@dataclass(frozen=True)
class Entry:
    """A public function, class or method.

    Args:
        source: expression in the names of `pieces` for what is called.
        arguments: the kind of each argument; those that the function does not have (any more) are left out.
        then: expression for a function that uses the result, as a user would next.
        check: `(result, arguments) -> problem or None`, for results of a wrong shape or type.
        aliases: other names by which a message may call an argument.
    """

    source: str
    arguments: Mapping[str, Kind]
    then: str = ""
    check: Check | None = None
    aliases: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @cached_property
    def fuzzed(self) -> list[str]:
        """The arguments that have bad values."""
        return [
            name
            for name, kind in self.known_arguments.items()
            if not (kind.hopeless.is_empty and kind.doubtful.is_empty)
        ]

    @cached_property
    def known_arguments(self) -> dict[str, Kind]:
        """The arguments that the function has today."""
        parameters = inspect.signature(eval(self.source, NAMESPACE)).parameters
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            return dict(self.arguments)
        return {name: kind for name, kind in self.arguments.items() if name in parameters}


@dataclass(frozen=True)
class Case:
    """One call: the text of each argument, which of them are bad, and whether no right result exists."""

    entry: Entry
    arguments: dict[str, str]
    corrupted: tuple[str, ...] = ()
    hopeless: bool = False

    @property
    def text(self) -> str:
        """The call as an expression in the names of `pieces`."""
        call = f"{self.entry.source}({', '.join(f'{name}={text}' for name, text in self.arguments.items())})"
        return f"{self.entry.then}({call})" if self.entry.then else call

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(self.text)  # how Hypothesis prints what it found


def cases(entries: Sequence[Entry]) -> SearchStrategy[Case]:
    """Calls of the entries: one argument is bad, rarely two or none, all others are right."""
    pairs = [(entry, name) for entry in entries for name in entry.fuzzed]
    return st.sampled_from(pairs).flatmap(lambda pair: _cases_of(*pair))


@st.composite
def _cases_of(draw: DrawFn, entry: Entry, first: str) -> Case:
    number = draw(st.sampled_from([1] * 14 + [2, 0]))
    corrupted = {first, draw(st.sampled_from(entry.fuzzed))} if number == 2 else {first} if number else set()
    arguments, hopeless = {}, False
    for name, kind in entry.known_arguments.items():
        if name not in corrupted:
            arguments[name] = draw(kind.good)
            continue
        never = not kind.hopeless.is_empty and (kind.doubtful.is_empty or draw(st.integers(0, 3)) > 0)
        arguments[name] = draw(kind.hopeless if never else kind.doubtful)
        # Two bad arguments may fit together, such as tensors of one other shape.
        hopeless |= never and len(corrupted) == 1
    return Case(entry, arguments, tuple(sorted(corrupted)), hopeless)


def like(name: str, dtype: bool = True) -> Check:
    """The result has the shape, and the dtype, of a tensor argument."""

    def check(result: Any, arguments: dict[str, Any]) -> str | None:
        expected = arguments[name]
        if not isinstance(expected, torch.Tensor):
            return None
        if not isinstance(result, torch.Tensor) or result.shape != expected.shape:
            return f"shape {shape_of(result)} for {name} of shape {tuple(expected.shape)}"
        # Of arguments with several dtypes the result has the larger one, and a complex argument makes it complex.
        dtypes = {value.dtype for value in arguments.values() if hasattr(value, "dtype") and value.ndim}
        unmixed = dtypes == {expected.dtype} and not any(is_complex(value) for value in arguments.values())
        if dtype and unmixed and expected.is_floating_point() and result.dtype != expected.dtype:
            return f"dtype {result.dtype} for {name} of dtype {expected.dtype}"
        return None

    return check


def is_complex(value: Any) -> bool:
    """Whether a value is a complex number or tensor."""
    return isinstance(value, complex) or (isinstance(value, torch.Tensor) and value.is_complex())


def first_like(name: str) -> Check:
    """`like` for the first of several results."""
    return lambda result, arguments: like(name)(result[0], arguments)


def shaped(*shape: int | str, field: str = "") -> Check:
    """The result, or a field of it, has this shape; a text stands for the length of that argument."""

    def check(result: Any, arguments: dict[str, Any]) -> str | None:
        value = getattr(result, field) if field else result
        expected = tuple(len(arguments[item]) if isinstance(item, str) else item for item in shape)
        return None if shape_of(value) == expected else f"shape {shape_of(value)}, expected {expected}"

    return check


def shape_of(value: Any) -> tuple[int, ...]:
    """The shape of an array or tensor, the length of a list, (-1,) of anything else."""
    if isinstance(value, list | tuple):
        return (len(value), *(shape_of(value[0]) if value and hasattr(value[0], "shape") else ()))
    return tuple(getattr(value, "shape", (-1,)))
