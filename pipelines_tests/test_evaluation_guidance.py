"""`scoresde evaluate --guidance-scale`: images of given classes, drawn as often as the data have them."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from scoresde_pipelines import DDPMpp, ScoreSdeClassConditionalPipeline, ScoreSdePipeline, VPSDEScheduler, evaluate
from scoresde_pipelines.evaluation_models import ModelSource
from scoresde_pipelines.training.seeding import combined_seed


NAMES = {0: "cat", 1: "dog", 2: "owl"}
COUNT = 8
FILES = {"dog": 7, "owl": 5}  # no cats


def save_model(folder, **config):
    torch.manual_seed(0)
    network = DDPMpp(
        sample_size=8, block_out_channels=(8, 8), layers_per_block=1, in_channels=1, out_channels=1, **config
    )
    for parameter in network.parameters():  # the last layer starts at zero, and would not see the class
        parameter.data += 0.3 * torch.randn_like(parameter)
    names = {"id2label": NAMES} if config else {}
    kind = ScoreSdeClassConditionalPipeline if config else ScoreSdePipeline
    scheduler = VPSDEScheduler(prediction_type="edm", sigma_data=0.5, data_mean=0.0)
    kind(network.eval(), scheduler, **names).save_pretrained(folder)


def save_images(folder, files):
    generator = np.random.default_rng(0)
    for name, count in files.items():
        (folder / name).mkdir(parents=True)
        for k in range(count):
            Image.fromarray(generator.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / name / f"{k}.png")


def features(images):
    return images.flatten(1)[:, :6].float()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guidance")
    save_model(folder / "classes", num_class_embeds=3)
    save_model(folder / "plain")
    save_images(folder / "data", FILES)
    save_images(folder / "strange", {"dog": 8, "fox": 8})
    save_images(folder / "flat", {"": 16})
    return folder


def run(folder, output, model="classes", data="data", **changes):
    settings = {"split": "train", "steps": 3, "num_images": COUNT, "batch_size": 4, "features": features, **changes}
    return evaluate(str(folder / model), str(folder / data), output, **settings)


def images_of(output, row):
    paths = sorted((output / row.samples).rglob("*.safetensors"))
    return torch.cat([load_file(path)["images"] for path in paths])


def test_rows_with_guidance_are_those_of_the_class_conditional_pipeline(folder, tmp_path):
    result = run(folder, tmp_path, guidance_scale=[1, 2.5], metrics="kid")
    assert [row.sampler for row in result.rows] == ["default, guidance 1", "default, guidance 2.5"]
    assert [row.nfe for row in result.rows] == [3, 6]
    labels = [1] * FILES["dog"] + [2] * FILES["owl"]  # numbers of the model, in the order of the folders
    chosen = [labels[combined_seed(0, k, 1) % len(labels)] for k in range(COUNT)]
    assert set(chosen) == {1, 2}
    pipe = ScoreSdeClassConditionalPipeline.from_pretrained(folder / "classes")
    for row, scale in zip(result.rows, (1, 2.5)):
        batches = []
        for first in (0, 4):
            generators = [torch.Generator().manual_seed(combined_seed(0, first + k)) for k in range(4)]
            output = pipe(chosen[first : first + 4], scale, 3, generator=generators, output_type="pt")
            batches.append((output.images * 255).round().byte())
        assert torch.equal(images_of(tmp_path, row), torch.cat(batches))


def test_a_sampler_of_ones_own_may_hold_the_scale(folder, tmp_path):
    mine = {"predictor": "ancestral", "guidance_scale": 2.5}
    result = run(folder, tmp_path / "a", metrics="kid", samplers=["mine"], sampler_settings={"mine": mine})
    named = run(folder, tmp_path / "b", metrics="kid", samplers=["ancestral"], guidance_scale=2.5)
    assert torch.equal(images_of(tmp_path / "a", result.rows[0]), images_of(tmp_path / "b", named.rows[0]))
    free = run(folder, tmp_path / "c", metrics="kid", samplers=["ancestral"])
    assert not torch.equal(images_of(tmp_path / "c", free.rows[0]), images_of(tmp_path / "b", named.rows[0]))


def test_rows_with_a_weak_model_are_those_of_the_pipeline_with_its_network(folder, tmp_path):
    save_model(folder / "weak", num_class_embeds=3)
    weak = ScoreSdePipeline.from_pretrained(folder / "weak").unet
    for parameter in weak.parameters():
        parameter.data *= 0.9
    weak.save_pretrained(folder / "weak" / "unet")
    settings = {"metrics": "kid", "weak_model": str(folder / "weak")}
    result = run(folder, tmp_path / "a", weak_guidance_scale=[1, 2.5], **settings)
    assert [row.sampler for row in result.rows] == ["default, weak guidance 1", "default, weak guidance 2.5"]
    assert [row.nfe for row in result.rows] == [3, 6]
    plain = run(folder, tmp_path / "b", metrics="kid")
    assert torch.equal(images_of(tmp_path / "a", result.rows[0]), images_of(tmp_path / "b", plain.rows[0]))
    pipe = ScoreSdePipeline.from_pretrained(folder / "classes")
    generators = [torch.Generator().manual_seed(combined_seed(0, k)) for k in range(4)]
    guidance = {"weak_unet": weak, "weak_guidance_scale": 2.5}
    output = pipe(4, 3, generators, output_type="pt", **guidance)
    assert torch.equal(images_of(tmp_path / "a", result.rows[1])[:4], (output.images * 255).round().byte())
    both = run(folder, tmp_path / "c", guidance_scale=2, **settings)
    assert [(row.sampler, row.nfe) for row in both.rows] == [("default, guidance 2, weak guidance 2", 9)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "plain"}, "guidance_scale must fit the model .*plain.*no classes"),
        ({"data": "flat"}, "data must have a column of class labels for guidance_scale, got .*flat"),
        ({"data": "strange"}, "data must have the classes of the model, got .*strange.*fox"),
        ({"guidance_scale": -1}, "guidance_scale must be .*-1"),
        ({"guidance_scale": [1, 1.0]}, "guidance_scale must be different numbers"),
        ({"guidance_scale": []}, "guidance_scale must be different numbers"),
        ({"weak_guidance_scale": 2}, "weak_guidance_scale must be None without a weak_model, got 2"),
        ({"weak_model": "nowhere/at/all"}, "weak_model must be a shipped name.*nowhere/at/all"),
        ({"weak_model": "emoji-32-ve"}, "weak_model must fit the model .*classes.*weak_unet"),
        ({"weak_model": "plain"}, r"weak_model must fit the model .*weak_unet must know 3 classes.*got None"),
    ],
)
def test_bad_input_is_named_before_the_first_image(folder, tmp_path, monkeypatch, changes, message):
    if "data" in changes:
        monkeypatch.setattr(ModelSource, "load", lambda model: pytest.fail("a model was loaded"))
    if (folder / changes.get("weak_model", "nowhere")).is_dir():
        changes = {**changes, "weak_model": str(folder / changes["weak_model"])}
    with pytest.raises(ValueError, match=message):
        run(folder, tmp_path / "out", **{"guidance_scale": 2, **changes})
    assert not (tmp_path / "out").exists()
