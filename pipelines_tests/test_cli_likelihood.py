"""`scoresde likelihood`: the table against the pipeline, interruptions, several processes."""

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from scoresde_pipelines import NCSNpp, ScoreSdeLikelihoodPipeline, ScoreSdePipeline, VESDEScheduler
from scoresde_pipelines.cli import app
from scoresde_pipelines.likelihood_table import COLUMNS, LikelihoodTable, Row


COUNT = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model of 8 x 8 gray images, and five of them as PNG files."""
    path = tmp_path_factory.mktemp("likelihood")
    torch.manual_seed(0)
    network = NCSNpp(sample_size=8, block_out_channels=(8, 8), layers_per_block=1, in_channels=1, out_channels=1)
    ScoreSdePipeline(network.eval(), VESDEScheduler(sigma_max=10.0)).save_pretrained(path / "model")
    (path / "data").mkdir()
    for i, image in enumerate(pixels()):
        Image.fromarray(image).save(path / "data" / f"{i}.png")
    return path


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8), dtype=np.uint8)


def arguments(folder: Path, output: Path, *more: str) -> list[str]:
    options = {"--model": folder / "model", "--data": folder / "data", "--output": output, "--tolerance": 0.01}
    return ["likelihood", *(str(word) for pair in options.items() for word in pair), *more]


def run(*args, **kwargs):
    return CliRunner().invoke(app, arguments(*args, "--split", "train", "--device", "cpu", **kwargs))


@pytest.fixture(scope="module")
def table(folder) -> dict[int, Row]:
    result = run(folder, folder / "whole.csv", "--batch-size", "2")
    assert result.exit_code == 0, result.output
    assert "bits/dim over 5 images" in result.output
    return LikelihoodTable(folder / "whole.csv", settings(folder, "whole.csv")).rows()


def settings(folder: Path, name: str) -> dict:
    return json.loads((folder / f"{name}.settings.json").read_text())


def test_rows_are_what_the_pipeline_says(folder, table):
    pipe = ScoreSdeLikelihoodPipeline.from_pretrained(folder / "model")
    generators = [torch.Generator().manual_seed(index) for index in range(COUNT)]
    output = pipe(torch.from_numpy(pixels())[:, None], tolerance=0.01, generator=generators)
    assert sorted(table) == list(range(COUNT))
    for index, row in table.items():
        assert row.bits_per_dim == pytest.approx(float(output.bits_per_dim[index]), abs=1e-6)
        assert row.standard_error == pytest.approx(float(output.standard_error[index]), abs=1e-6)
        assert row.nfe == int(output.nfe[index])
        assert math.isnan(row.dequantization_error)


def test_csv_is_a_plain_table(folder, table):
    rows = list(csv.DictReader((folder / "whole.csv").read_text().splitlines()))
    assert list(rows[0]) == COLUMNS
    assert float(rows[3]["bits_per_dim"]) == table[3].bits_per_dim


def test_goes_on_after_an_interruption(folder, table):
    lines = (folder / "whole.csv").read_text().splitlines(keepends=True)
    cut = folder / "cut.csv"
    cut.write_text("".join(lines[:3]) + lines[3][:10])  # two rows, and a third that the crash cut off
    (folder / "cut.csv.settings.json").write_text((folder / "whole.csv.settings.json").read_text())
    result = run(folder, cut, "--batch-size", "3")
    assert result.exit_code == 0, result.output
    rows = LikelihoodTable(cut, settings(folder, "cut.csv")).rows()
    assert sorted(rows) == list(range(COUNT))
    for index, row in rows.items():
        assert row.bits_per_dim == pytest.approx(table[index].bits_per_dim, abs=1e-6)
    assert "".join(lines[:3]) in cut.read_text()  # not measured again


def test_refuses_to_mix_settings(folder, table):
    result = run(folder, folder / "whole.csv", "--seed", "1")
    assert result.exit_code != 0 and "seed" in result.output


def test_several_processes_share_one_table(folder, table):
    """With 5 images for 2 processes their step counts differ; nobody waits for anybody."""
    output = folder / "shared.jsonl"
    command = [sys.executable, "-m", "scoresde_pipelines.cli", *arguments(folder, output)]
    root = Path(__file__).resolve().parents[1]
    environment = {**os.environ, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [*command, "--split", "train", "--device", "cpu"],
            env={**environment, "RANK": str(rank)},
            cwd=root,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    rows = LikelihoodTable(output, settings(folder, "shared.jsonl")).rows()
    assert sorted(rows) == list(range(COUNT))
    for index, row in rows.items():
        assert row.bits_per_dim == pytest.approx(table[index].bits_per_dim, abs=1e-6)
    assert any("over 5 images" in text for text in outputs)  # from whoever came last


def test_summary_is_mean_and_standard_error(tmp_path):
    table = LikelihoodTable(tmp_path / "a.jsonl", {})
    assert table.summary()[2] == 0
    for index, value in enumerate((1.0, 2.0, 6.0)):
        table.append(Row(index, value, 0.1, 0.1, math.nan, 0.0, 50))
    mean, error, count = table.summary()
    assert (mean, count) == (3.0, 3)
    assert error == pytest.approx(math.sqrt(7.0 / 3))


def test_refuses_other_endings(tmp_path):
    with pytest.raises(ValueError, match=r"\.csv"):
        LikelihoodTable(tmp_path / "a.txt", {})
