"""How the programs end at a signal: one line, 128 + its number, also while they import."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scoresde_pipelines.training.program_end import run_program


WRAPPED = """
import signal, sys
from scoresde_pipelines import cli
from scoresde_pipelines.pipeline_score_sde import ScoreSdePipeline

def load(*args, **kwargs):
    try:
        signal.raise_signal(getattr(signal, name))
    except BaseException as error:  # as the lazy imports of transformers do
        raise RuntimeError("Could not import module 'PreTrainedModel'") from error

signal.signal(signal.SIGINT, signal.default_int_handler)
name, ScoreSdePipeline.from_pretrained = sys.argv.pop(), load
cli.main()
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_ends_with_its_code_and_one_line_also_within_an_import(name, code, tmp_path):
    command = [
        sys.executable,
        "-c",
        WRAPPED,
        "export",
        "--model",
        "some/model",
        "--output",
        str(tmp_path / "out"),
        name,
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == code
    assert result.stderr.splitlines()[-1] == f"error: ended by {name}" and "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


PROGRAMS = {
    "scoresde_pipelines.cli": ("typer", ["sample"]),
    "scoresde_pipelines.training.train_unconditional": ("torch", ["--train_data_dir", str(Path(__file__).parent)]),
    "scoresde_pipelines.training.train_classifier": ("torch", ["--train_data_dir", str(Path(__file__).parent)]),
    "scoresde_pipelines.training.feature_classifier": ("torch", []),
    "scoresde_pipelines.training.evaluate": ("torch", []),
    "scoresde_pipelines.demo": ("numpy", []),
    "scoresde_pipelines.viz": ("torch", []),
}


@pytest.mark.parametrize("module", PROGRAMS)
def test_ctrl_c_while_a_program_imports_is_one_line(module, tmp_path):
    # A library that receives Ctrl-C while it is imported, and makes something else of the exception.
    library, arguments = PROGRAMS[module]
    (tmp_path / f"{library}.py").write_text(
        "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\nexcept BaseException as error:\n"
        "    raise ImportError('could not be imported') from error\n"
    )
    start = "import signal, runpy; signal.signal(signal.SIGINT, signal.default_int_handler); "
    start += f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    result = subprocess.run(
        [sys.executable, "-c", start, *arguments],
        capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "error: ended by SIGINT\n")


def test_a_program_that_is_interrupted_cleans_up_and_one_that_fails_says_why(capsys):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    cleaned = []

    def interrupted():
        try:
            signal.raise_signal(signal.SIGINT)
        except BaseException as error:
            cleaned.append(type(error))
            raise RuntimeError("made something else of it") from error

    try:
        with pytest.raises(SystemExit) as end:
            run_program(interrupted)
        assert (end.value.code, cleaned, capsys.readouterr().err) == (130, [SystemExit], "error: ended by SIGINT\n")
        with pytest.raises(ZeroDivisionError):
            run_program(lambda: 1 / 0)
        with pytest.raises(SystemExit, match=r"^error: division by zero$"):
            run_program(lambda: 1 / 0, (ArithmeticError,))
        run_program(lambda: None)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
