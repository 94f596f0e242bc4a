"""Fine-tuning a class-conditional model on other classes: by name each keeps its embedding, new ones start from no class."""

import json

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import UNet2DModel
from PIL import Image

from scoresde_pipelines import DDPMpp, ScoreSdeClassConditionalPipeline, VPSDEScheduler
from scoresde_pipelines.training.arguments import parse_args
from scoresde_pipelines.training.class_embedding import class_report, fine_tuned_names, null_label, with_class_names
from scoresde_pipelines.training.pipeline_folder import Components, load_pipeline_folder, save_pipeline_folder
from scoresde_pipelines.training.trainer import Trainer


pytestmark = pytest.mark.usefixtures("fresh_accelerate")


QUICK = ["--class_conditional", "--train_batch_size", "8", "--eval_batch_size", "0", "--cpu", "--report_to", "none",
         "--lr_warmup_steps", "0", "--max_train_steps", "1"]  # fmt: skip
KNOWN = ["snow", "coal", "rain"]  # of the pretrained network, by label
VALUES = {"ash": 40, "coal": 0, "milk": 200, "snow": 255}  # of the images: the gray value names the class


def small_unet2d():
    return UNet2DModel(
        sample_size=4, in_channels=1, out_channels=1, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), add_attention=False,
    )  # fmt: skip


def small_ddpmpp():
    return DDPMpp(
        sample_size=4, in_channels=1, out_channels=1, block_out_channels=(8,), layers_per_block=1,
        attention_resolutions=(), init_scale=1.0,
    )  # fmt: skip


@pytest.fixture(params=[small_ddpmpp, small_unet2d])
def pretrained(request, tmp_path):
    """A folder with a network of the classes `KNOWN`, whose embeddings differ."""
    torch.manual_seed(0)
    network = with_class_names(request.param(), KNOWN)
    torch.nn.init.normal_(network.class_embedding.weight)
    save_pipeline_folder(
        tmp_path / "first", Components(network, VPSDEScheduler(continuous=True), (-1.0, 1.0), KNOWN), "# First\n"
    )
    return tmp_path / "first"


@pytest.fixture
def folder(tmp_path):
    for name, value in VALUES.items():
        (tmp_path / "images" / name).mkdir(parents=True)
        for k in range(3):
            Image.fromarray(np.full((4, 4), value, dtype=np.uint8)).save(tmp_path / "images" / name / f"{k}.png")
    return tmp_path / "images"


@pytest.fixture
def parquet(tmp_path):
    """The same images in a parquet file with a column of strings, in another order."""
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature

    names = ["snow", "milk", "coal", "ash"] * 3
    pictures = [Image.fromarray(np.full((4, 4), VALUES[name], dtype=np.uint8)) for name in names]
    (tmp_path / "table").mkdir()
    features = Features({"image": ImageFeature(), "kind": Value("string")})
    table = Dataset.from_dict({"image": pictures, "kind": names}, features=features)
    table.to_parquet(tmp_path / "table" / "train.parquet")
    return tmp_path / "table"


def trainer(data, pretrained, output, *more):
    AcceleratorState._reset_state(reset_partial_state=True)
    where = ["--train_data_dir", str(data), "--pretrained_model_name_or_path", str(pretrained)]
    return Trainer(parse_args([*where, "--output_dir", str(output), *QUICK, *more]))


def output(network, label):
    x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return network.eval()(x, torch.tensor(5.0), class_labels=torch.tensor([label, label])).sample


