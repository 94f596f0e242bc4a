"""Images per second of streamed training data beside an uncached map-style data set, and the time to resume a stream.

    python benchmarks/streaming_throughput.py                # 16,384 JPEG images of 64 x 64 in 8 shards
    python benchmarks/streaming_throughput.py --side 256 --shards 4 --images-per-shard 512

Decoding is included, training is not. The images are smooth noise, so that their files have the size of small pictures.
"""

import argparse
import io
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image
from result_file import save

from scoresde_pipelines.training.data import ImageFormat, ImageStore, ShuffledBatches, image_batches, load_images
from scoresde_pipelines.training.image_stream import ImageStream
from scoresde_pipelines.training.stream_sources import open_stream


BATCH = 64
DIFFERENT = 64  # pictures; all others repeat them


def write_shards(folder: Path, side: int, shards: int, count: int) -> float:
    """Writes the same images as parquet and as tar files; returns the bytes of an image."""
    rng, files = np.random.default_rng(0), []
    for _ in range(DIFFERENT):
        coarse = Image.fromarray(rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8))
        file = io.BytesIO()
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    (folder / "parquet").mkdir()
    (folder / "tar").mkdir()
    features = datasets.Features({"image": datasets.Image()})
    for shard in range(shards):
        rows = [{"bytes": files[k % DIFFERENT], "path": None} for k in range(count)]
        table = datasets.Dataset.from_dict({"image": rows}, features=features)
        table.to_parquet(folder / "parquet" / f"train-{shard}.parquet", batch_size=100)
        with tarfile.open(folder / "tar" / f"{shard}.tar", "w") as archive:
            for k in range(count):
                entry = tarfile.TarInfo(f"{shard}-{k:06d}.jpg")
                entry.size = len(files[k % DIFFERENT])
                archive.addfile(entry, io.BytesIO(files[k % DIFFERENT]))
    return float(np.mean([len(file) for file in files]))


def rate(batches: Iterator[Any], count: int) -> tuple[float, float]:
    """Seconds until the first batch, and images per second after it."""
    start = time.perf_counter()
    next(batches)
    first = time.perf_counter() - start
    for _ in range(count):
        next(batches)
    return first, count * BATCH / (time.perf_counter() - start - first)


def measure(folder: Path, image_format: ImageFormat, block: int, batches: int) -> dict[str, Any]:
    """All figures, by source."""
    found: dict[str, Any] = {}
    for kind, column in (("parquet", "image"), ("tar", "jpg")):
        stream = ImageStream(
            open_stream(train_data_dir=str(folder / kind)), image_format, column, block_size=block, seed=0
        )
        for threads in (0, 2):
            first, images = rate(stream.batches(BATCH, num_threads=threads), batches)
            found[f"{kind}, {threads} threads"] = {"first_batch_s": first, "images_per_s": images}
        start = (batches + 1) * BATCH
        *_, last = (batch for batch, _ in zip(stream.batches(BATCH), range(batches + 1)))
        found[f"{kind}, resumed"] = {
            "first_batch_s": rate(stream.batches(BATCH, start, last.bookmark), 1)[0],
            "rows_passed_over": last.bookmark["shard_row"],
        }
    table = load_images(train_data_dir=str(folder / "parquet"), cache_dir=str(folder / "cache"))
    store = ImageStore(table, image_format, max_cached_gb=0)
    first, images = rate(image_batches(store, ShuffledBatches(len(store), BATCH, 0)), batches)
    found["map-style, not cached"] = {"first_batch_s": first, "images_per_s": images}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--images-per-shard", type=int, default=2048)
    parser.add_argument("--block", type=int, default=4096)
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--name", default="streaming_throughput", help="of the file in benchmarks/results")
    args = parser.parse_args()
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        size = write_shards(Path(folder), args.side, args.shards, args.images_per_shard)
        found = measure(Path(folder), ImageFormat(args.side, 3), args.block, args.batches)
    for name, figures in found.items():
        print(name, {key: round(value, 3) for key, value in figures.items()})
    save(args.name, {"bytes_per_image": size, **vars(args), "sources": found})


if __name__ == "__main__":
    main()
