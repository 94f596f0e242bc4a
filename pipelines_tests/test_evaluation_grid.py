"""The table without pipelines: shards, interruptions, several processes, refusals, reports."""

import json
import math

import numpy as np
import pytest
import torch

from scoresde_pipelines.training.evaluation import (
    EvaluationResult,
    ImageSelection,
    Plan,
    Processes,
    RealData,
    Row,
    evaluate_grid,
    kernel_distance,
    load_features,
)
from scoresde_pipelines.training.evaluation.estimate import Estimate, difference_error
from scoresde_pipelines.training.evaluation.features import extract
from scoresde_pipelines.training.evaluation.report import (
    format_estimate,
    markdown_table,
    write_card,
    write_npz,
    write_report,
)
from scoresde_pipelines.training.evaluation.result import RowResult
from scoresde_pipelines.training.seeding import combined_seed


COUNT = 20
ROWS = [Row("a", "default", 5, "a_default_5"), Row("b", "default", 5, "b_default_5")]


def channel_means(images):
    """Features: mean and standard deviation of each channel."""
    pixels = images.float() / 255
    return torch.cat([pixels.mean(dim=(2, 3)), pixels.std(dim=(2, 3))], dim=1)


def image(seed, index, high=256):
    generator = torch.Generator().manual_seed(combined_seed(seed, index))
    return torch.randint(0, high, (1, 4, 4), dtype=torch.uint8, generator=generator)


class Source:
    """Noise images, brighter in the second row; counts the images, and fails at the `limit`-th batch."""

    def __init__(self, limit=None):
        self.made, self.batches, self.limit = [], 0, limit

    def __call__(self, row, seed, indices):
        if self.batches == self.limit:
            raise KeyboardInterrupt
        self.batches += 1
        self.made += [(row.folder, seed, index) for index in indices]
        images = [image(seed, index, 256 if row.model == "b" else 128) for index in indices]
        return torch.stack(images), 5 + len(row.model)


def selection(first, count=COUNT):
    return ImageSelection(torch.stack([image(99, first + index) for index in range(count)]), range(count))


REAL = RealData(selection(0), selection(1000))


def plan(folder, rows=ROWS, seeds=(0,), metrics=("kid", "fd", "pr"), settings=None, **changes):
    return Plan(rows, seeds, COUNT, 8, metrics, folder, settings or {"num_images": COUNT}, **changes)


def run(folder, source=None, real=REAL, features=channel_means, cache=None, processes=None, **changes):
    return evaluate_grid(
        plan(folder, **changes),
        source or Source(),
        load_features(features),
        real,
        cache_dir=cache or folder / "cache",
        processes=processes or Processes(),
    )


def test_rows_are_measured_against_the_reference(tmp_path):
    result = run(tmp_path)
    assert [(row.model, row.sampler, row.steps, row.nfe, row.num_images) for row in result.rows] == [
        ("a", "default", 5, 6.0, COUNT),
        ("b", "default", 5, 6.0, COUNT),
    ]
    extractor = load_features(channel_means)
    reference = extract(extractor, torch.stack([image(99, index) for index in range(COUNT)]))
    for row, high in zip(result.rows, (128, 256)):
        generated = extract(extractor, torch.stack([image(0, index, high) for index in range(COUNT)]))
        expected = kernel_distance(generated, reference)
        assert row.metrics["kid"].value == pytest.approx(expected.value, rel=1e-9)
        assert row.metrics["kid"].se == pytest.approx(expected.se, rel=1e-9)
    assert result.best == result.rows[1]
    others = extract(extractor, torch.stack([image(99, 1000 + index) for index in range(COUNT)]))
    assert result.real["kid"].value == pytest.approx(kernel_distance(others, reference).value, rel=1e-9)
    assert set(result.real) == {"kid", "fd", "fd_infinity", "precision", "recall", "density", "coverage"}
    assert EvaluationResult.load(tmp_path) == result


def test_json_has_the_promised_form(tmp_path):
    run(tmp_path)
    found = json.loads((tmp_path / "results.json").read_text())
    row = found["rows"][0]
    assert {"model", "sampler", "steps", "nfe", "metrics"} <= set(row)
    assert set(row["metrics"]["kid"]) == set(found["real"]["kid"]) == {"value", "se"}
    assert found["best"] == {"model": "b", "sampler": "default", "steps": 5}


