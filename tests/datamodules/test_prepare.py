"""Preparing images and reading them back; every image here is made on the spot."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from datamodules import convert, sources
from datamodules import prepare as P
from datamodules.shards import INDEX, DataError, ShardIndex, decode, load_images, read_shard
from datamodules.sources import Entry
from tests.datamodules.preparing import SIZE, index_of, picture, reasons, run, save, stored


def digests(out: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in out.glob("*.tar")}


def one(
    tmp_path: Path,
    image: np.ndarray | Image.Image,
    *options: object,
    name: str = "a.png",
    size: int = SIZE,
    **save_options,
) -> np.ndarray:
    """Prepares one image and returns what was stored, (H, W, 3)."""
    save(tmp_path / "src" / name, image, **save_options)
    assert run(tmp_path / "src", tmp_path / "out", *options, size=size) == 0
    return stored(tmp_path / "out")[Path(name).stem].permute(1, 2, 0).numpy()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten images in two folders."""
    for i in range(10):
        save(tmp_path / "faces" / f"part{i % 2}" / f"{i:06d}.png", picture(i))
    return tmp_path / "faces"


# ---- sources, determinism, order


def archive(folder: Path, kind: str) -> Path:
    path = folder.with_suffix(f".{kind}")
    files = [p for p in sorted(folder.rglob("*"), reverse=True) if p.is_file()]
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
            for p in files:
                z.write(p, p.relative_to(folder))
    else:
        with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as t:
            for p in files:
                t.add(p, f"./{p.relative_to(folder)}")
    return path


def test_bytes_depend_on_neither_container_nor_workers(folder: Path, tmp_path: Path) -> None:
    for kind, workers in [("", 1), ("zip", 2), ("tar", 1), ("tar.gz", 1)]:
        source = archive(folder, kind) if kind else folder
        out = tmp_path / f"out{kind}"
        assert run(source, out, "--shard-size", 4, workers=workers) == 0
        assert {p.name for p in out.iterdir()} == {INDEX, *digests(out)}  # no scratch left
        assert digests(out) == digests(tmp_path / "out")
        assert index_of(out)["source"] == source.name
        assert str(tmp_path) not in (out / INDEX).read_text()
    assert stored(out).keys() == {f"{i:06d}" for i in range(10)}
    for i in range(10):  # the right size already: stored unchanged
        assert (stored(out)[f"{i:06d}"].permute(1, 2, 0).numpy() == picture(i)).all()


def test_tar_parallel_workers_read_by_offset(folder: Path, tmp_path: Path) -> None:
    assert run(archive(folder, "tar"), tmp_path / "a", workers=2) == 0
    assert run(folder, tmp_path / "b") == 0
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_threads_load_every_decoder_once(tmp_path: Path) -> None:
    for i in range(40):
        save(tmp_path / "src" / f"{i}{['.webp', '.tif', '.gif', '.bmp'][i % 4]}", picture(i))
    assert run(tmp_path / "src", tmp_path / "out", workers=16) == 0
    assert reasons(tmp_path / "out") == {} and len(stored(tmp_path / "out")) == 40


def test_index(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "out", "--shard-size", 4)
    index = index_of(tmp_path / "out")
    assert (index["version"], index["image_size"], index["channels"]) == (1, SIZE, 3)
    assert [s["samples"] for s in index["shards"]] == [4, 4, 2] and index["samples"] == 10
    assert index["rejected"] == [] and index["crop"] is None and index["seed"] == 0
    assert "LANCZOS" in index["resampling"] and index["rules"]["alpha"] == "composited on white"
    assert {s["file"]: s["sha256"] for s in index["shards"]} == digests(tmp_path / "out")
    assert index["bytes"] == sum(
        (tmp_path / "out" / s["file"]).stat().st_size for s in index["shards"]
    )


def test_seed_shuffles(folder: Path, tmp_path: Path) -> None:
    orders: list[list[str]] = []
    for seed in (0, 0, 1):
        out = tmp_path / f"out{len(orders)}"
        run(folder, out, "--seed", seed)
        orders.append(list(stored(out)))
    assert orders[0] == orders[1] != orders[2] and orders[0] != sorted(orders[0])


