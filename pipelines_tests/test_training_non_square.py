"""Images that are wider than high, from training over measuring, sampling and inpainting to the evaluation table."""

import json

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image

from scoresde_pipelines import (
    ScoreSdeClassConditionalPipeline,
    ScoreSdeInpaintPipeline,
    ScoreSdeLikelihoodPipeline,
    evaluate,
)
from scoresde_pipelines.training.arguments import parse_args
from scoresde_pipelines.training.evaluation import kernel_distance
from scoresde_pipelines.training.feature_classifier import FeatureClassifier
from scoresde_pipelines.training.trainer import Trainer


HEIGHT, WIDTH, STEPS = 16, 32, 3
QUICK = [
    "--class_conditional",
    "--train_batch_size",
    "4",
    "--cpu",
    "--report_to",
    "none",
    "--num_inference_steps",
    "3",
]


@pytest.fixture
def folder(tmp_path):
    """Splits "train" (8 images) and "test" (6) of 32 x 16 pixels in two classes: dark ones and light ones."""
    random = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 3)):
        for name, low in (("dark", 0), ("light", 128)):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for k in range(count):
                pixels = random.integers(low, low + 128, (HEIGHT, WIDTH, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "images" / split / name / f"{k}.png")
    return tmp_path / "images"


def run_trainer(folder, *options):
    AcceleratorState._reset_state(reset_partial_state=True)
    trainer = Trainer(parse_args(["--train_data_dir", str(folder), *QUICK, *options]))
    trainer.train()
    trainer.finish()
    AcceleratorState._reset_state(reset_partial_state=True)
    return trainer


def quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def seeds(*numbers):
    return [torch.Generator().manual_seed(number) for number in numbers]


def pixels_of(images):
    return (torch.as_tensor(images) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


@pytest.mark.filterwarnings("ignore:.*of the pixel values lie outside")
def test_a_wide_model_from_training_to_the_table(folder, tmp_path):
    output, features = tmp_path / "run", tmp_path / "features"
    FeatureClassifier(in_channels=3, sample_size=16).save_pretrained(features)
    trainer = run_trainer(
        folder, "--output_dir", str(output), "--resolution", str(HEIGHT), str(WIDTH), "--block_out_channels", "8", "8",
        "--layers_per_block", "1", "--attention_resolutions", "8", "--recipe", "edm", "--sde", "ve", "--sigma_max", "20",
        "--max_train_steps", "2", "--eval_batch_size", "4", "--validation_split", "test", "--eval_features", str(features),
        "--eval_num_images", "3", "--eval_num_bpd_images", "2", "--random_flip", "--augment_prob", "0.1", "--keep_best",
    )  # fmt: skip
    assert trainer.images.format.shape == (3, HEIGHT, WIDTH)

    # The grid has the images of the saved pipeline: a row per class, image k from the generator k.
    pipeline = quiet(ScoreSdeClassConditionalPipeline.from_pretrained(output))
    options = {"num_inference_steps": STEPS, "guidance_scale": 1.0, "output_type": "pt"}
    classes = ["dark", "dark", "light", "light"]
    drawn = pixels_of(pipeline(class_labels=classes, generator=seeds(0, 1, 2, 3), **options).images)
    grid = np.asarray(Image.open(output / "samples" / "00000002.png"))[::2, ::2]
    for k, image in enumerate(drawn):
        top, left = k // 2 * (HEIGHT + 2), k % 2 * (WIDTH + 2)
        shown = grid[top : top + HEIGHT, left : left + WIDTH].astype(int)
        assert np.abs(shown - image).max() <= 1 and image.std() > 10, k

    # Bits/dim of the last measurement are those of the pipeline.
    last = json.loads((output / "evaluation.jsonl").read_text().splitlines()[-1])
    bits = trainer.evaluation.bits
    likelihood = quiet(ScoreSdeLikelihoodPipeline.from_pretrained(output))
    found = likelihood(bits.images, tolerance=1e-3, generator=seeds(*bits.seeds)).bits_per_dim
    assert last["bits_per_dim"] == pytest.approx(float(found.mean()), rel=1e-6)

    # Inpainting keeps the right three quarters, to the pixel, and paints the rest.
    picture = Image.open(folder / "test" / "light" / "0.png")
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[:, : WIDTH // 4] = 255
    inpaint = quiet(ScoreSdeInpaintPipeline.from_pretrained(output))
    painted = inpaint(image=picture, mask_image=Image.fromarray(mask), num_inference_steps=STEPS,
                      generator=torch.Generator().manual_seed(0)).images[0]  # fmt: skip
    before, after = (np.asarray(image) for image in (picture, painted))
    assert np.array_equal(before[:, WIDTH // 4 :], after[:, WIDTH // 4 :])
    assert not np.array_equal(before[:, : WIDTH // 4], after[:, : WIDTH // 4])

    # The table: KID of the images that it keeps, by the mean of their upper quarter.
    def upper(images):
        return images[:, :, : HEIGHT // 4].float().mean(dim=(2, 3)) / 255

    result = evaluate(
        str(output), str(folder), tmp_path / "table", samplers="default", steps=STEPS, num_images=6, features=upper,
        metrics="kid", npz=True, device="cpu",
    )  # fmt: skip
    kept = np.load(next((tmp_path / "table" / "npz").glob("*.npz")))["arr_0"]
    assert kept.shape == (6, HEIGHT, WIDTH, 3)
    real = np.stack([np.asarray(Image.open(path)) for path in sorted((folder / "test").rglob("*.png"))])
    images, others = (upper(torch.from_numpy(array).permute(0, 3, 1, 2)) for array in (kept, real))
    assert result.rows[0].metrics["kid"].value == pytest.approx(kernel_distance(images, others).value, rel=1e-5)

    # Fine-tuning takes the size from the network.
    tuned = run_trainer(
        folder, "--output_dir", str(tmp_path / "tuned"), "--pretrained_model_name_or_path", str(output),
        "--max_train_steps", "1", "--eval_batch_size", "0", "--learning_rate", "0",
    )  # fmt: skip
    assert tuned.images.format.shape == (3, HEIGHT, WIDTH) and tuned.components.class_names == ["dark", "light"]
    saved = pipeline.unet.state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in tuned.network.state_dict().items())