def test_seeds_are_pooled_and_enter_the_error(tmp_path):
    result = run(tmp_path, seeds=(0, 7), metrics=("kid",))
    kid = result.rows[1].metrics["kid"]
    extractor = load_features(channel_means)
    reference = extract(extractor, torch.stack([image(99, index) for index in range(COUNT)]))
    sets = [extract(extractor, torch.stack([image(seed, index) for index in range(COUNT)])) for seed in (0, 7)]
    pooled, alone = kernel_distance(torch.cat(sets), reference), [kernel_distance(x, reference).value for x in sets]
    assert result.rows[1].num_images == 2 * COUNT
    assert kid.value == pytest.approx(pooled.value, rel=1e-9)
    assert kid.per_seed == pytest.approx(alone, rel=1e-9)
    assert kid.se == pytest.approx(max(pooled.se, abs(alone[0] - alone[1]) / 2), rel=1e-9)


def test_an_interrupted_evaluation_goes_on(tmp_path):
    whole = run(tmp_path / "whole")
    first = Source(limit=4)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", first)
    second = Source()
    found = run(tmp_path / "cut", second).rows[1].metrics
    assert {name: x.value for name, x in found.items()} == pytest.approx(
        {name: x.value for name, x in whole.rows[1].metrics.items()}, rel=1e-9, abs=1e-12
    )
    assert len(first.made) == 8 + 8 + 4 + 8  # three batches of a row, and one of the next
    assert sorted(first.made + second.made) == sorted((row.folder, 0, index) for row in ROWS for index in range(COUNT))
    assert run(tmp_path / "cut", third := Source()) and not third.made


def test_a_shard_that_was_cut_off_is_not_one(tmp_path):
    run(tmp_path)
    path = tmp_path / "samples" / "a_default_5" / "seed-0" / "000001.safetensors"
    content = path.read_bytes()
    path.unlink()
    path.with_name(path.name + ".1.tmp").write_bytes(content[:50])
    run(tmp_path, source := Source())
    assert source.made == [("a_default_5", 0, index) for index in range(8, 16)]
    assert path.read_bytes().split(b"seconds")[0] and (tmp_path / "results.json").is_file()


def test_other_settings_are_refused(tmp_path):
    run(tmp_path, row_settings={"a_default_5": {"weights": "1"}})
    with pytest.raises(ValueError, match=r"continued with its own settings.*num_images: 20 instead of 30"):
        run(tmp_path, settings={"num_images": 30})
    with pytest.raises(ValueError, match="weights: '1' instead of '2'"):
        run(tmp_path, row_settings={"a_default_5": {"weights": "2"}})


def test_rows_may_be_added_later(tmp_path):
    run(tmp_path, rows=ROWS[:1])
    result = run(tmp_path, source := Source())
    assert [row.model for row in result.rows] == ["a", "b"]
    assert {folder for folder, _, _ in source.made} == {"b_default_5"}


def test_rows_that_share_a_folder_share_their_images(tmp_path):
    rows = [Row("a", "ode", 5, "a_ode"), Row("a", "ode", 9, "a_ode")]
    result = run(tmp_path, source := Source(), rows=rows)
    assert len(source.made) == COUNT
    assert result.rows[0].metrics == result.rows[1].metrics and [row.steps for row in result.rows] == [5, 9]


def test_two_processes_share_the_batches(tmp_path):
    whole = run(tmp_path / "one")
    # The second process alone: what the first one has to do is missing.
    second, first = Source(), Source()
    waits = []

    def other_process():  # runs when the first process waits for the second
        waits.append(len(waits))
        if len(waits) == 2:  # all have looked at what is missing
            run_share(1, second)

    def run_share(rank, source):
        from scoresde_pipelines.training.evaluation.grid import generate_missing

        generate_missing(plan(tmp_path / "two"), source, load_features(channel_means), Processes(rank, 2))

    # `generate_missing` of rank 0 looks, then waits (the second call of wait): rank 1 works in between.
    result = run(tmp_path / "two", first, processes=Processes(0, 2, other_process))
    assert not set(first.made) & set(second.made)
    assert len(first.made) + len(second.made) == 2 * COUNT
    for row, expected in zip(result.rows, whole.rows):
        for name, estimate in expected.metrics.items():  # BLAS rounds in another order from call to call
            assert row.metrics[name].value == pytest.approx(estimate.value, rel=1e-9, abs=1e-12)
            assert row.metrics[name].se == pytest.approx(estimate.se, rel=1e-9, abs=1e-12)
    for path in (tmp_path / "one" / "samples").rglob("*.safetensors"):
        from safetensors.torch import load_file

        twin = load_file(tmp_path / "two" / path.relative_to(tmp_path / "one"))
        assert all(torch.equal(value, twin[name]) for name, value in load_file(path).items())


