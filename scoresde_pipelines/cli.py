"""The `scoresde` command; `command_table` has its commands.

Until `main` is called nothing is imported but what tells it how to end: Ctrl-C while the rest is imported is one line.
"""

from typing import TYPE_CHECKING, Any

from .training.program_end import end_at_once, run_program


if TYPE_CHECKING:
    from .command_table import app


__all__ = ["app", "main"]


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .command_table import app

    return app


def main() -> None:
    """The `scoresde` command. A signal ends it with one line and the code 128 + its number, Ctrl-C with 130."""
    end_at_once()
    from .command_table import app

    run_program(lambda: app(prog_name="scoresde"))


if __name__ == "__main__":
    main()
