"""`scoresde likelihood`: the table against the pipeline, interruptions, several processes."""

import csv
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from launching import accelerate_launch
from PIL import Image
from typer.testing import CliRunner

from scoresde_pipelines import NCSNpp, ScoreSdeLikelihoodPipeline, ScoreSdePipeline, VESDEScheduler
from scoresde_pipelines.cli import app
from scoresde_pipelines.likelihood_table import COLUMNS, LikelihoodTable, Row
from scoresde_pipelines.models.weight_files import fingerprint


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


def arguments(folder: Path, output: Path, *more: object) -> list[str]:
    options = {"--model": folder / "model", "--data": folder / "data", "--output": output, "--tolerance": 0.01}
    return ["likelihood", *(str(word) for pair in options.items() for word in pair), *map(str, more)]


def run(folder: Path, output: Path, *more: object) -> Result:
    """The command; of an option that is given twice the last one counts."""
    return CliRunner().invoke(app, arguments(folder, output, "--split", "train", "--device", "cpu", *more))


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
        assert row.dequantization_error == pytest.approx(float(output.dequantization_error[index]), rel=1e-4)


def test_rows_name_their_files_and_json_has_the_mean(folder, table):
    assert [table[index].file for index in range(COUNT)] == [f"{index}.png" for index in range(COUNT)]
    result = run(folder, folder / "whole.csv", "--json")
    found = json.loads(result.stdout)
    values = [table[index].bits_per_dim for index in range(COUNT)]
    assert found["bits_per_dim"] == pytest.approx(sum(values) / COUNT) and found["images"] == COUNT


def test_a_file_name_with_a_comma_is_read_back(tmp_path):
    row = Row(0, 1.0, 0.1, 0.1, 0.1, 0.0, 50, 'a, "b".png')
    for name in ("a.csv", "a.jsonl"):
        LikelihoodTable(tmp_path / name, {}).append(row)
        assert LikelihoodTable(tmp_path / name, {}).rows() == {0: row}


def test_a_table_with_other_columns_is_refused(tmp_path):
    LikelihoodTable(tmp_path / "a.csv", {})
    (tmp_path / "a.csv").write_text("index,bits_per_dim\n0,1.0\n")
    with pytest.raises(ValueError, match=r"output must have the columns index,.*,file, got 'index,bits_per_dim'"):
        LikelihoodTable(tmp_path / "a.csv", {})


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