def test_bits_per_dim_and_copies(tmp_path):
    training = ImageSelection(torch.stack([image(0, index) for index in range(40)]), range(40))  # row b copies them
    real = RealData(REAL.reference, REAL.other, training)
    result = evaluate_grid(
        plan(tmp_path, metrics=("bpd", "nn"), num_bpd_images=5),
        Source(),
        load_features(channel_means),
        real,
        bits_per_dim=lambda model, images: images.flatten(1).double().mean(dim=1) + len(model),
        cache_dir=tmp_path / "cache",
    )
    values = torch.stack([image(99, index) for index in range(5)]).double().flatten(1).mean(dim=1) + 1
    bpd = result.rows[0].metrics["bpd"]
    assert bpd.value == pytest.approx(float(values.mean()), rel=1e-12)
    assert bpd.se == pytest.approx(float(values.std()) / math.sqrt(5), rel=1e-12)
    assert result.rows[1].metrics["nn"].value == 1.0  # every image is a training image
    assert result.rows[0].metrics["nn"].value < 0.2
    assert result.real["nn"].value == pytest.approx(1 / COUNT)  # the nearest of 20
    write_report(result, plan(tmp_path, metrics=("bpd", "nn")), training)
    from PIL import Image

    picture = np.asarray(Image.open(tmp_path / "neighbours" / "b_default_5.png"))
    tile = lambda column: picture[:8, column * 12 : column * 12 + 8]  # noqa: E731 - 4 pixels, twice as large, 2 x 2 apart
    assert np.array_equal(tile(0), tile(1)) and not np.array_equal(tile(0), tile(2))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"metrics": ("kid", "fid")}, r"metrics must be among \['kid', 'fd', 'is', 'pr', 'bpd', 'nn'\], got 'fid'"),
        ({"metrics": ("is",)}, "features must be those of a classifier for the metric 'is', got channel_means"),
        ({"metrics": ("bpd",)}, "bits_per_dim must be given"),
        ({"metrics": ("nn",)}, "training images must be given"),
        ({"seeds": (0, 0)}, r"seeds must be different numbers of at least 0, got \[0, 0\]"),
        ({"seeds": (-1,)}, "seeds must be different numbers of at least 0"),
        (
            {"real": RealData(selection(0, 5), selection(0, 5))},
            r"num_images must be at least 6 for \['kid', 'fd', 'pr'\]",
        ),
        ({"features": lambda images: images.float()}, r"features must return .* got \(2, 3, 4, 4\)"),
    ],
)
def test_bad_input_is_named_before_the_first_image(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, source := Source(), **changes)
    assert not source.made and not list(tmp_path.rglob("*.safetensors"))


def test_bad_images_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"generate must return uint8 .* \(8, 1 or 3, H, W\), got torch.float32"):
        run(tmp_path, lambda row, seed, indices: (torch.zeros(len(indices), 1, 4, 4), 5))


def test_without_other_images_the_halves_are_compared(tmp_path):
    result = run(tmp_path, real=RealData(REAL.reference), metrics=("kid",))
    features = extract(load_features(channel_means), torch.stack([image(99, index) for index in range(COUNT)]))
    assert result.real["kid"].value == pytest.approx(kernel_distance(features[:10], features[10:]).value, rel=1e-9)
    few = run(tmp_path / "few", real=RealData(selection(0, 4)), metrics=("kid",))
    assert math.isnan(few.real["kid"].value) and few.real["kid"].as_dict() == {"value": None, "se": None}


# ---------------------------------------------------------------------- reports


