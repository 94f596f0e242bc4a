"""Codes are a property of the data, not of the network (paper section 4.3 and appendix D.5).

    python benchmarks/identifiability.py --data FASHION_MNIST_FOLDER

Two networks of different architecture and seed learn the same 8 x 8 images. Their codes of held-out images are compared
with each other, with the codes of other images and with the pixels, early and late in training: as the networks approach
the same score, their codes approach each other. About five minutes on one idle CPU thread.
"""

import argparse

import torch
from result_file import save
from torch import Tensor

from scoresde_pipelines import DDPMpp, NCSNpp, ScoreSdeLikelihoodPipeline, VPSDEScheduler
from scoresde_pipelines.training.data import ImageFormat, ImageStore, load_images


SIDE, BATCH = 8, 64


def images(data: str, split: str, count: int) -> Tensor:
    """Gray images as uint8, (count, 1, SIDE, SIDE)."""
    store = ImageStore(load_images(train_data_dir=data, split=split), ImageFormat(SIDE, 1), max_cached_gb=0)
    return store[list(range(count))]


def networks() -> tuple[torch.nn.Module, torch.nn.Module]:
    """A DDPM++ and an NCSN++ that share neither widths, depth, resampling filters nor initial weights."""
    common = {"sample_size": SIDE, "in_channels": 1, "out_channels": 1, "dropout": 0.0}
    torch.manual_seed(1)
    first = DDPMpp(**common, block_out_channels=(24, 48), layers_per_block=1)
    torch.manual_seed(2)
    second = NCSNpp(
        **common,
        block_out_channels=(32, 32),
        layers_per_block=2,
        time_embedding_type="positional",
        scale_by_sigma=False,
        center_input_sample=False,
    )
    return first, second


def train(unet: torch.nn.Module, pixels: Tensor, steps: int, seed: int) -> ScoreSdeLikelihoodPipeline:
    """Epsilon prediction on the VP SDE, with an exponential moving average of the weights."""
    scheduler = VPSDEScheduler(continuous=True)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(unet.parameters(), lr=1e-3)
    average = torch.optim.swa_utils.AveragedModel(unet, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99))
    data = pixels.float() / 127.5 - 1
    unet.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, step / 100) * (1 - step / steps)
        x0 = data[torch.randint(len(data), (BATCH,), generator=generator)]
        t = torch.rand(BATCH, generator=generator) * (1 - 1e-5) + 1e-5
        noise = torch.randn(x0.shape, generator=generator)
        x = scheduler.add_noise(x0, noise, scheduler.parameterization.network_time(scheduler.sde, t)).float()
        loss = (unet(x, 999 * t).sample - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update_parameters(unet)
    pipe = ScoreSdeLikelihoodPipeline(average.module.eval(), scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Correlation of every code of one set with every code of the other, (B, B)."""
    a, b = (codes.flatten(1) - codes.flatten(1).mean(1, keepdim=True) for codes in (first, second))
    return (a / a.norm(dim=1, keepdim=True)) @ (b / b.norm(dim=1, keepdim=True)).T


def compare(first: Tensor, second: Tensor) -> dict[str, float]:
    """Codes of the same images under two networks (or other pictures of them), both (B, *D)."""
    table = correlation(first, second)
    others = table[~torch.eye(len(table), dtype=torch.bool)]
    size = first.flatten(1).norm(dim=1)
    return {
        "correlation_same_image": float(table.diagonal().mean()),
        "correlation_same_image_lowest": float(table.diagonal().min()),
        "correlation_different_images": float(others.mean()),
        "relative_distance_same_image": float(((first - second).flatten(1).norm(dim=1) / size).mean()),
        "relative_distance_different_images": float(
            ((first - second.roll(1, 0)).flatten(1).norm(dim=1) / size).mean()
        ),
        "nearest_code_is_the_images_own": float((table.argmax(1) == torch.arange(len(table))).float().mean()),
    }


def experiment(pixels: Tensor, held_out: Tensor, steps: int, tolerance: float) -> dict[str, dict[str, float]]:
    """Both networks trained for `steps` from the start, and everything that is measured on them."""
    pipes = [train(network, pixels, steps, seed) for seed, network in enumerate(networks())]
    codes = [pipe.encode(held_out, tolerance=tolerance) for pipe in pipes]
    data = held_out.float() / 127.5 - 1
    swapped = pipes[1].decode(codes[0], tolerance=tolerance, output_type="latent").images
    back = pipes[0].decode(codes[0], tolerance=tolerance, output_type="latent").images
    return {
        "codes_of_two_networks": compare(*codes),
        "pixels_against_codes": compare(data / data.std(), codes[0]),
        "spread": {f"standard_deviation_of_codes_{i}": float(code.std()) for i, code in enumerate(codes)},
        "decoding_rms_error_of_a_range_of_2": {
            "by_the_other_network": float((swapped - data).square().mean().sqrt()),
            "by_the_same_network": float((back - data).square().mean().sqrt()),
            "to_a_different_image": float((data.roll(1, 0) - data).square().mean().sqrt()),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with train and test images")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--images", type=int, default=64, help="held-out images to encode")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    arguments = parser.parse_args()
    pixels, held_out = images(arguments.data, "train", 20000), images(arguments.data, "test", arguments.images)
    figures = {}
    for steps in (arguments.steps // 10, arguments.steps):
        figures[f"{steps} steps"] = result = experiment(pixels, held_out, steps, arguments.tolerance)
        print(f"after {steps} steps")
        for name, values in result.items():
            print(f"  {name}: " + ", ".join(f"{key} {value:.3f}" for key, value in values.items()), flush=True)
    print("written to", save("identifiability", figures).name)


if __name__ == "__main__":
    main()