def spawn(command: list[str], **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        cwd=Path(__file__).resolve().parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def check_shared(folder: Path, name: str, table: dict[int, Row]) -> None:
    rows = LikelihoodTable(folder / name, settings(folder, name)).rows()
    assert sorted(rows) == list(range(COUNT))
    for index, row in rows.items():
        assert row.bits_per_dim == pytest.approx(table[index].bits_per_dim, abs=1e-6)


@pytest.mark.parametrize("names", [("RANK", "WORLD_SIZE"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")])
def test_processes_take_their_shares(folder, table, names, monkeypatch):
    """With 5 images for 2 processes their step counts differ; nobody waits for anybody."""
    monkeypatch.setenv(names[1], "2")
    output = f"{names[0]}.jsonl"
    for rank, share in ((0, [0, 2, 4]), (1, [0, 1, 2, 3, 4])):
        monkeypatch.setenv(names[0], str(rank))
        result = run(folder, folder / output)
        assert result.exit_code == 0, result.output
        assert sorted(LikelihoodTable(folder / output, settings(folder, output)).rows()) == share
    assert "over 5 images" in result.output  # from whoever comes last
    check_shared(folder, output, table)


def test_accelerate_launch_shares_one_table(folder, table):
    """The documented command, on a machine without a GPU as well."""
    module = ["-m", "scoresde_pipelines.cli", *arguments(folder, folder / "launched.csv")]
    process = spawn([*accelerate_launch(), *module, "--split", "train", "--device", "cpu"])
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert "over 5 images" in output
    check_shared(folder, "launched.csv", table)


def test_goes_on_after_being_killed(folder, table):
    module = ["-m", "scoresde_pipelines.cli", *arguments(folder, folder / "killed.csv"), "--batch-size", "1"]
    process = spawn([sys.executable, *module, "--split", "train", "--device", "cpu"])
    deadline = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline:
        if (folder / "killed.csv").exists() and (folder / "killed.csv").read_text().count("\n") > 2:
            break
        time.sleep(0.02)
    process.kill()
    process.communicate()
    kept = (folder / "killed.csv").read_text()
    result = run(folder, folder / "killed.csv")
    assert result.exit_code == 0, result.output
    assert kept in (folder / "killed.csv").read_text()
    check_shared(folder, "killed.csv", table)


def test_a_smaller_limit_reads_the_first_rows(folder, table):
    result = run(folder, folder / "whole.csv", "--limit", "2")
    mean = (table[0].bits_per_dim + table[1].bits_per_dim) / 2
    assert f"{mean:.4f} +- " in result.output and "over 2 images" in result.output
    result = run(folder, folder / "whole.csv", "--limit", "1", "--json")  # one image has no standard error
    assert json.loads(result.stdout)["standard_error"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--limit", "0"], "limit"),
        (["--batch-size", "0"], "batch-size"),
        (["--num-probes", "0"], "num-probes"),
        (["--tolerance", "2"], "tolerance"),
        (["--fit", "stretch"], "fit must be one of crop, pad"),
        (["--divergence", "skilling"], "divergence must be one of"),
        (["--dequantization", "flow"], "dequantization must be one of"),
        (["--model", "/nowhere/at/all"], "nowhere"),
        (["--data", "/nowhere/at/all"], "data must be a folder or parquet file that exists"),
        (["--device", "abacus"], "abacus"),
    ],
)
def test_bad_arguments_are_named_and_leave_nothing(folder, tmp_path, words, message):
    result = run(folder, tmp_path / "bad.csv", *words)
    assert result.exit_code == 2 and message in " ".join(result.output.replace("│", " ").split())
    assert not list(tmp_path.iterdir())


def test_a_plain_folder_is_read_whole_and_said_so(folder, table, tmp_path, caplog):
    result = run(folder, tmp_path / "plain.csv", "--split", "test")
    assert result.exit_code == 0, result.output
    assert "has no splits: all 5 files are read for the split 'test'" in caplog.text
    check = LikelihoodTable(tmp_path / "plain.csv", settings(tmp_path, "plain.csv")).rows()
    assert [check[k].bits_per_dim for k in range(COUNT)] == pytest.approx(
        [table[k].bits_per_dim for k in range(COUNT)], abs=1e-6
    )


def test_a_misspelt_split_is_not_all_splits(folder, tmp_path):
    (tmp_path / "test.parquet").write_bytes(b"")
    result = run(folder, tmp_path / "bad.csv", "--data", tmp_path, "--split", "tset")
    assert result.exit_code == 2 and "tset" in result.output


def test_other_weights_do_not_go_on_with_the_table(folder, table, tmp_path):
    pipe = ScoreSdePipeline.from_pretrained(folder / "model")
    with torch.no_grad():
        pipe.unet.conv_in.bias += 1e-3
    pipe.save_pretrained(tmp_path / "model")
    assert fingerprint(pipe.unet) != fingerprint(ScoreSdePipeline.from_pretrained(folder / "model").unet)
    for file in ("moved.csv", "moved.csv.settings.json"):
        changed = (folder / file.replace("moved", "whole")).read_text()
        (tmp_path / file).write_text(changed.replace(str(folder / "model"), str(tmp_path / "model")))
    result = run(folder, tmp_path / "moved.csv", "--model", tmp_path / "model")
    assert result.exit_code == 2 and "weights" in result.output


def test_a_model_of_nan_names_the_images(folder, tmp_path):
    pipe = ScoreSdePipeline.from_pretrained(folder / "model")
    with torch.no_grad():
        pipe.unet.conv_in.bias.fill_(float("nan"))
    pipe.save_pretrained(tmp_path / "model")
    result = run(folder, tmp_path / "nan.csv", "--model", tmp_path / "model")
    assert result.exit_code == 1
    assert "images 0 to 4" in result.output and "not finite" in result.output


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


def test_it_says_what_is_done_to_the_images_before_they_are_measured(folder, table, tmp_path):
    (tmp_path / "data").mkdir()
    for i, image in enumerate(pixels()):
        picture = Image.fromarray(image)
        picture = picture.convert("RGB") if i in (1, 3) else picture.resize((9, 8)) if i == 2 else picture
        picture.save(tmp_path / "data" / f"{i}.png")
    result = run(folder, tmp_path / "table.csv", "--data", tmp_path / "data", "--limit", 1)
    assert result.exit_code == 0, result.output
    assert (
        "warning: 2 of 5 images have color and become gray: bits/dim are those of the changed images" in result.output
    )
    assert "warning: 1 of 5 images are not 8 x 8 pixels and are cut or resized: bits/dim" in result.output
    assert "changed images" not in run(folder, tmp_path / "same.csv", "--limit", 1).output