def test_known_classes_keep_their_embedding_and_new_ones_start_from_no_class(pretrained, folder, tmp_path, capsys):
    old = load_pipeline_folder(str(pretrained)).unet
    run = trainer(folder, pretrained, tmp_path / "second", "--learning_rate", "0")
    expected = "classes: kept: coal, snow; new, from the embedding of no class: ash, milk; left out: rain"
    assert expected in capsys.readouterr().out.splitlines()
    names = run.components.class_names
    assert names == ["snow", "coal", "ash", "milk"]  # the network's order, then that of the folders
    assert null_label(run.network) == 4
    for label, name in enumerate([*names, None]):
        former = KNOWN.index(name) if name in KNOWN else 3
        assert torch.equal(output(run.network, label), output(old, former)), name
    # The image of a class has its label.
    values = run.images[list(range(12))][:, 0, 0, 0].tolist()
    assert [VALUES[names[label]] for label in run.labels.tolist()] == values
    run.train()
    run.finish()
    saved = load_pipeline_folder(str(tmp_path / "second"))
    assert saved.class_names == names and null_label(saved.unet) == 4
    assert all(torch.equal(value, run.network.state_dict()[name]) for name, value in saved.unet.state_dict().items())
    index = json.loads((tmp_path / "second" / "model_index.json").read_text())
    assert index["id2label"] == {"0": "snow", "1": "coal", "2": "ash", "3": "milk"}
    pipeline = ScoreSdeClassConditionalPipeline.from_pretrained(tmp_path / "second")
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 3, "guidance_scale": 1.0, "output_type": "latent"}
    drawn = [
        pipeline(class_labels=[name], generator=torch.Generator().manual_seed(0), **options).images
        for name in ("ash", "milk", "snow")
    ]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_every_source_of_labels_gives_a_picture_the_embedding_of_its_class(folder, parquet, tmp_path):
    torch.manual_seed(0)
    network = with_class_names(small_ddpmpp(), KNOWN)
    torch.nn.init.normal_(network.class_embedding.weight)
    first = tmp_path / "first"
    save_pipeline_folder(first, Components(network, VPSDEScheduler(continuous=True), (-1.0, 1.0), KNOWN), "# First\n")
    streaming = ["--streaming", "--shuffle_buffer", "5", "--cache_dir", str(tmp_path / "cache")]
    sources = {
        "folder": (folder, []),
        "column": (parquet, ["--label_column", "kind"]),
        "folder stream": (folder, streaming),
        "column stream": (parquet, [*streaming, "--label_column", "kind", "--class_names", "milk", "snow", "ash", "coal"]),
    }  # fmt: skip
    for source, (data, options) in sources.items():
        run = trainer(data, first, tmp_path / source, *options, "--label_dropout", "0", "--validation_split", "train")
        names = run.components.class_names
        assert names[:2] == ["snow", "coal"] and sorted(names) == sorted(VALUES), source
        pairs, pictures = set(), run.source.read(0)
        for _ in range(2):
            batch = run.source.next_batch(pictures, 0, 0, 0)
            pairs |= set(zip(batch.images[:, 0, 0, 0].tolist(), batch.labels.tolist()))
        assert pairs == {(value, names.index(name)) for name, value in VALUES.items()}, source
        held_out = run.evaluation.held_out  # another split: the same labels
        assert {*zip(held_out.images[:, 0, 0, 0].tolist(), held_out.labels.tolist())} == pairs, source
        weight = run.network.class_embedding.weight
        for name, former in {"snow": 0, "coal": 1, "ash": 3, "milk": 3}.items():
            assert torch.equal(weight[names.index(name)], network.class_embedding.weight[former]), (source, name)


def test_names_and_the_line_about_them():
    assert fine_tuned_names(["b", "a"], ["a", "b"]) == ["b", "a"]
    assert fine_tuned_names(["b", "a"], ["c", "a", "0"]) == ["a", "c", "0"]
    assert fine_tuned_names(None, ["c", "a"]) == fine_tuned_names(["c", "a"], None) == ["c", "a"]
    assert fine_tuned_names(None, None) is None
    assert class_report(["b", "a"], ["a", "b"]) == "classes: kept: a, b"
    many = [str(k) for k in range(20)]
    assert class_report(["b"], many).endswith(f": {', '.join(many[:12])} and 8 more; left out: b")
    with pytest.raises(
        ValueError, match="num_class_embeds must be 2 for 2 classes, got 3"
    ):  # their names are not known
        with_class_names(with_class_names(small_ddpmpp(), ["x", "y", "z"]), ["a", "b"])


@pytest.mark.parametrize("streaming", [[], ["--streaming", "--shuffle_buffer", "5"]])
def test_a_killed_run_on_other_classes_goes_on_to_the_bit(folder, tmp_path, streaming):
    torch.manual_seed(0)
    network = with_class_names(small_ddpmpp(), KNOWN)
    torch.nn.init.normal_(network.class_embedding.weight, std=0.1)
    torch.nn.init.zeros_(network.conv_out.weight)  # a smooth flow, whose bits/dim take few calls
    first = tmp_path / "first"
    save_pipeline_folder(first, Components(network, VPSDEScheduler(continuous=True), (-1.0, 1.0), KNOWN), "# First\n")
    options = [*streaming, "--gradient_checkpointing", "--max_train_steps", "6", "--checkpointing_steps", "2"]
    options += ["--learning_rate", "1e-3", "--validation_split", "train", "--eval_num_bpd_images", "1", "--keep_best",
                "--best_metric", "bits_per_dim", "--eval_steps", "3", "--cache_dir", str(tmp_path / "cache")]  # fmt: skip
    trainer(folder, first, tmp_path / "whole", *options).train()
    killed = trainer(folder, first, tmp_path / "parts", *options)
    update = killed.update
    killed.update = lambda pictures: 1 / 0 if killed.step == 5 else update(pictures)
    with pytest.raises(ZeroDivisionError):
        killed.train()
    killed.checkpoints.close()
    trainer(folder, first, tmp_path / "parts", *options, "--resume_from_checkpoint", "latest").train()
    for name in ("unet", "unet_ema", "optimizer"):
        whole, parts = (
            (tmp_path / run / "checkpoint-6" / f"{name}.safetensors").read_bytes() for run in ("whole", "parts")
        )
        assert whole == parts, name
    lines = [
        [
            {key: value for key, value in json.loads(line).items() if key != "seconds"}
            for line in (tmp_path / run / "evaluation.jsonl").read_text().splitlines()
        ]
        for run in ("whole", "parts")
    ]
    assert lines[0] == lines[1] and [line["step"] for line in lines[0]] == [3, 6]
    assert (tmp_path / "whole" / "best" / "best.json").read_text() == (
        tmp_path / "parts" / "best" / "best.json"
    ).read_text()