def test_rows_within_the_error_of_the_best_are_named():
    def row(name, value, se, per_seed=()):
        return RowResult(name, "default", 5, 5.0, 10, 0.1, {"kid": Estimate(value, se, per_seed)}, "samples")

    def table(*rows):
        result = EvaluationResult(list(rows), {})
        return result, markdown_table(result)

    # Independent errors of 0.3 and 0.4: the difference has 0.5.
    best, near, far = row("best", 1.0, 0.3), row("near", 1.49, 0.4), row("far", 1.51, 0.4)
    result, text = table(far, best, near)
    assert result.best == best and result.equal_to_best == [near] and result.as_dict()["best"]["model"] == "best"
    line = "Within the standard error of the difference from it: near, default, 5 steps.\n"
    assert text.endswith("Best by KID: best, default, 5 steps.\n" + line)
    assert "Within" not in table(best, far)[1]
    # Differences 0.3, 0.1, 0.2, 0.1, 0.3 of five seeds: standard deviation 0.1, error of the mean 0.1 / sqrt(5).
    seeds, steps = (0.0, 1.0, 2.0, 3.0, 4.0), (0.3, 0.1, 0.2, 0.1, 0.3)
    best, paired = row("best", 2.0, 1.0, seeds), row("paired", 2.2, 1.0, tuple(map(sum, zip(seeds, steps))))
    assert difference_error(best.metrics["kid"], paired.metrics["kid"]) == pytest.approx(0.1 / math.sqrt(5), rel=1e-9)
    assert table(best, paired)[0].equal_to_best == []
    few = [row(one.model, one.metrics["kid"].value, 1.0, one.metrics["kid"].per_seed[:4]) for one in (best, paired)]
    assert table(*few)[0].equal_to_best == [few[1]]
    nothing = row("nothing", math.nan, math.nan)
    assert table(best, nothing)[0].equal_to_best == [] and table(nothing)[0].equal_to_best == []


def test_table_and_pictures(tmp_path):
    result = run(tmp_path, metrics=("kid",))
    text = markdown_table(result)
    lines = text.splitlines()
    assert lines[0] == "| model | sampler | steps | calls | KID | s/image |"
    assert lines[2].startswith(f"| a | default | 5 | 6 | {format_estimate(result.rows[0].metrics['kid'])} |")
    assert lines[4].startswith("| real images |") and "Best by KID: b, default, 5 steps." in text
    assert format_estimate(Estimate(0.12345, 0.0123)) == "0.123 +- 0.012"
    assert format_estimate(Estimate(1234.5, 98.0)) == "1234 +- 98"
    assert format_estimate(Estimate(math.nan, math.nan)) == "-"
    assert write_report(result, plan(tmp_path, metrics=("kid",))) == []
    from PIL import Image

    grid = np.asarray(Image.open(tmp_path / "grids" / "a_default_5.png"))
    assert np.array_equal(grid[:8:2, :8:2], image(0, 0, 128)[0].numpy())
    assert Image.open(tmp_path / "quality.png").width > 400


def test_npz_is_one_array_of_colour_images(tmp_path):
    run(tmp_path, metrics=("kid",), seeds=(0, 7))
    write_npz(plan(tmp_path, seeds=(0, 7)), "b_default_5", tmp_path / "b.npz")
    found = np.load(tmp_path / "b.npz")["arr_0"]
    assert found.shape == (2 * COUNT, 4, 4, 3) and found.dtype == np.uint8
    for position, (seed, index) in {0: (0, 0), COUNT + 3: (7, 3)}.items():
        assert np.array_equal(found[position], image(seed, index).expand(3, -1, -1).permute(1, 2, 0).numpy())


def test_card_is_updated_and_keeps_what_is_its_own(tmp_path):
    from huggingface_hub import ModelCard

    card = tmp_path / "README.md"
    card.write_text("---\nlicense: mit\n---\n\n# Title\n\ntext\n")
    result = run(tmp_path, metrics=("kid",))
    for _ in range(2):  # the second time the figures are replaced, not repeated
        write_card(card, result, result.rows[:1], "data/emoji", "test")
    loaded = ModelCard.load(card)
    assert "# Title\n\ntext" in loaded.text and loaded.data.license == "mit"
    (entry,) = loaded.data.eval_results
    assert (entry.dataset_name, entry.dataset_split, entry.metric_type) == ("emoji", "test", "kid")
    assert entry.metric_value == pytest.approx(result.rows[0].metrics["kid"].value)
    assert entry.metric_args["se"] == pytest.approx(result.rows[0].metrics["kid"].se)
