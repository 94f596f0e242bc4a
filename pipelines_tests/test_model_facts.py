"""What the files of a pipeline folder say is what the loaded pipeline says."""

import json

import pytest
import torch

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
