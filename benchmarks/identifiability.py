"""Codes are a property of the data, not of the network (paper section 4.3, figure 6).

    python benchmarks/identifiability.py --data FASHION_MNIST_FOLDER [--steps 3000]

Two networks of different architecture and seed learn the same 8 x 8 images; their codes of held-out images are compared
with each other, with the codes of other images, and before training. Minutes on a CPU.
"""

import argparse

import torch
from torch import Tensor

from scoresde_pipelines import DDPMpp, NCSNpp, ScoreSdeLikelihoodPipeline, VPSDEScheduler
from scoresde_pipelines.training.data import ImageFormat, ImageStore, load_images


def images(data: str, split: str, count: int) -> Tensor:
    """Gray 8 x 8 images as uint8, (count, 1, 8, 8)."""
    store = ImageStore(load_images(train_data_dir=data, split=split), ImageFormat(8, 1), max_cached_gb=0)
    return store[list(range(count))]


def train(unet: torch.nn.Module, pixels: Tensor, steps: int, seed: int) -> ScoreSdeLikelihoodPipeline:
    """Epsilon prediction on the VP SDE, with an exponential moving average of the weights."""
    scheduler = VPSDEScheduler(continuous=True)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(unet.parameters(), lr=1e-3)
    average = torch.optim.swa_utils.AveragedModel(unet, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995))
    data = pixels.float() / 127.5 - 1
    unet.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, step / 100) * (1 - step / steps)
        x0 = data[torch.randint(len(data), (128,), generator=generator)]
        t = torch.rand(128, generator=generator) * (1 - 1e-5) + 1e-5
        noise = torch.randn(x0.shape, generator=generator)
        x = scheduler.add_noise(x0, noise, scheduler.parameterization.network_time(scheduler.sde, t)).float()
        loss = (unet(x, 999 * t).sample - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update_parameters(unet)
    return ScoreSdeLikelihoodPipeline(average.module.eval(), scheduler)


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Correlation of every code of one set with every code of the other, (B, B)."""
    a, b = (codes.flatten(1) - codes.flatten(1).mean(1, keepdim=True) for codes in (first, second))
    return (a / a.norm(dim=1, keepdim=True)) @ (b / b.norm(dim=1, keepdim=True)).T


def report(name: str, first: Tensor, second: Tensor) -> None:
    table = correlation(first, second)
    own = table.diagonal()
    others = table[~torch.eye(len(table), dtype=torch.bool)]
    nearest = (table.argmax(1) == torch.arange(len(table))).float().mean()
    print(
        f"{name}: same image {own.mean():.3f} (lowest {own.min():.3f}), different images {others.mean():.3f}, "
        f"nearest code is the image's own {100 * nearest:.0f} %"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with train and test images")
    parser.add_argument("--steps", type=int, default=3000)
    arguments = parser.parse_args()
    pixels, held_out = images(arguments.data, "train", 20000), images(arguments.data, "test", 64)
    common = {"sample_size": 8, "in_channels": 1, "out_channels": 1}
    torch.manual_seed(1)
    first = DDPMpp(**common, block_out_channels=(24, 48), layers_per_block=1, dropout=0.0)
    torch.manual_seed(2)
    second = NCSNpp(
        **common,
        block_out_channels=(32, 32),
        layers_per_block=2,
        dropout=0.0,
        time_embedding_type="positional",
        scale_by_sigma=False,
        center_input_sample=False,
    )
    pipes = [train(net, pixels, arguments.steps, seed) for seed, net in enumerate((first, second))]
    codes = [pipe.encode(held_out, tolerance=1e-4) for pipe in pipes]
    report("codes of two networks", *codes)
    noise = held_out.float() / 127.5 - 1
    report("pixels against codes", noise, codes[0])
    print("standard deviation of the codes:", ", ".join(f"{float(code.std()):.3f}" for code in codes))
    swapped = pipes[1].decode(codes[0], tolerance=1e-4, output_type="latent").images
    error = (swapped - noise).square().mean().sqrt()
    print(f"decoding one network's codes with the other: rms error {float(error):.3f} of a range of 2")


if __name__ == "__main__":
    main()
