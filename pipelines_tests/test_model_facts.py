"""What the files of a pipeline folder say is what the loaded pipeline says."""

import json

import pytest
import torch
from command_runs import check, run

from scoresde_pipelines import (
    NCSNpp,
    NoiseConditionalClassifier,
    ScoreSdeClassConditionalPipeline,
    VESDEScheduler,
    shipped,
)
from scoresde_pipelines.model_facts import Classes, folder_classes, folder_shape


NAMES = {0: "cat", 1: "dog"}


def pipeline(classifier=None, names=NAMES, size=8, **config):
    torch.manual_seed(0)
    network = NCSNpp(sample_size=size, block_out_channels=(8, 8), layers_per_block=1, **config)
    return ScoreSdeClassConditionalPipeline(network.eval(), VESDEScheduler(), classifier, id2label=names)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: pipeline(num_class_embeds=2), Classes({"cat": 0, "dog": 1}, 2)),
        (lambda: pipeline(num_class_embeds=3), Classes({"cat": 0, "dog": 1}, 2)),  # the last one means "no class"
        (lambda: pipeline(names=None, num_class_embeds=3, size=(8, 12)), Classes({}, 3)),
        (lambda: pipeline(names=None), Classes({}, 0)),
        (
            lambda: pipeline(NoiseConditionalClassifier(depth=10, width=1, num_classes=2)),
            Classes({"cat": 0, "dog": 1}, 2),
        ),
    ],
)
def test_classes_and_shape_of_a_folder_are_those_of_its_pipeline(tmp_path, make, expected):
    make().save_pretrained(tmp_path)
    assert folder_classes(tmp_path) == expected
    pipe = ScoreSdeClassConditionalPipeline.from_pretrained(tmp_path)
    assert expected == Classes(pipe.labels, pipe.num_classes)
    assert folder_shape(tmp_path) == pipe.sample_shape


@pytest.mark.parametrize("name", shipped())
def test_classes_and_shape_of_shipped_models(name):
    from pathlib import Path

    pipe = ScoreSdeClassConditionalPipeline.from_pretrained(name)
    assert folder_classes(Path(shipped(name))) == Classes(pipe.labels, pipe.num_classes)
    assert folder_shape(Path(shipped(name))) == pipe.sample_shape == (3 if name == "emoji-32-ve" else 1, 32, 32)


def test_a_classifier_of_transformers_brings_its_own_names(tmp_path):
    pipeline().save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps({**index, "classifier": ["transformers", "ViT"]}))
    (tmp_path / "classifier").mkdir()
    (tmp_path / "classifier" / "config.json").write_text(json.dumps({"id2label": {"0": "pug", "1": "ant"}}))
    assert folder_classes(tmp_path) == Classes({"pug": 0, "ant": 1}, 2)


@pytest.mark.parametrize("index", [None, "{", "[]", '{"unet": 3}', '{"id2label": [], "unet": ["a", "b"]}'])
def test_what_is_no_pipeline_says_nothing(tmp_path, index):
    if index is not None:
        (tmp_path / "model_index.json").write_text(index)
    assert folder_classes(tmp_path) is None and folder_shape(tmp_path) is None


def test_a_class_of_a_command_line_is_a_name_before_it_is_a_number(tmp_path):
    # Folders "10", "2" and "cat" sort to the numbers 0, 1 and 2.
    classes = Classes({"10": 0, "2": 1, "cat": 2}, 3)
    assert classes.numbered(["2", "10", "cat", "1"]) == [1, 0, 2, 1]
    assert Classes({}, 3).numbered(["2"]) == [2]
    with pytest.raises(ValueError, match=r"class_labels must be among \['10', '2', 'cat'\], got 'dog'"):
        classes.numbered(["dog"])
    pipe = pipeline(num_class_embeds=2, names={0: "1", 1: "0"}, scale_by_sigma=False)
    pipe.scheduler = VESDEScheduler(prediction_type="edm", data_mean=0.5, predictor="exponential", corrector=None)
    with torch.no_grad():  # the network's output follows the class
        for parameter in pipe.unet.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    pipe.save_pretrained(tmp_path / "model")
    pipe.set_progress_bar_config(disable=True)
    run(
        tmp_path, "sample", tmp_path / "out" / "a", "--class", "1", "--class", "0", "--num-images", "1", "--steps", "2"
    )
    generators = [torch.Generator().manual_seed(k) for k in range(2)]
    images = pipe(class_labels=["1", "0"], num_inference_steps=2, generator=generators).images
    generators = [torch.Generator().manual_seed(k) for k in range(2)]
    other = pipe(class_labels=[1, 0], num_inference_steps=2, generator=generators).images
    assert images[0] != other[0]
    check(tmp_path / "out" / "a", images)