def test_skip_and_limit_cut_disjoint_sets(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "a", "--limit", 4)
    run(folder, tmp_path / "b", "--skip", 4, "--limit", 100)
    a, b = stored(tmp_path / "a"), stored(tmp_path / "b")
    assert len(a) == 4 and len(b) == 6 and not a.keys() & b.keys()


# ---- selection


def test_names(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    names = tmp_path / "names.txt"
    names.write_text("000003\n000004.png\n\npart0/000006.png\n000003\n")
    assert run(folder, tmp_path / "out", "--names", names) == 0
    assert stored(tmp_path / "out").keys() == {"000003", "000004", "000006"}
    assert index_of(tmp_path / "out")["selection"]["names"] == "names.txt"
    names.write_text("000003\n999999\n")
    assert run(folder, tmp_path / "other", "--names", names) == 2
    assert "names.txt: 1 names fit no image, such as 999999" in capsys.readouterr().err


def test_ambiguous_name(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    save(folder / "part1" / "000000.png", picture())
    (tmp_path / "names.txt").write_text("000000.png\n")
    assert run(folder, tmp_path / "out", "--names", tmp_path / "names.txt") == 2
    assert "fits part0/000000.png, part1/000000.png; write the path" in capsys.readouterr().err


def test_csv(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    table = tmp_path / "faces.csv"
    table.write_text(
        "image,split,Hat\n999999.jpg,train,0\n000001.png,train,0\n000002.png,train,1\n"
        "000003.png,val,0\n"
    )
    use = ("--csv", table, "--name-column", "image", "--where")
    assert run(folder, tmp_path / "out", *use, "split=train", "--where", "Hat=0") == 0
    assert stored(tmp_path / "out").keys() == {"000001"}
    assert index_of(tmp_path / "out")["selection"]["rows_without_image"] == 1
    assert "1 rows of faces.csv name images not in the source" in capsys.readouterr().out
    for where, said in [
        ("part=train", "no column 'part'; it has ['image', 'split', 'Hat']"),
        ("split=tset", "no image is left by {'skip': 0, 'limit': None, 'csv': 'faces.csv'"),
    ]:
        assert run(folder, tmp_path / "other", *use, where) == 2
        assert said in capsys.readouterr().err


# ---- odd images


def test_crop_takes_fractions_and_then_the_centre_square(tmp_path: Path) -> None:
    image = Image.fromarray(picture(1, 30, 20))
    expected = image.resize((SIZE, SIZE), Image.Resampling.LANCZOS, box=(1.5, 7.25, 18, 23.75))
    result = one(tmp_path, image, "--crop", 1.5, 2.25, 18, 29.25)  # 16.5 x 27: cut 5 above
    assert (result == np.asarray(expected)).all()
    assert index_of(tmp_path / "out")["crop"] == [1.5, 2.25, 18.0, 29.25]


def test_not_square_is_cut_at_whole_pixels(tmp_path: Path) -> None:
    image = picture(2, SIZE, SIZE + 3)
    assert (one(tmp_path, image) == image[:, 1:-2]).all()


def test_grey_of_every_kind(tmp_path: Path) -> None:
    grey = picture(3)[..., 0]
    deep = grey.astype(np.uint16) * 257
    save(tmp_path / "src" / "eight.png", grey)
    save(tmp_path / "src" / "sixteen.png", deep)
    save(tmp_path / "src" / "sixteen_pgm.pgm", Image.fromarray(deep))
    save(tmp_path / "src" / "sixteen_tif.tif", deep)
    save(tmp_path / "src" / "palette.png", Image.fromarray(grey).convert("P"))
    save(tmp_path / "src" / "cmyk.tif", Image.fromarray(grey).convert("RGB").convert("CMYK"))
    save(tmp_path / "src" / "bit.png", Image.fromarray(grey > 127))
    run(tmp_path / "src", tmp_path / "out")
    images = stored(tmp_path / "out")
    assert len(images) == 7
    bit = images.pop("bit").permute(1, 2, 0).numpy()
    assert (bit == (grey > 127)[..., None] * 255).all()
    for name, image in images.items():
        assert (image.permute(1, 2, 0).numpy() == grey[..., None]).all(), name


def test_alpha_lies_on_white(tmp_path: Path) -> None:
    rgba = np.dstack([picture(4), np.full((SIZE, SIZE), 255, np.uint8)])
    rgba[0, :, 3] = 0
    result = one(tmp_path, rgba)
    assert (result[0] == 255).all() and (result[1:] == rgba[1:, :, :3]).all()


def test_palette_with_a_transparent_colour_lies_on_white(tmp_path: Path) -> None:
    image = Image.fromarray(np.zeros((SIZE, SIZE), np.uint8), "P")
    image.putpalette([9, 9, 9])
    assert (one(tmp_path, image, transparency=0) == 255).all()


def test_exif_orientation_comes_before_the_crop(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned a quarter clockwise
    image = picture(5, SIZE, 2 * SIZE)
    result = one(tmp_path, image, "--crop", 0, SIZE, SIZE, 2 * SIZE, exif=exif)
    assert (result == np.rot90(image, -1)[SIZE:]).all()


def test_colour_profile_is_dropped(tmp_path: Path) -> None:
    one(tmp_path, picture(), icc_profile=b"profile")
    _, _, png = next(read_shard(ShardIndex.load(tmp_path / "out").shards[0]))
    assert Image.open(io.BytesIO(png)).info == {}


def test_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (SIZE, SIZE), colour) for colour in ("red", "blue")]
    result = one(tmp_path, frames[0], name="a.gif", save_all=True, append_images=frames[1:])
    assert (result == [255, 0, 0]).all()


def test_small_is_rejected_or_upscaled(tmp_path: Path) -> None:
    save(tmp_path / "src" / "good.png", picture())
    save(tmp_path / "src" / "small.png", picture(0, SIZE - 1, 50))
    run(tmp_path / "src", tmp_path / "out")
    assert reasons(tmp_path / "out") == {"small.png": "too small: 50 x 7 after the crop"}
    run(tmp_path / "src", tmp_path / "up", "--upscale")
    assert stored(tmp_path / "up").keys() == {"good", "small"}
    assert index_of(tmp_path / "up")["upscale"]


def png_header(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + bytes(4)


def test_rejected_with_a_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 5000)
    src = tmp_path / "src"
    save(src / "good.png", picture(0, 20, 20))
    whole = save(src / "cut.jpg", picture(0, 20, 20)).read_bytes()
    (src / "cut.jpg").write_bytes(whole[:-80])
    (src / "cut.png").write_bytes((src / "good.png").read_bytes()[:-200])
    (src / "text.jpg").write_text("not an image")
    (src / "empty.png").touch()
    (src / "bomb.png").write_bytes(png_header(60000, 60000))
    (src / "big.png").write_bytes(png_header(10000, 10000))  # where Pillow merely warns
    (src / "heavy.png").write_bytes(bytes(5001))
    save(src / "narrow.png", picture(0, 20, 15))
    save(src / "float.tif", Image.fromarray(np.zeros((20, 20), np.float32)))
    assert run(src, tmp_path / "out", "--crop", 0, 0, 16, 16) == 0
    found = reasons(tmp_path / "out")
    expected = {
        "cut.jpg": "unreadable: the file ends early",
        "cut.png": "unreadable: the file ends early",
        "text.jpg": "unreadable: not an image",
        "empty.png": "unreadable: not an image",
        "bomb.png": "unreadable: Image size",
        "big.png": "unreadable: Image size",
        "heavy.png": "too many bytes: 5001",
        "float.tif": "float pixels",
        "narrow.png": "crop box outside the image: 15 x 20",
    }
    assert found.keys() == expected.keys()
    assert all(found[name].startswith(reason) for name, reason in expected.items()), found
    assert list(stored(tmp_path / "out")) == ["good"]
    said = capsys.readouterr().out
    assert "rejected 9" in said and "  6 unreadable" in said


def test_damaged_member_of_a_zip(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as z:  # stored, so that one byte can be damaged
        for p in folder.rglob("*.png"):
            z.write(p, p.name)
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 20] ^= 255
    path.write_bytes(data)
    assert run(path, tmp_path / "out") == 0
    [reason] = reasons(tmp_path / "out").values()
    assert reason.startswith("unreadable: Bad CRC")


def test_other_files_are_counted(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (folder / "notes.txt").touch()
    (folder / "README").touch()
    save(folder / "__MACOSX" / "x.png", picture())
    save(folder / ".hidden.png", picture())
    (folder / "more").symlink_to(folder / "part0")
    (folder / "broken.png").symlink_to(folder / "nothing")
    assert run(folder, tmp_path / "out") == 0
    assert index_of(tmp_path / "out")["ignored"] == {
        ".txt": 1,
        "hidden": 2,
        "link or special file": 2,
        "no extension": 1,
    }
    assert "ignored 6 other files" in capsys.readouterr().out


def test_keys_are_unique_and_without_dots(tmp_path: Path) -> None:
    names = ["a/1.png", "b/1.png", "b/1.jpg", "v1.2 final.png", "b_1_png.png", "x" * 120 + ".png"]
    for i, name in enumerate(names):
        save(tmp_path / "src" / name, picture(i))
    run(tmp_path / "src", tmp_path / "out")
    assert stored(tmp_path / "out").keys() == {
        "a_1_png",
        "b_1_png",
        "b_1_png_",
        "b_1_jpg",
        "v1_2_final",
        "x" * 120,
    }


def test_a_file_that_ends_early_is_rejected(tmp_path: Path) -> None:
    image = Image.fromarray(picture(0, 40, 40))
    for name, options in [("a.png", {}), ("a.jpg", {}), ("p.jpg", {"progressive": True})]:
        data = save(tmp_path / name, image, **options).read_bytes()
        for keep in (len(data) // 2, len(data) * 9 // 10, len(data) - 12):
            # a download that is still under way may have its final size already
            for rest in (b"", bytes(len(data) - keep)):
                entry = Entry(name, len(data))
                found = convert.convert(entry, lambda _, d=data[:keep] + rest: d, SIZE, None, False)
                assert found == "unreadable: the file ends early"


def test_what_a_camera_appends_to_a_whole_file_does_no_harm(tmp_path: Path) -> None:
    image = Image.fromarray(picture(0, 40, 40))
    for name in ("a.png", "a.jpg"):
        data = save(tmp_path / name, image).read_bytes() + b"\xff\xda IDAT a film"
        entry = Entry(name, len(data))
        found = convert.convert(entry, lambda _, d=data: d, SIZE, None, False)
        assert not isinstance(found, str), found


@pytest.mark.parametrize(("top", "depth"), [(255, 8), (4095, 12), (1.0, 0)])
def test_white_level(tmp_path: Path, capsys: pytest.CaptureFixture, top: float, depth: int) -> None:
    grey = picture(3)[..., 0]
    deep = np.round(grey / 255 * top).astype(np.uint16) if depth else (grey / 255).astype("f4")
    save(tmp_path / "src" / "a.tif", Image.fromarray(deep))
    save(tmp_path / "src" / "eight.png", grey)
    run(tmp_path / "src", tmp_path / "dark")
    if depth:
        assert "warning: 1 images are nearly black" in capsys.readouterr().out
        assert index_of(tmp_path / "dark")["black"] == 1
    else:
        assert "tell it by --white-level" in reasons(tmp_path / "dark")["a.tif"]
    assert run(tmp_path / "src", tmp_path / "out", "--white-level", top) == 0
    for image in stored(tmp_path / "out").values():
        assert (image.permute(1, 2, 0).numpy() == grey[..., None]).all()
    assert index_of(tmp_path / "out")["white_level"] == top


def test_images_of_one_colour_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for i in range(3):
        save(tmp_path / "src" / f"{i}.png", Image.new("RGB", (SIZE, SIZE), "navy"))
    save(tmp_path / "src" / "good.png", picture())
    run(tmp_path / "src", tmp_path / "out")
    assert index_of(tmp_path / "out")["constant"] == 3
    assert "warning: 3 images are of one colour" in capsys.readouterr().out


# ---- interrupting, repeating


class Interrupter:
    """Stands in for `convert`: counts its calls and fails at one of them."""

    def __init__(self, at: int, error: BaseException) -> None:
        self.calls, self.at, self.error, self.convert = 0, at, error, P.convert

    def __call__(self, *args, **options) -> bytes | str:
        self.calls += 1
        if self.calls == self.at:
            raise self.error
        return self.convert(*args, **options)


@pytest.mark.parametrize(
    "error, status",
    [(KeyboardInterrupt(), 130), (OSError(errno.ENOSPC, "No space left on device"), 2)],
)
def test_interrupted_run_goes_on(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    error: BaseException,
    status: int,
) -> None:
    (folder / "bad.png").touch()
    run(folder, tmp_path / "whole", "--shard-size", 3)
    out, interrupter = tmp_path / "out", Interrupter(9, error)
    monkeypatch.setattr(P, "convert", interrupter)
    assert run(folder, out, "--shard-size", 3) == status
    assert "give the same command again" in capsys.readouterr().err
    kept = digests(out)
    assert len(kept) == 2 and kept.items() <= digests(tmp_path / "whole").items()
    with pytest.raises(DataError, match=r"interrupted; python -m datamodules.prepare SOURCE"):
        ShardIndex.load(out)
    assert run(folder, out, "--shard-size", 4) == 2  # other options
    assert "shard_size is 3 there, 4 here" in capsys.readouterr().err
    interrupter.calls = 10
    assert run(folder, out, "--shard-size", 3) == 0
    assert interrupter.calls - 10 < 6  # only what was missing
    assert digests(out) == digests(tmp_path / "whole")
    assert (out / INDEX).read_text() == (tmp_path / "whole" / INDEX).read_text()


def test_interrupted_before_the_first_shard(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(P, "convert", Interrupter(2, KeyboardInterrupt()))
    assert run(folder, tmp_path / "out") == 130 and not digests(tmp_path / "out")
    assert run(folder, tmp_path / "out") == 0 and len(stored(tmp_path / "out")) == 10


def test_finished_run_is_left_alone(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run(folder, out)
    before = {p: p.stat().st_mtime_ns for p in out.iterdir()}
    monkeypatch.setattr(P, "convert", None)
    assert run(folder, out, workers=2) == 0
    assert "complete already" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in out.iterdir()} == before
    assert run(folder, out, "--seed", 1, size=4) == 2
    assert "image_size is 8 there, 4 here; seed is 0 there, 1 here" in capsys.readouterr().err
    save(folder / "new.png", picture())
    assert run(folder, out) == 2
    assert "listing" in capsys.readouterr().err
    (folder / "new.png").unlink()
    shard = out / "shard-00000.tar"
    data = bytearray(shard.read_bytes())
    data[600] ^= 1  # the size stays
    shard.write_bytes(data)
    assert run(folder, out) == 2
    assert (
        "shard-00000.tar: missing, or not the file that index.json describes"
        in capsys.readouterr().err
    )


# ---- what cannot be prepared


def test_clear_errors(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def error(source: Path, *options: object, out: str = "out") -> str:
        assert run(source, tmp_path / out, *options) == 2
        text = capsys.readouterr().err
        assert text.startswith("error: ") and text.count("\n") == 1
        return text

    nothing = "no image, folder, zip, tar or Parquet file, or a damaged one"
    empty, words = tmp_path / "empty", tmp_path / "words"
    empty.mkdir()
    words.mkdir()
    (words / "a.txt").touch()
    assert "No such file or directory: '" in error(tmp_path / "nowhere")
    assert "empty: no images (.avif .bmp" in error(empty)
    assert "only {'.txt': 1}" in error(words)
    assert f"a.txt: {nothing}" in error(words / "a.txt")
    assert "inside SOURCE" in error(folder, out="faces/out")
    assert "words: not empty, and not made by prepare" in error(folder, out="words")
    assert "Not a directory: '" in error(folder, out="words/a.txt")
    assert "faces: no image is left by {'skip': 10" in error(folder, "--skip", 10)
    assert "No such file" in error(folder, "--names", tmp_path / "none.txt")
    (tmp_path / "blank.txt").touch()
    assert "'names': 'blank.txt'" in error(folder, "--names", tmp_path / "blank.txt")
    assert "not a text file" in error(folder, "--names", folder / "part0" / "000000.png")
    assert "every image is rejected, the first with: crop box" in error(
        folder, "--crop", 0, 0, 99, 99
    )
    damaged = archive(folder, "tar.gz")
    damaged.write_bytes(damaged.read_bytes()[:-900])
    assert f"faces.tar.gz: {nothing}" in error(damaged)
    assert run(folder, tmp_path / "out") == 0  # none of the above left anything behind


@pytest.mark.parametrize(
    "options, said",
    [
        (["--where", "a=1"], "needs --csv"),
        (["--csv", "x", "--where", "a"], "COLUMN=VALUE"),
        (["--crop", "5", "0", "5", "9"], "left < right"),
        (["--names", "x", "--csv", "y"], "not allowed with"),
        (["--shard-size", "0"], "not 1 or more"),
        (["--skip", "-1"], "0 or more"),
    ],
)
def test_arguments(options: list[str], said: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        P.main(["in", "out", "--image-size", "8", *options])
    assert stop.value.code == 2 and said in capsys.readouterr().err


# ---- reading


@pytest.fixture
def prepared(folder: Path, tmp_path: Path) -> Path:
    run(folder, tmp_path / "set", "--shard-size", 4)
    return tmp_path / "set"


def test_load_and_read(prepared: Path) -> None:
    index = ShardIndex.load(prepared, image_size=SIZE)
    assert len(index) == 10 and [s.first for s in index.shards] == [0, 4, 8]
    samples = [sample for shard in index.shards for sample in read_shard(shard)]
    assert [position for position, _, _ in samples] == list(range(10))
    images, names = load_images(index)
    assert images.shape == (10, 3, SIZE, SIZE) and images.dtype == torch.uint8
    assert names == [name for _, name, _ in samples]
    assert all(torch.equal(decode(png, SIZE), images[i]) for i, _, png in samples)
    few, few_names = load_images(index, limit=5)
    assert torch.equal(few, images[:5]) and few_names == names[:5]
    assert len(load_images(index, limit=99)[1]) == 10


def test_load_errors(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"nothing: no set; python -m datamodules.prepare SOURCE \S+nothing --image-size 64",
    ):
        ShardIndex.load(tmp_path / "nothing")
    assert issubclass(DataError, ValueError)
    with pytest.raises(DataError, match=r"index.json: images of 8px, 16px wanted"):
        ShardIndex.load(prepared, image_size=16)
    shard = prepared / "shard-00001.tar"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    with pytest.raises(DataError, match=r"shard-00001.tar: missing, or not the file"):
        ShardIndex.load(prepared)
    shard.unlink()
    with pytest.raises(DataError, match=r"shard-00001.tar: missing"):
        ShardIndex.load(prepared)
    (prepared / INDEX).write_text('{"version": 2, "image_size": 8, "channels": 3, "shards": []}')
    with pytest.raises(DataError, match=r"version 2"):
        ShardIndex.load(prepared)
    (prepared / INDEX).write_text("{")
    with pytest.raises(DataError, match=r"index.json: not made by"):
        ShardIndex.load(prepared)


def rewrite(prepared: Path, shard: int, data: bytes) -> None:
    """Replace a shard, and what index.json says of its bytes: as a faulty program would."""
    index = json.loads((prepared / INDEX).read_text())
    record = index["shards"][shard]
    record |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (prepared / INDEX).write_text(json.dumps(index))
    (prepared / record["file"]).write_bytes(data)


def test_damaged_shards_are_named(prepared: Path) -> None:
    shard = ShardIndex.load(prepared).shards[0]
    data = shard.path.read_bytes()
    flipped = bytearray(data)
    flipped[600] ^= 1
    for damaged in (data[:700], data[:1024], b"", bytes(flipped)):
        shard.path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"shard-00000.tar: .*not the file that index.json"):
            list(read_shard(shard))
    for keep in (700, 1024, 0):  # inside an image, between two, nothing
        rewrite(prepared, 0, data[:keep])
        with pytest.raises(DataError, match=r"shard-00000.tar: damaged after"):
            list(read_shard(ShardIndex.load(prepared).shards[0]))
    changed = bytearray(data)
    changed[data.index(b"IDAT") + 20] ^= 255
    rewrite(prepared, 0, bytes(changed))
    with pytest.raises(DataError, match=r"shard-00000.tar: \d+: damaged PNG"):
        load_images(ShardIndex.load(prepared))
    rewrite(prepared, 0, (prepared / "shard-00002.tar").read_bytes())
    with pytest.raises(DataError, match=r"damaged after 2 images \(index.json says 4\)"):
        list(read_shard(ShardIndex.load(prepared).shards[0]))


def test_a_shard_too_many_is_named(prepared: Path) -> None:
    shutil.copy(prepared / "shard-00002.tar", prepared / "shard-00003.tar")
    with pytest.raises(DataError, match=r"shard-00003.tar: a shard that index.json does not know"):
        ShardIndex.load(prepared)


def test_damaged_shards_can_be_left_out(prepared: Path) -> None:
    whole = ShardIndex.load(prepared)
    data = bytearray((prepared / "shard-00000.tar").read_bytes())
    data[600] ^= 1
    (prepared / "shard-00000.tar").write_bytes(data)
    (prepared / "shard-00001.tar").unlink()
    index = ShardIndex.load(prepared, skip=True)
    assert index.skipped == ("shard-00000.tar", "shard-00001.tar")
    assert [(s.path.name, s.first) for s in index.shards] == [("shard-00002.tar", 0)]
    assert index.identity == whole.identity
    (prepared / "shard-00002.tar").unlink()
    with pytest.raises(DataError, match=r"no shard is what index\.json says"):
        ShardIndex.load(prepared, skip=True)


def test_an_image_of_another_size_is_named(prepared: Path) -> None:
    for side in (1, 16):
        buffer, shard = io.BytesIO(), io.BytesIO()
        Image.new("RGB", (side, side)).save(buffer, "PNG")
        with tarfile.open(fileobj=shard, mode="w") as tar:
            for name in ("000008.png", "000009.png"):
                member = tarfile.TarInfo(name)
                member.size = len(buffer.getvalue())
                tar.addfile(member, io.BytesIO(buffer.getvalue()))
        rewrite(prepared, 2, shard.getvalue())
        message = rf"shard-00002.tar: 000008: an image of {side} x {side} pixels, .* 8 x 8"
        with pytest.raises(DataError, match=message):
            load_images(ShardIndex.load(prepared))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("file", None), ("file", "../shard-00000.tar"), ("file", 3), ("samples", "4")),
        *(("samples", 0), ("bytes", None), ("sha256", None)),
    ],
)
def test_a_wrong_field_of_the_index_is_named(prepared: Path, field: str, value: object) -> None:
    index = json.loads((prepared / INDEX).read_text())
    index["shards"][1][field] = value
    (prepared / INDEX).write_text(json.dumps(index))
    with pytest.raises(DataError, match=r"index\.json: not made by .*shards\[1\]"):
        ShardIndex.load(prepared)


def test_a_shard_that_cannot_be_read_is_not_called_damaged(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    shard = ShardIndex.load(prepared).shards[0]
    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(DataError, match=r"shard-00000\.tar cannot be read: .*Permission denied"):
        list(read_shard(shard))
    monkeypatch.setattr(hashlib, "file_digest", refused)
    with pytest.raises(DataError, match=r"shard-00000\.tar cannot be read: .*Permission denied"):
        ShardIndex.load(prepared, skip=True)  # it may be whole: it is not left out


class EveryShard(IterableDataset):
    def __init__(self, index: ShardIndex) -> None:
        self.index = index

    def __iter__(self):
        assert get_worker_info().num_workers == 2
        for shard in self.index.shards:
            for position, _, png in read_shard(shard):
                yield position, decode(png, SIZE)


def test_workers_and_nodes_each_read_whole_shards(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """webdataset would deal shards out by these; two workers that read all must yield all twice."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    index = ShardIndex.load(prepared)
    images, _ = load_images(index)
    seen = Counter[int]()
    for position, image in DataLoader(EveryShard(index), batch_size=None, num_workers=2):
        seen[position] += 1
        assert torch.equal(image, images[position])
    assert seen == dict.fromkeys(range(10), 2)


@pytest.mark.real
def test_real_images(tmp_path: Path) -> None:
    source = os.environ.get("INVERTIBLE_PRIORS_SOURCE")
    if not source:
        pytest.skip("INVERTIBLE_PRIORS_SOURCE does not name a folder with celeba128-val.zip")
    assert run(Path(source) / "celeba128-val.zip", tmp_path / "out", "--limit", 50, size=32) == 0
    images, _ = load_images(ShardIndex.load(tmp_path / "out", image_size=32))
    assert len(images) == 50 and 80 < images.float().mean() < 140 and images.float().std() > 40
