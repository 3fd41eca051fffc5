"""Pack a prepared set for a machine without a network: as many AVIFs in a zip as fit.

`python -m datamodules.prepare` reads the zip there, if Pillow there has AVIF (11.3 or newer). At
64px and quality 90, every pixel with a colour of its own, CelebA's take 2.1 KB each, with a PSNR
of 42 dB to the set's. Prints what to type on both machines, for images and for Python packages.
"""

import argparse
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from core.files import whole_file
from datamodules.shards import ShardIndex, read_shard

PACKAGES = "webdataset wandb 'jsonargparse[signatures]'"  # none of which needs torch, of gigabytes
END = 22  # bytes of a zip's last record
RECORDS = 76  # bytes that a zip takes for each file, but for its bytes and its name, twice


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shards", type=Path, required=True, help="a prepared set")
    parser.add_argument("--out", type=Path, default=Path("kit.zip"), help="the zip to write")
    parser.add_argument("--mebibytes", type=float, default=30.0, help="its size, at most")


def run(options: argparse.Namespace) -> None:
    """Raises DataError if the set cannot be read."""
    index = ShardIndex.load(options.shards)
    size, images = END, 0
    with whole_file(options.out) as file, zipfile.ZipFile(file, "w") as archive:
        for name, avif in avifs(index):
            size += RECORDS + 2 * len(name.encode()) + len(avif)
            if size > options.mebibytes * 2**20:
                break
            archive.writestr(zipfile.ZipInfo(name), avif)  # stored, of 1980: the same bytes always
            images += 1
    mebibytes, name = options.out.stat().st_size / 2**20, index.root.name
    print(
        f"{options.out}: {images} of {len(index)} images, {mebibytes:.1f} MiB. On the other machine"
        f"\n  python -m datamodules.prepare {options.out.name} data/{index.image_size}px/{name} "
        f"--image-size {index.image_size}\n"
        "Packages, where it has PyTorch and Lightning: here, with its version of Python,\n"
        f"  pip download --dest wheels --constraint constraints.txt {PACKAGES}\nand there\n"
        f"  pip install --no-index --find-links wheels {PACKAGES}"
    )


def avifs(index: ShardIndex) -> Iterator[tuple[str, bytes]]:
    """Yield (name, AVIF) of every image, in stored order."""
    for shard in index.shards:
        for _, name, png in read_shard(shard):
            avif = io.BytesIO()
            image = Image.open(io.BytesIO(png), formats=("PNG",))
            image.save(avif, "AVIF", quality=90, subsampling="4:4:4", speed=8)
            yield f"{name}.avif", avif.getvalue()
