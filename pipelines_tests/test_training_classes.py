"""Class-conditional training: labels from folders and columns, label dropout, the grid, class names, fine-tuning."""

import json

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from PIL import Image

from scoresde_pipelines import DDPMpp, NCSNpp, ScoreSdeClassConditionalPipeline, ScoreSdePipeline, VPSDEScheduler
from scoresde_pipelines.models import with_classes
from scoresde_pipelines.training.arguments import parse_args
from scoresde_pipelines.training.class_embedding import null_label, with_class_names
from scoresde_pipelines.training.pipeline_folder import Components, load_pipeline_folder, save_pipeline_folder
from scoresde_pipelines.training.seeding import ImageDraws
from scoresde_pipelines.training.trainer import Trainer, grid_labels


pytestmark = pytest.mark.usefixtures("fresh_accelerate")


SIZE = ["--block_out_channels", "8", "--layers_per_block", "1", "--attention_resolutions", "--dropout", "0"]
QUICK = ["--train_batch_size", "8", "--eval_batch_size", "0", "--cpu", "--report_to", "none", "--lr_warmup_steps", "0"]
CLASSES = ["--class_conditional"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three classes in folders: black, gray and white images, 12, 6 and 2 of them."""
    root = tmp_path_factory.mktemp("classes")
    for name, value, count in (("coal", 0, 12), ("mouse", 128, 6), ("snow", 255, 2)):
        (root / name).mkdir()
        for k in range(count):
            Image.fromarray(np.full((4, 4), value, dtype=np.uint8)).save(root / name / f"{k}.png")
    return root


def trainer(folder, output, *more):
    options = ["--train_data_dir", str(folder), "--output_dir", str(output), *QUICK, *more]
    return Trainer(parse_args(options))


def test_the_network_learns_its_classes(folder, tmp_path):
    # Data at one point per class: at much noise the best denoised image depends on the class alone.
    run = trainer(
        folder, tmp_path, *CLASSES, *SIZE, "--resolution", "4", "--max_train_steps", "120", "--learning_rate", "0.01",
        "--class_sampling", "balanced", "--prediction_type", "sample", "--objective", "edm", "--P_mean", "2",
        "--ema_max_decay", "0.9",
    )  # fmt: skip
    run.train()
    run.finish()
    network = load_pipeline_folder(str(tmp_path)).unet.eval()
    x = torch.randn(64, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        means = [network(x, 999.0, class_labels=torch.full((64,), k)).sample.mean().item() for k in range(4)]
    assert means[:3] == pytest.approx([-1, 0, 1], abs=0.3)
    assert means[3] == pytest.approx(0, abs=0.3)  # "no class": the mean of all, balanced
    with torch.no_grad():
        assert torch.equal(network(x, 999.0).sample, network(x, 999.0, class_labels=torch.full((64,), 3)).sample)
    pipeline = ScoreSdeClassConditionalPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 30, "generator": torch.Generator().manual_seed(0), "output_type": "pt"}
    drawn = pipeline(class_labels=["coal", "snow"], **options).images.mean(dim=(1, 2, 3)).tolist()
    assert drawn == pytest.approx([0, 1], abs=0.15)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["id2label"] == {"0": "coal", "1": "mouse", "2": "snow"}
    card = (tmp_path / "README.md").read_text()
    assert "class_labels=['coal', 'mouse']" in card and "Classes: coal, mouse, snow." in card


def test_a_share_of_the_labels_is_dropped(folder, tmp_path):
    run = trainer(folder, tmp_path, *CLASSES, *SIZE, "--resolution", "4", "--label_dropout", "0.3")
    seen = []
    run.model = lambda x, time, class_labels: (seen.append(class_labels), x)[1]
    for update in range(200):
        run.step, run.images_seen = update, 8 * update
        run.losses(run.source.next_batch(run.source.read(8 * update), update, 0, 8 * update))
    labels = torch.cat(seen)
    dropped = (labels == 3).double().mean().item()
    assert dropped == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / 1600) ** 0.5)
    expected = [ImageDraws(0, 8 * update, 8).label < 0.3 for update in range(200)]
    assert torch.equal(labels == 3, torch.cat(expected))
    # The others keep theirs: natural frequencies, 12 : 6 : 2.
    kept = torch.bincount(labels[labels < 3], minlength=3) / (labels < 3).sum()
    assert kept.tolist() == pytest.approx([0.6, 0.3, 0.1], abs=0.04)


@pytest.mark.parametrize(
    "classes, count, rows, columns",
    [
        (3, 12, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2], 4),
        (3, 16, [0] * 5 + [1] * 5 + [2] * 5, 5),
        (10, 4, [0, 2, 5, 7], 1),
    ],
)
def test_the_grid_has_a_row_per_class(classes, count, rows, columns):
    components = Components(None, None, (0.0, 1.0), [str(k) for k in range(classes)])
    assert grid_labels(components, count) == (rows, columns)
    assert grid_labels(Components(None, None, (0.0, 1.0)), count) == (None, None)


def test_the_sample_grid_shows_each_class_in_its_row(folder, tmp_path):
    options = ["--resolution", "4", "--eval_batch_size", "6", "--num_inference_steps", "8", "--max_train_steps", "1"]
    run = trainer(folder, tmp_path, *CLASSES, *SIZE, *options, "--prediction_type", "sample")

    class Answer(torch.nn.Module):
        config, dtype = run.network.config, torch.float32

        def forward(self, x, time, class_labels):
            value = class_labels.to(x.dtype) - 1  # black, gray, white
            return type("Output", (), {"sample": value.reshape(-1, 1, 1, 1).expand_as(x)})

    run.ema.model = Answer()
    run.save_samples()
    grid = np.asarray(Image.open(tmp_path / "samples" / "00000000.png"))[::2, ::2]
    means = [[grid[6 * row + 1, 6 * column + 1] for column in range(2)] for row in range(3)]
    assert means[0] == [0, 0] and means[2] == [255, 255] and means[1] == [128, 128]


def test_a_label_column_of_strings_in_a_parquet_file(tmp_path):
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature

    pictures = [Image.fromarray(np.full((4, 4), 10 * k, dtype=np.uint8)) for k in range(6)]
    columns = {"picture": pictures, "kind": ["b", "a", "c"] * 2}
    features = Features({"picture": ImageFeature(), "kind": Value("string")})
    (tmp_path / "data").mkdir()
    Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "data" / "train.parquet")
    options = ["--label_column", "kind", "--resolution", "4", "--cache_dir", str(tmp_path / "cache")]
    run = trainer(tmp_path / "data", tmp_path / "run", *CLASSES, *SIZE, *options)
    assert run.components.class_names == ["a", "b", "c"] and run.labels.tolist() == [1, 0, 2, 1, 0, 2]
    assert run.network.config.num_class_embeds == 3 and null_label(run.network) == 3


def test_classes_without_an_image_are_named(tmp_path, capsys):
    import datasets

    images = [Image.new("L", (4, 4), 80 * k) for k in range(3)]
    table = datasets.Dataset.from_dict({"image": images, "label": [3, 1, 3]}).cast_column("image", datasets.Image())
    table.to_parquet(str(tmp_path / "train.parquet"))
    run = trainer(tmp_path / "train.parquet", tmp_path / "run", *CLASSES, *SIZE, "--resolution", "4")
    assert run.components.class_names == ["0", "1", "2", "3"] and run.labels.tolist() == [3, 1, 3]
    assert "classes without an image, which are not trained: 0, 2\n" in capsys.readouterr().out


def test_classes_that_cannot_be_are_named(folder, tmp_path):
    (tmp_path / "flat").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "flat" / "0.png")
    with pytest.raises(ValueError, match=r"class_conditional needs a column of labels or folders, got \['image'\]"):
        trainer(tmp_path / "flat", tmp_path / "a", *CLASSES, *SIZE, "--resolution", "4")
    network = DDPMpp(sample_size=4, in_channels=1, out_channels=1, block_out_channels=(8,), layers_per_block=1,
                     attention_resolutions=(), num_class_embeds=2)  # fmt: skip
    network.save_config(tmp_path / "config")
    config = ["--model_config_name_or_path", str(tmp_path / "config")]
    with pytest.raises(ValueError, match="the network has num_class_embeds = 2: train it with --class_conditional"):
        trainer(folder, tmp_path / "b", *config)
    with pytest.raises(ValueError, match="num_class_embeds must be 3 for 3 classes, got 2"):
        trainer(folder, tmp_path / "c", *CLASSES, *config)


def small_unet2d():
    return UNet2DModel(
        sample_size=4, in_channels=1, out_channels=1, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), add_attention=False,
    )  # fmt: skip


def small_ncsnpp():
    return NCSNpp(
        sample_size=4, in_channels=1, out_channels=1, block_out_channels=(8,), layers_per_block=1,
        attention_resolutions=(), init_scale=1.0,
    )  # fmt: skip


@pytest.mark.parametrize("make, embeddings, null", [(small_ncsnpp, 3, 3), (small_unet2d, 4, 3)])
def test_an_unconditional_network_is_fine_tuned_into_a_conditional_one(folder, tmp_path, make, embeddings, null):
    torch.manual_seed(0)
    first = make().eval()
    save_pipeline_folder(
        tmp_path / "first", Components(first, VPSDEScheduler(continuous=True), (-1.0, 1.0)), "# First\n"
    )
    pretrained = ["--pretrained_model_name_or_path", str(tmp_path / "first"), "--max_train_steps", "2"]
    run = trainer(folder, tmp_path / "second", *CLASSES, *pretrained, "--learning_rate", "1e-2")
    extended = run.network
    assert extended.config.num_class_embeds == embeddings and null_label(extended) == null
    x = torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    extended.eval()
    with torch.no_grad():
        for labels in (torch.arange(4), torch.full((4,), null)):
            assert torch.equal(extended(x, 5.0, class_labels=labels).sample, first(x, 5.0).sample)
    extended.train()
    run.train()
    run.finish()
    assert run.network.class_embedding.weight.abs().sum() > 0  # it has learned something
    loaded = load_pipeline_folder(str(tmp_path / "second"))
    assert loaded.class_names == ["coal", "mouse", "snow"]
    assert loaded.unet.config.num_class_embeds == embeddings


def test_an_unconditional_pipeline_samples_the_null_label(folder, tmp_path):
    run = trainer(folder, tmp_path, *CLASSES, *SIZE, "--resolution", "4", "--max_train_steps", "1")
    run.train()
    run.finish()
    pipeline = ScoreSdePipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    options = {"batch_size": 2, "num_inference_steps": 3, "output_type": "pt"}
    drawn = pipeline(generator=torch.Generator().manual_seed(0), **options).images
    forward = pipeline.unet.forward
    pipeline.unet.forward = lambda x, t, **kwargs: forward(x, t, class_labels=torch.full((len(x),), 3), **kwargs)
    again = pipeline(generator=torch.Generator().manual_seed(0), **options).images
    assert torch.equal(drawn, again)


@pytest.mark.parametrize("make", [small_ncsnpp, small_unet2d])
def test_a_conditional_network_is_fine_tuned_on_images_without_classes(folder, tmp_path, make):
    names = ["coal", "snow"]
    network = with_class_names(make(), names)
    components = Components(network, VPSDEScheduler(continuous=True), (-1.0, 1.0), names)
    save_pipeline_folder(tmp_path / "first", components, "# First\n")
    (tmp_path / "flat").mkdir()
    for k in range(4):
        Image.new("L", (4, 4), 60 * k).save(tmp_path / "flat" / f"{k}.png")
    pretrained = ["--pretrained_model_name_or_path", str(tmp_path / "first"), "--learning_rate", "1e-2"]
    more = ["--max_train_steps", "2", "--validation_split", "train"]
    run = trainer(tmp_path / "flat", tmp_path / "second", *pretrained, *more)
    run.train()
    run.finish()
    loaded = load_pipeline_folder(str(tmp_path / "second"))
    assert loaded.class_names == names
    changed = (loaded.unet.class_embedding.weight != 0).any(dim=1).tolist()
    assert changed == [False, False, True] or changed == [False, False, True, False]  # "no class" alone was trained


def test_a_conditional_network_keeps_its_classes(folder, tmp_path):
    def pretrained(names):
        components = Components(with_classes(small_ncsnpp(), 3), VPSDEScheduler(continuous=True), (-1.0, 1.0), names)
        save_pipeline_folder(tmp_path / names[1], components, "# First\n")
        return ["--pretrained_model_name_or_path", str(tmp_path / names[1])]

    # The folders are read in the order of their names; an image keeps the label that the network has for its class.
    first = trainer(folder, tmp_path / "sorted", *CLASSES, *pretrained(["coal", "mouse", "snow"]))
    run = trainer(folder, tmp_path / "mixed", *CLASSES, *pretrained(["coal", "snow", "mouse"]))
    assert run.components.class_names == ["coal", "snow", "mouse"]
    assert sorted(set(first.labels.tolist())) == [0, 1, 2]
    assert run.labels.tolist() == [[0, 2, 1][label] for label in first.labels.tolist()]
