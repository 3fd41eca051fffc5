"""Files of strangers: nothing in them is executed, and nothing is written or read outside."""

import io
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from callbacks.checkpoints import newest_checkpoint
from datamodules import sources
from datamodules.prepare import main as prepare
from datamodules.shards import ShardIndex, load_images
from priors import load_prior
from tests.conftest import REPOSITORY


class Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("save", [pickle.dump, torch.save])
def test_a_checkpoint_that_is_a_program_is_not_run(
    save: Callable[[Any, Any], None], tmp_path: Path
) -> None:
    mark, run = tmp_path / "executed", tmp_path / "run"
    shutil.copytree(REPOSITORY / "tests" / "saved" / "run", run)
    (run / "checkpoints" / "best.ckpt").unlink(missing_ok=True)
    with (run / "checkpoints" / "last.ckpt").open("wb") as file:
        save({"images_seen": 8, "state_dict": Payload(mark)}, file)
    for read in (newest_checkpoint, load_prior):
        with pytest.raises(ValueError, match=r"last\.ckpt is damaged or no checkpoint"):
            read(run)
    assert not mark.exists()


def png(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return file.getvalue()


def a_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("good.png", png("green"))
        archive.writestr("../../up.png", png("green"))
        archive.writestr(f"{path.parent}/absolute.png", png("green"))
        archive.writestr("bomb.png", bytes(1_000_000))


def a_tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for name in ("good.png", "../../up.png", f"{path.parent}/absolute.png"):
            member = tarfile.TarInfo(name)
            member.size = len(png("green"))
            archive.addfile(member, io.BytesIO(png("green")))
        for name, kind in (("link.png", tarfile.SYMTYPE), ("hard.png", tarfile.LNKTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, str(path.parent / "secret.png")
            archive.addfile(member)


def test_a_compressed_tar_fills_no_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "faces.tar.gz"
    contents = {"good.png": png("green"), "bomb.png": bytes(1_000_000)}
    contents["notes.txt"] = bytes(1_000_000)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 100_000)
    entries = [*sources.find_images(path)[0].values()]
    read = sources.open_source(path, entries, tmp_path / "scratch")
    assert (tmp_path / "scratch").stat().st_size == len(png("green"))
    assert read(next(e for e in entries if e.name == "good.png")) == png("green")

    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    assert prepare([str(path), str(tmp_path / "set"), "--image-size=8"]) != 0
    assert "0.0 GB free" in capsys.readouterr().err


@pytest.mark.parametrize("make", [a_zip, a_tar])
def test_an_archive_reaches_nothing_outside(
    make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 100_000)
    (tmp_path / "secret.png").write_bytes(png("red"))
    make(tmp_path / "archive")
    before = set(tmp_path.rglob("*"))
    out = tmp_path / "deep" / "er" / "set"
    assert prepare([str(tmp_path / "archive"), str(out), "--image-size=8"]) == 0
    made = {path for path in set(tmp_path.rglob("*")) - before if out not in (path, *path.parents)}
    assert made == {out.parent, out.parent.parent}
    images, names = load_images(ShardIndex.load(out))
    assert "good" in names and not images[:, 0].any()  # no red one, which is outside
