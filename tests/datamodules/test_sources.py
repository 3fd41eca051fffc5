"""Sources, lists and tables as others hand them out."""

import importlib
import io
import shutil
import sys
import tarfile
import unicodedata
import zipfile
from pathlib import Path

import pytest
from PIL import Image, features

from datamodules.names import unique_keys
from datamodules.tables import read_attributes
from tests.datamodules.preparing import index_of, picture, reasons, run, save, stored


def encoded(seed: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(seed)).save(buffer, kind)
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes], links: dict[str, tuple[bytes, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for name, (kind, target) in links.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            tar.addfile(member)
    return path


def test_a_folder_of_tars(tmp_path: Path) -> None:
    """As img2dataset and webdataset write it: an image with its text and json, the next key."""
    src = tmp_path / "shards"
    for shard in range(2):
        keys = [f"{shard:05d}{i:04d}" for i in range(3)]
        members = {f"{key}.png": encoded(int(key[4:])) for key in keys}
        members |= {f"{key}.{kind}": b"{}" for key in keys for kind in ("json", "txt")}
        write_tar(src / f"{shard:05d}.tar", members, {})
        (src / f"{shard:05d}.parquet").write_bytes(b"of the captions")
        (src / f"{shard:05d}_stats.json").write_text("{}")
    assert run(src, tmp_path / "out", workers=2) == 0
    found = stored(tmp_path / "out")
    assert found.keys() == {f"{shard:05d}{i:04d}" for shard in range(2) for i in range(3)}
    for key, image in found.items():
        assert (image.permute(1, 2, 0).numpy() == picture(int(key[4:]))).all()
    assert index_of(tmp_path / "out")["ignored"] == {".json": 8, ".parquet": 2, ".txt": 6}
    write_tar(src / "00002.tar", {"000000000.png": encoded(9)}, {})  # a key that there is
    assert run(src, tmp_path / "more") == 0
    assert {"00000_tar_000000000_png", "00002_tar_000000000_png"} < stored(tmp_path / "more").keys()


def test_a_damaged_tar_in_a_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_tar(tmp_path / "src" / "a.tar", {"1.png": encoded(1)}, {})
    (tmp_path / "src" / "b.tar").write_bytes(b"no tar")
    assert run(tmp_path / "src", tmp_path / "out") == 2
    assert "b.tar: no plain tar, or a damaged one" in capsys.readouterr().err


def test_links_in_a_tar_stay_inside(tmp_path: Path) -> None:
    outside = save(tmp_path / "outside.png", picture(7))
    links = {
        "f/hard.png": (tarfile.LNKTYPE, "f/1.png"),
        "f/soft.png": (tarfile.SYMTYPE, "1.png"),
        "g/up.png": (tarfile.SYMTYPE, "../f/soft.png"),
        "absolute.png": (tarfile.SYMTYPE, str(outside)),
        "out.png": (tarfile.SYMTYPE, "../outside.png"),
        "round.png": (tarfile.SYMTYPE, "round.png"),
    }
    path = write_tar(tmp_path / "src" / "a.tar", {"./f/1.png": encoded(1)}, links)
    assert run(path, tmp_path / "out") == 0
    found = stored(tmp_path / "out")
    assert found.keys() == {"1", "hard", "soft", "up"}
    assert all((image == found["1"]).all() for image in found.values())
    assert index_of(tmp_path / "out")["ignored"] == {"link or special file": 3}


def test_zips_of_windows(tmp_path: Path) -> None:
    """Backslashes; UTF-8 that is not said to be; the code page of DOS."""
    names = [b"photos\\1.png", "photos/é.png".encode(), "photos/ü.png".encode("cp437")]
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i, name in enumerate(names):
            archive.writestr("abc"[i] * len(name), encoded(i))
    data = path.read_bytes()
    for i, name in enumerate(names):
        data = data.replace(b"abc"[i : i + 1] * len(name), name)
    path.write_bytes(data)
    assert run(path, tmp_path / "out") == 0
    assert stored(tmp_path / "out").keys() == {"1", "é", "ü"}


def test_other_extensions(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.jfif").write_bytes(encoded(1, "JPEG"))
    (tmp_path / "src" / "bad.avif").write_bytes(b"no image")
    if features.check("avif"):
        (tmp_path / "src" / "b.avif").write_bytes(encoded(2, "AVIF"))
    assert run(tmp_path / "src", tmp_path / "out", workers=2) == 0
    readable = {"a", "b"} if features.check("avif") else {"a"}
    assert stored(tmp_path / "out").keys() == readable
    assert reasons(tmp_path / "out").keys() == {"bad.avif"}


def write_parquet(path: Path, **columns: list) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = importlib.import_module("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table(columns), path, row_group_size=2)
    return path


def test_parquet_as_hubs_hand_it_out(tmp_path: Path) -> None:
    src = tmp_path / "data"
    for shard in range(2):
        images = [
            {"bytes": encoded(3 * shard + i), "path": f"{3 * shard + i}.jpg"} for i in range(3)
        ]
        write_parquet(src / f"train-{shard:05d}-of-00002.parquet", image=images, label=[0, 1, 0])
    assert run(src, tmp_path / "out", workers=2) == 0
    found = stored(tmp_path / "out")
    assert found.keys() == {str(i) for i in range(6)}
    for key, image in found.items():
        assert (image.permute(1, 2, 0).numpy() == picture(int(key))).all()
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"index.json", "shard-00000.tar"}
    names = tmp_path / "names.txt"
    names.write_text("4\n")
    assert run(src, tmp_path / "one", "--names", names) == 0
    assert stored(tmp_path / "one").keys() == {"4"}


def test_parquet_without_paths_is_named_by_row(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = write_parquet(tmp_path / "a.parquet", image=[encoded(0), None, encoded(2)])
    assert run(path, tmp_path / "out") == 0
    found = stored(tmp_path / "out")
    assert found.keys() == {"00000000", "00000002"} and len(reasons(tmp_path / "out")) == 1
    assert (found["00000002"].permute(1, 2, 0).numpy() == picture(2)).all()
    content = bytearray(path.read_bytes())
    content[100:300] = bytes(200)
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(content)
    assert run(damaged, tmp_path / "other") == 2
    assert "damaged.parquet: damaged, or cannot be read" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "other")
    other = write_parquet(tmp_path / "b.parquet", caption=["a"])
    assert run(other, tmp_path / "other") == 2
    assert "b.parquet: no column of encoded images" in capsys.readouterr().err
    (tmp_path / "c.parquet").write_bytes(b"PAR1 and no more")
    assert run(tmp_path / "c.parquet", tmp_path / "other") == 2
    assert "c.parquet: damaged, or no Parquet file" in capsys.readouterr().err


def test_without_pyarrow_one_line_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").touch()
    assert run(tmp_path / "a.parquet", tmp_path / "out") == 2
    assert "reading Parquet needs pyarrow: pip install pyarrow" in capsys.readouterr().err


# --- lists


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for i, name in enumerate(["1.jpg", "2.jpg", "sub/3.jpg", "cafe\u0301.jpg", "v1.2 final.jpg"]):
        save(tmp_path / "photos" / name, picture(i))
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("./1.jpg", "1"),
        ("photos\\2.jpg", "2"),
        ("photos/sub/3.jpg", "3"),
        ("C:\\Users\\me\\photos\\sub\\3.jpg", "3"),
        ("/data/photos/1.jpg", "1"),
        ("1.png", "1"),
        ("1.JPG", "1"),
        ("sub/3", "3"),
        ("v1.2 final", "v1_2_final"),
        ("café.jpg", "café"),
        ("cafe\u0301", "café"),
    ],
)
def test_names_as_other_machines_write_them(
    photos: Path, tmp_path: Path, line: str, found: str
) -> None:
    (tmp_path / "names.txt").write_bytes(f"{line}\r\n".encode())
    assert run(photos, tmp_path / "out", "--names", tmp_path / "names.txt") == 0
    assert stored(tmp_path / "out").keys() == {found}


@pytest.mark.parametrize("line", ["other/1.jpg", "v1.2", "cafes.jpg", "myphotos/1.jpg"])
def test_a_name_that_fits_nothing_is_told_with_the_nearest(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture, line: str
) -> None:
    (tmp_path / "names.txt").write_text(line)
    assert run(photos, tmp_path / "out", "--names", tmp_path / "names.txt") == 2
    near = {"v1.2": "v1.2 final.jpg", "cafes.jpg": "café.jpg"}.get(line, "1.jpg")
    assert f"such as {line} (the nearest to {line} is {near})" in capsys.readouterr().err


# --- tables


def test_odd_rows_of_a_table(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    table = tmp_path / "t.csv"
    landmarks = "1 " * 100_000  # Python's csv stops at 131,072 characters
    table.write_text(
        f'\ufeffsplit, image_id,landmarks\n0,1.png,"{landmarks}"\n0,2.jpg\n0\n1,3.jpg,"a\nb"\n\n'
    )
    assert run(photos, tmp_path / "out", "--csv", table, "--where", "split=0") == 0
    assert stored(tmp_path / "out").keys() == {"1", "2"}
    assert "1 rows of t.csv name nothing" in capsys.readouterr().out
    assert index_of(tmp_path / "out")["selection"]["name_column"] == "image_id"
    table.write_text("name\nx1.png\n")
    assert run(photos, tmp_path / "other", "--csv", table) == 2
    assert "t.csv: its 1 rows fit no image: the nearest to x1.png is" in capsys.readouterr().err
    table.write_text("name,a\nx,1\ny,1,2\n")
    assert run(photos, tmp_path / "other", "--csv", table) == 2
    assert "t.csv: no CSV table" in capsys.readouterr().err


def test_celebas_own_list_selects_too(photos: Path, tmp_path: Path) -> None:
    table = tmp_path / "list_attr_celeba.txt"
    table.write_text("2\nHat Young \n1.jpg -1  1\n2.jpg  1 -1\n")
    assert run(photos, tmp_path / "out", "--csv", table, "--where", "Hat=-1") == 0
    assert stored(tmp_path / "out").keys() == {"1"}


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("name,Hat\n000083.png,1\nann lee.jpg,0\nbo.smith.png,0\n", None),
        ("image_id,Hat\n000083.jpg,1\nann lee.jpg,-1\nbo.smith.jpg,-1\n", None),
        ("photo,Hat\n000083,1\nann lee,-1\nbo.smith,-1\n", "photo"),
        ("3\nHat \n000083.jpg  1\nann_lee.jpg -1\nbo_smith.jpg -1\n", None),
    ],
)
def test_tables_name_images_as_sets_do(tmp_path: Path, text: str, column: str | None) -> None:
    (tmp_path / "table").write_text(text)
    table = read_attributes(tmp_path / "table", column)
    assert table["Hat"].to_dict() == {"000083": 1, "ann_lee": 0, "bo_smith": 0}


def test_composed_and_decomposed_names_have_one_key() -> None:
    composed, decomposed = (unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD"))
    assert [*unique_keys([composed]).values()] == [*unique_keys([decomposed]).values()] == ["é"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image,Hat\n1,1\n", r"no column 'name'; it has \['image', 'Hat'\]"),
        ("name,Hat\n1.png,1\n1.png,0\n", "names '1.png' twice"),
        ("", "no CSV table"),
    ],
)
def test_attributes_that_cannot_be_read(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "table").write_text(text)
    with pytest.raises(ValueError, match=f"attributes: .*table.*{said}"):
        read_attributes(tmp_path / "table")
