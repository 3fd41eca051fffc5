"""Rows: whole after any crash, right for every image, and averaged only when read."""

import io
import json
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import Enum
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from torch import Tensor

from core.seeds import generator, normal, seed_from
from datamodules.image_set import ImageSet
from recovery.latent_search import LatentSearch
from recovery.methods import Method, Progress, Recovery, Status
from recovery.metrics import psnr, ssim
from recovery.operators import Denoising, GaussianSensing, Inpainting, Operator
from recovery.starts import Normal
from report.__main__ import main
from report.curves import comparison_figure
from report.terminal import comparison_table, summary_table
from results.identity import ConfigTexts, describe
from results.means import comparable, compared, latest, means, scalars
from results.rows import COLUMNS, Row, RowFile, done_images, read_rows
from results.trial import Trial, run_trials

SHAPE, N = (3, 12, 12), 432
CPU = torch.device("cpu")
STATUSES: tuple[Status, ...] = ("converged", "budget", "diverged", "converged", "budget")


def row(image: str = "a", **columns: object) -> Row:
    settings = {"dataset": "faces-val", "distribution": "in", "problem": "cs", "method": "search"}
    values = {**settings, "psnr": 30.0, "ssim": 0.9, "status": "converged", **columns}
    return Row("run-1", "glow", 100, 1, image=image, **values)  # type: ignore[arg-type]


def written(path: Path, *rows: Row) -> pd.DataFrame:
    RowFile(path).append(rows)
    return read_rows(path)


def frame(*rows: Row) -> pd.DataFrame:
    return pd.DataFrame([vars(r) for r in rows], columns=COLUMNS)


# ---- files


def test_what_is_written_is_read(tmp_path: Path) -> None:
    full = Row(
        *(
            "run-1",
            "glow",
            10**10,
            3,
            "001",
            "out",
            'a, "b".png',
            "cs-10%",
            "cs",
            "search",
            "paper",
        ),
        *(7, "0123456789", 1250, 0.1, 0.0025, 31.2345678, 25.5, 0.987, 1e-12, 12.5, 55.4),
        *(100, 120, 0.25, "budget"),
    )
    (read,) = written(tmp_path / "rows.csv", full).to_dict("records")
    assert list(read) == COLUMNS
    assert read == {**vars(full), "psnr": 31.2346}  # six digits are kept


def test_what_is_not_known_stays_empty(tmp_path: Path) -> None:
    bare = Row("run-1", "glow", 100, 1)
    broken = row("nan", psnr=math.nan, ssim=math.nan, objective=math.inf, status="diverged")
    read = written(tmp_path / "rows.csv", bare, broken, row("NA"))
    assert read["psnr_hole"].isna().all() and read["latent_norm"].isna().all()
    assert read["psnr"].isna().tolist() == [True, True, False]
    assert read["objective"][1] == math.inf
    assert read["variant"].tolist() == [""] * 3
    assert read["image"].tolist() == ["", "nan", "NA"]
    assert read["psnr"].dtype == read["ssim"].dtype == float


def test_numbers_as_names_stay_text(tmp_path: Path) -> None:
    names = {"dataset": "001", "problem": "1e5", "method": "02", "variant": "3", "config": "1e2"}
    read = written(tmp_path / "rows.csv", row("000017", **names))
    assert done_images(read, **names) == {"000017"}


def cuts(path: Path) -> list[bytes]:
    """The file cut short at every byte of its last line."""
    text = path.read_bytes()
    start = text.rstrip(b"\n").rfind(b"\n") + 1
    return [text[:end] for end in range(start, len(text))]


def test_a_crash_in_the_middle_of_a_line_costs_that_line_only(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    whole = written(path, row("a"), row('b, "c"', psnr_hole=21.25))
    RowFile(path).append([row('cut, "short"', latent_norm=55.5)])
    for text in cuts(path):
        path.write_bytes(text)
        pd.testing.assert_frame_equal(read_rows(path), whole)  # another process may read first
        assert path.read_bytes() == text
        assert written(path, row("next"))["image"].tolist() == ["a", 'b, "c"', "next"]


def test_a_crash_in_the_middle_of_the_header_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    RowFile(path)
    for text in cuts(path)[::9]:
        path.write_bytes(text)
        assert read_rows(path).empty
        assert written(path, row("next"))["image"].tolist() == ["next"]


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    written(tmp_path / "rows.csv", row("a"))
    before = (tmp_path / "rows.csv").read_bytes()
    os.utime(tmp_path / "rows.csv", ns=(0, 10**9))
    RowFile(tmp_path / "rows.csv")
    assert (tmp_path / "rows.csv").read_bytes() == before
    assert (tmp_path / "rows.csv").stat().st_mtime_ns == 10**9  # the file written last counts


def test_a_row_that_a_full_disk_cut_short_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = RowFile(tmp_path / "rows.csv")
    file.append([row("a")])

    def full(descriptor: int) -> None:
        os.truncate(file.path, file.path.stat().st_size - 20)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("results.rows.os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            file.append([row("b")])
    file.append([row("c")])
    assert read_rows(file.path)["image"].tolist() == ["a", "c"]


@pytest.mark.parametrize("text", ["run,psnr\nx,3\n", "run,psnr\nx,", "a note", "run,priors"])
def test_a_file_with_other_columns_is_left_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"rows\.csv has other columns.*move it away"):
        RowFile(path)
    assert path.read_text() == text


def test_the_last_row_of_a_key_counts(tmp_path: Path) -> None:
    others = [row("a", **{c: "x"}) for c in ("dataset", "problem", "method", "variant")]
    others += [replace(row("a"), images_seen=200), row("a", seed=1), row("b")]
    read = written(tmp_path / "rows.csv", row("a", psnr=1.0), *others, row("a", psnr=2.0))
    assert len(read) == 8
    assert read["psnr"].tolist() == [30.0] * 7 + [2.0]


def test_files_of_all_processes_are_merged(tmp_path: Path) -> None:
    written(tmp_path / "rows.csv", row("a"), row("c", psnr=1.0))
    written(tmp_path / "rows-rank1.csv", row("b"), row("c", psnr=2.0))
    read = read_rows(tmp_path)
    assert sorted(read["image"]) == ["a", "b", "c"]
    assert read_rows(str(tmp_path / "rows-rank1.csv"))["image"].tolist() == ["b", "c"]


def test_a_process_without_rows_changes_no_column(tmp_path: Path) -> None:
    alone = written(tmp_path / "rows.csv", row("a"))
    RowFile(tmp_path / "rows-rank1.csv")
    pd.testing.assert_frame_equal(read_rows(tmp_path), alone)


def test_no_rows_at_all_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "rows.csv"):
        with pytest.raises(FileNotFoundError, match="no rows at"):
            read_rows(path)


def test_only_rows_of_the_same_config_are_done(tmp_path: Path) -> None:
    rows = written(
        tmp_path / "rows.csv",
        *(row("a", config="old"), row("b", config="new"), row("c", config="new", seed=1)),
        row("d", config="new", dataset="faces-ood"),
    )
    key = {"dataset": "faces-val", "problem": "cs", "method": "search", "seed": 0}
    assert done_images(rows, **key, config="new") == {"b"}
    assert done_images(rows, **key, config="old") == {"a"}
    assert done_images(rows, **key, config="other") == set()
    assert done_images(rows, **key, config="new", images_seen=7) == set()
    assert done_images(rows[:0], **key, config="new") == set()


# ---- configurations


def test_a_config_is_stored_once_under_a_stable_hash(tmp_path: Path) -> None:
    path = tmp_path / "run" / "configs.jsonl"
    texts = ConfigTexts(path)
    first = texts.hash(problem={"m": 3, "sigma": 0.1}, weights="ab")
    assert texts.hash(weights="ab", problem={"sigma": 0.1, "m": 3}) == first
    assert ConfigTexts(path).hash(problem={"m": 3, "sigma": 0.1}, weights="ab") == first
    assert first == ConfigTexts(tmp_path / "other.jsonl").hash(
        problem={"m": 3, "sigma": 0.1}, weights="ab"
    )
    (line,) = path.read_text().splitlines()
    config = {"problem": {"m": 3, "sigma": 0.1}, "weights": "ab"}
    assert json.loads(line) == {"hash": first, "config": config}


def test_other_settings_have_another_hash(tmp_path: Path) -> None:
    texts = ConfigTexts(tmp_path / "configs.jsonl")
    configs: list[dict[str, object]] = [{"m": 3}, {"m": 4}, {"m": "3"}, {"n": 3}, {"m": 3, "n": 3}]
    assert len({texts.hash(**config) for config in configs}) == 5
    assert len((tmp_path / "configs.jsonl").read_text().splitlines()) == 5


def test_a_config_cut_short_by_a_crash_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "configs.jsonl"
    hashes = [ConfigTexts(path).hash(m=m) for m in (3, 4)]
    whole = path.read_bytes()
    for text in cuts(path):
        path.write_bytes(text)
        assert [ConfigTexts(path).hash(m=m) for m in (3, 4)] == hashes
        assert path.read_bytes() == whole


def test_what_defines_an_operator_is_described() -> None:
    makes: list[Callable[[], Operator]] = [
        *(partial(GaussianSensing, SHAPE, m) for m in (10, 11)),
        partial(GaussianSensing, SHAPE, 10, noise_norm=0.2),
        partial(GaussianSensing, SHAPE, 10, seed=1),
        *(partial(Denoising, SHAPE, sigma) for sigma in (0.1, 0.2)),
        *(partial(Inpainting, SHAPE, mask) for mask in ("left", "bottom")),  # type: ignore[arg-type]
        *(partial(Inpainting, SHAPE, "random", fraction) for fraction in (0.3, 0.5)),
        *(partial(Inpainting, shape, "left") for shape in ((1, 12, 12), (3, 12, 10))),
    ]
    texts = [json.dumps(describe(make())) for make in makes]
    assert len(set(texts)) == len(makes)
    assert texts == [json.dumps(describe(make())) for make in makes]
    assert describe(makes[0]())["class"] == "recovery.operators.GaussianSensing"


def test_the_kept_pixels_are_part_of_the_description() -> None:
    one, other = Inpainting(SHAPE, "random"), Inpainting(SHAPE, "random")
    assert describe(one) == describe(other)
    with torch.no_grad():
        other.kept[0, 0] = 1 - other.kept[0, 0]
    assert describe(one) != describe(other)


class Masked(Operator):
    """An operator as a user writes one: settings of all kinds."""

    def __init__(self, **settings: object) -> None:
        super().__init__(SHAPE, 0.0, 0)
        vars(self).update(settings)

    def A(self, x: Tensor, **kwargs: object) -> Tensor:
        return x

    A_adjoint = A

    @property
    def measurements(self) -> int:
        return N


class Kind(Enum):
    ONE = 1
    OTHER = 2


class Scaled:
    """No dataclass."""

    def __init__(self, scale: float) -> None:
        self.scale = scale


def test_a_setting_of_any_kind_tells_operators_apart() -> None:
    entries = np.zeros(5000), np.eye(1, 5000, 2500)[0]  # too long to be told apart by their text
    pairs: list[tuple[object, object]] = [
        entries,
        tuple([torch.from_numpy(array)] for array in entries),
        tuple({"mask": array} for array in entries),
        (np.float32(0.5), np.float32(0.25)),
        (Path("one.npy"), Path("other.npy")),
        (Scaled(0.1), Scaled(5.0)),
        ([Scaled(0.1)], [Scaled(5.0)]),
        (torch.float32, torch.float64),
        (max, min),
        (range(3), range(4)),
        ({1, "a"}, {2, "a"}),
        (Kind.ONE, Kind.OTHER),
    ]
    for one, other in pairs:
        assert describe(Masked(setting=one)) != describe(Masked(setting=other)), one
        assert json.dumps(describe(Masked(setting=one))) == json.dumps(
            describe(Masked(setting=one))
        )
    where = {"generator": torch.Generator(), "device": CPU, "_cache": object()}
    assert describe(Masked(**where)) == describe(Masked())
    with pytest.raises(TypeError, match=r"Masked.setting: a re.Pattern does not say what it is"):
        describe(Masked(setting=re.compile("one")))


def test_measuring_changes_no_description() -> None:
    for operator in (GaussianSensing(SHAPE, 10), Inpainting(SHAPE, sigma=0.1)):
        before = describe(operator)
        operator.eval()(torch.rand(2, *SHAPE))
        assert describe(operator) == before


def test_a_method_is_described_by_what_changes_its_results() -> None:
    search = partial(LatentSearch, FlatPrior())
    same = [search(0.1), search(0.1, batch_size=2), LatentSearch(FlatPrior(), 0.1)]
    other = [
        *(search(0.2), search(0.1, evaluations=3), search(0.1, history=3), search(0.1, seed=1)),
        *(search(0.1, stop_at_noise=False), search(0.1, gradient_tolerance=0.1)),
        search(0.1, start=Normal(0.1)),
    ]
    assert len({json.dumps(describe(method)) for method in same}) == 1
    assert len({json.dumps(describe(method)) for method in same + other}) == 1 + len(other)


# ---- trials


class FlatPrior:
    """G(z) = 0.3 z as an image."""

    name, fingerprint, latent_dim, image_shape = "flat", "", N, SHAPE

    def decode(self, latent: Tensor) -> Tensor:
        return 0.3 * latent.unflatten(1, SHAPE)

    def initial_latent(self, seeds: list[int], std: float) -> Tensor:
        return std * normal(seeds, (N,))


class Adjoint(Method):
    """Returns A^T y, and numbers that tell the images apart."""

    def recover(
        self,
        y: Tensor,
        operator: Operator,
        *,
        seeds: Sequence[int] | None = None,
        progress: Progress | None = None,
    ) -> Recovery:
        image = operator.A_adjoint(y)
        number = torch.arange(len(y))
        value = number.float()
        status = STATUSES[: len(y)]
        return Recovery(image, None, value, value + 10, number + 20, number + 30, status)


def image_set(count: int = 5) -> ImageSet:
    levels = torch.randint(0, 256, (count, *SHAPE), generator=generator("image set"))
    return ImageSet("faces-ood", "out", levels.byte(), [f"face-{i}" for i in range(count)])


def trials(
    operator: Operator, method: Method, images: ImageSet | None = None, batch_size: int = 5
) -> list[Trial]:
    template = Row("run-1", "flat", 100, 1, problem="p", method="m", seed=3, m=9, config="abc")
    images = image_set() if images is None else images
    return list(run_trials(images, operator, method, template, device=CPU, batch_size=batch_size))


def all_rows(parts: list[Trial]) -> list[Row]:
    return [r for part in parts for r in part.rows]


def test_every_image_has_a_row_with_its_own_numbers() -> None:
    (trial,) = trials(Denoising(SHAPE, 0.1), Adjoint())
    truth = image_set().images.float() / 255
    assert torch.equal(trial.truth, truth)
    seeds = [seed_from(3, "faces-ood", f"face-{i}") for i in range(5)]
    assert torch.equal(trial.y, Denoising(SHAPE, 0.1)(truth, seeds=seeds))
    for i, r in enumerate(trial.rows):
        error = (trial.y[i].clamp(0, 1) - truth[i]).double().numpy()
        assert r.psnr == pytest.approx(-10 * math.log10((error**2).mean()), abs=1e-4)
        assert r.ssim == pytest.approx(ssim(trial.y, truth)[i].item(), abs=1e-6)
        assert (r.objective, r.residual, r.steps, r.evaluations) == (i, i + 10, i + 20, i + 30)
    assert [r.image for r in trial.rows] == [f"face-{i}" for i in range(5)]
    assert tuple(r.status for r in trial.rows) == STATUSES
    assert len({r.psnr for r in trial.rows}) == 5


def test_rows_carry_the_template_and_the_set() -> None:
    for r in all_rows(trials(Denoising(SHAPE, 0.1), Adjoint())):
        assert (r.run, r.prior, r.images_seen, r.epoch, r.seed) == ("run-1", "flat", 100, 1, 3)
        assert (r.problem, r.method, r.m, r.config) == ("p", "m", 9, "abc")
        assert (r.dataset, r.distribution) == ("faces-ood", "out")
        assert r.latent_norm is None and r.seconds > 0


def test_psnr_in_the_hole_is_given_where_there_is_one() -> None:
    operator = Inpainting(SHAPE, "left", 0.5)
    (trial,) = trials(operator, Adjoint())
    for r, truth in zip(trial.rows, trial.truth, strict=True):
        energy = truth[:, :, :6].double().square().mean().item()  # recovered as 0
        assert r.psnr_hole == pytest.approx(-10 * math.log10(energy), abs=1e-4)
        assert r.psnr == pytest.approx(r.psnr_hole + 10 * math.log10(2), abs=1e-4)
    for other in (Denoising(SHAPE, 0.1), GaussianSensing(SHAPE, 50)):
        assert all(r.psnr_hole is None for r in all_rows(trials(other, Adjoint())))


@pytest.mark.parametrize(
    "operator", [Denoising(SHAPE, 0.1), GaussianSensing(SHAPE, 60)], ids=["denoising", "sensing"]
)
def test_batches_change_no_row(operator: Operator) -> None:
    search = LatentSearch(FlatPrior(), 0.01, evaluations=50)
    whole = all_rows(trials(operator, search))
    for batch_size in (1, 2, 100):
        for a, b in zip(
            whole, all_rows(trials(operator, search, batch_size=batch_size)), strict=True
        ):
            assert a.image == b.image
            assert a.psnr == pytest.approx(b.psnr, abs=0.02)
            assert a.ssim == pytest.approx(b.ssim, abs=1e-3)
            assert a.latent_norm == pytest.approx(b.latent_norm, rel=1e-3)


def test_an_image_is_measured_alike_in_any_subset() -> None:
    operator = Denoising(SHAPE, 0.1)
    (whole,) = trials(operator, Adjoint())
    (part,) = trials(operator, Adjoint(), image_set().subset([4, 1]))
    assert [r.image for r in part.rows] == ["face-4", "face-1"]
    assert torch.equal(part.y, whole.y[[4, 1]])
    renamed = replace(image_set(), name="faces-val")
    (other,) = trials(operator, Adjoint(), renamed)
    assert (other.y != whole.y).any()


def test_latent_norms_are_those_of_the_latents() -> None:
    (trial,) = trials(Denoising(SHAPE, 0.1), LatentSearch(FlatPrior(), 0.01, evaluations=5))
    assert trial.recovery.latent is not None
    for r, latent in zip(trial.rows, trial.recovery.latent, strict=True):
        assert r.latent_norm == pytest.approx(latent.norm().item(), rel=1e-5)


def test_a_set_without_images_has_no_trials() -> None:
    assert trials(Denoising(SHAPE, 0.1), Adjoint(), image_set(0)) == []


# ---- metrics


def test_psnr_is_its_formula_per_image() -> None:
    image, truth = torch.rand(2, 4, *SHAPE, generator=generator("metrics"))
    expected = [
        10 * math.log10(1 / ((a - b) ** 2).mean())
        for a, b in zip(image.double().numpy(), truth.double().numpy(), strict=True)
    ]
    np.testing.assert_allclose(psnr(image, truth).numpy(), expected, rtol=1e-6)
    constant = torch.full((1, *SHAPE), 0.5)
    assert psnr(constant, constant + 0.1).item() == pytest.approx(20, abs=1e-4)


def test_psnr_clamps_first() -> None:
    truth = torch.rand(3, *SHAPE, generator=generator("metrics"))
    wild = truth * 4 - 2
    assert torch.equal(psnr(wild, truth), psnr(wild.clamp(0, 1), truth))
    assert psnr(truth, truth).tolist() == [math.inf] * 3
    beyond = torch.ones(1, *SHAPE)
    assert psnr(5 * beyond, beyond).item() == math.inf


def test_psnr_of_a_region_sees_nothing_else() -> None:
    truth = torch.rand(2, *SHAPE, generator=generator("metrics"))
    region = torch.zeros(12, 12, dtype=torch.bool)
    region[3:6, 2:9] = True
    image = torch.where(region, (truth - 0.1).clamp(0, 1), 1 - truth)
    inside = (image - truth)[..., 3:6, 2:9].double().square().mean(dim=(1, 2, 3))
    assert torch.allclose(psnr(image, truth, region), -10 * inside.log10())
    everywhere = torch.ones(12, 12, dtype=torch.bool)
    assert torch.allclose(psnr(image, truth, everywhere), psnr(image, truth))


def test_ssim_of_equal_images_is_one() -> None:
    truth = torch.rand(3, 3, 16, 16, generator=generator("metrics"))
    assert torch.allclose(ssim(truth, truth), torch.ones(3))
    assert torch.allclose(ssim(truth + 9 * (truth - 0.5).sign(), truth.round()), torch.ones(3))
    one = truth.clone()
    one[1] = 1 - one[1]
    values = ssim(one, truth)
    assert values.shape == (3,) and values[1] < 0 and values[[0, 2]].min() > 0.999
    assert ssim(one[1:2], truth[1:2]).shape == (1,)


def test_ssim_of_constant_images_is_its_formula_at_data_range_1() -> None:
    a, b, c1 = 0.02, 0.05, 0.01**2
    found = ssim(torch.full((1, *SHAPE), a), torch.full((1, *SHAPE), b))
    assert found.item() == pytest.approx((2 * a * b + c1) / (a**2 + b**2 + c1), rel=1e-3)


# ---- what a reader sees


def sample() -> pd.DataFrame:
    """Two problems, two sets; one image diverged, one out of budget."""
    ood = {"dataset": "faces-ood", "distribution": "out"}
    return frame(
        row("a", psnr=20.0, ssim=0.5, seconds=1.0),
        row("b", psnr=22.0, ssim=0.7, seconds=3.0, status="budget"),
        row("c", psnr=27.0, ssim=0.9, seconds=5.0, status="diverged"),
        row("a", **ood, psnr=18.0, ssim=0.4, seconds=1.0),
        row("b", **ood, psnr=19.0, ssim=0.4, seconds=1.0),
        row("a", problem="inpaint", psnr=30.0, psnr_hole=15.0, seconds=1.0),
    )


def test_means_have_counts_and_standard_errors() -> None:
    table = means(sample()).set_index(["problem", "dataset"])
    inside = table.loc[("cs", "faces-val")]
    assert inside["psnr"] == pytest.approx(23.0)
    assert inside["sem"] == pytest.approx(np.std([20, 22, 27], ddof=1) / math.sqrt(3))
    assert inside["ssim"] == pytest.approx(0.7) and inside["seconds"] == pytest.approx(3.0)
    assert (inside["images"], inside["not_converged"], inside["diverged"]) == (3, 2, 1)
    outside = table.loc[("cs", "faces-ood")]
    assert (outside["psnr"], outside["images"], outside["not_converged"]) == (18.5, 2, 0)
    hole = table.loc[("inpaint", "faces-val")]
    assert hole["psnr_hole"] == 15.0 and math.isnan(inside["psnr_hole"])
    assert math.isnan(hole["sem"]) and hole["images"] == 1


def test_means_survive_an_image_without_psnr(tmp_path: Path) -> None:
    rows = written(
        tmp_path / "rows.csv",
        *(row("a", psnr=20.0), row("b", psnr=math.nan, status="diverged")),
    )
    (only,) = means(rows).to_dict("records")
    assert (only["psnr"], only["images"], only["diverged"]) == (20.0, 1, 1)


def test_scalars_are_means_and_gaps() -> None:
    assert scalars(sample(), "recovery") == pytest.approx(
        {
            "recovery/cs/faces-val/search/psnr": 23.0,
            "recovery/cs/faces-val/search/ssim": 0.7,
            "recovery/cs/faces-ood/search/psnr": 18.5,
            "recovery/cs/faces-ood/search/ssim": 0.4,
            "recovery/inpaint/faces-val/search/psnr": 30.0,
            "recovery/inpaint/faces-val/search/ssim": 0.9,
            "recovery/inpaint/faces-val/search/psnr_hole": 15.0,
            "recovery/cs/gap/search/psnr": 4.5,
        }
    )


def test_without_two_distributions_there_is_no_gap() -> None:
    rows = sample()
    assert not any("gap" in name for name in scalars(rows[rows["distribution"] == "in"], "r"))


def test_only_the_last_recovery_of_each_run_is_latest() -> None:
    old, new, other = row("a"), replace(row("a"), images_seen=300), replace(row("a"), run="run-2")
    kept = latest(frame(old, new, other))
    assert kept[["run", "images_seen"]].to_numpy().tolist() == [["run-1", 300], ["run-2", 100]]


def test_curves_compare_images_that_every_recovery_includes() -> None:
    early = [row("a"), row("b")]
    late = [replace(row(name), images_seen=300) for name in "abc"]
    only_late = replace(row("c", problem="inpaint"), images_seen=300)
    kept = comparable(frame(*early, *late, only_late))
    assert kept["image"].tolist() == ["a", "b", "a", "b", "c"]
    assert kept["problem"].tolist() == ["cs"] * 4 + ["inpaint"]
    middle = [replace(row(name), images_seen=200) for name in "ab"]
    cut_short = replace(row("a"), images_seen=250)
    kept = comparable(frame(*early, *middle, cut_short, *late))
    assert kept["images_seen"].tolist() == [100, 100, 200, 200, 300, 300]


def printed(rows: pd.DataFrame) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(summary_table(rows))
    return console.export_text()


def line_with(text: str, *parts: str) -> str:
    (line,) = [line for line in text.splitlines() if all(part in line for part in parts)]
    return line


def test_the_table_says_how_many_and_how_sure() -> None:
    old = sample().assign(images_seen=50, psnr=1.0)
    text = printed(pd.concat([old, sample().assign(m=1250)]))
    assert "after 100 images" in text
    sem = np.std([20, 22, 27], ddof=1) / math.sqrt(3)
    line = line_with(text, "cs", "faces-val")
    assert f"23.00 ± {sem:.2f}" in line and "0.700" in line and "1,250" in line
    assert line.split()[-4:] == ["3", "2", "(1", "diverged)"]
    assert line_with(text, "cs", "faces-ood").split()[-2:] == ["2", "0"]


def test_a_single_image_has_no_standard_error() -> None:
    line = line_with(printed(sample()), "inpaint")
    assert "30.00" in line and "15.00" in line and "±" not in line
    assert "nan" not in printed(sample())


def test_a_group_without_any_psnr_is_shown_as_diverged() -> None:
    broken = {"psnr": math.nan, "ssim": math.nan, "status": "diverged", "problem": "broken"}
    text = printed(pd.concat([sample(), frame(row("a", **broken), row("b", **broken))]))
    assert "nan" not in text
    assert line_with(text, "broken").split()[-4:] == ["0", "2", "(2", "diverged)"]


# --- several runs --------------------------------------------------------------------------------


def two_runs() -> pd.DataFrame:
    """A flow's and a GAN's rows; the flow also has an image c and an earlier time."""
    parts = [replace(row(), run="one", images_seen=50)]
    for run, prior, method, base in (
        ("one", "glow", "latent-search", 40.0),
        ("two", "dcgan", "csgm", 22.0),
    ):
        for problem, m in (("cs-10%", 10), ("cs-50%", 50)):
            for side in ("in", "out"):
                shared = {
                    "problem": problem,
                    "kind": "cs",
                    "m": m,
                    "distribution": side,
                    "method": method,
                }
                shared["dataset"] = f"faces-{side}"
                for image, offset in (("a", 1), ("b", -1), ("c", 9))[: 3 if run == "one" else 2]:
                    level = base + offset + m / 10
                    parts.append(replace(row(image, psnr=level, **shared), run=run, prior=prior))
    return frame(*parts)


def test_runs_are_compared_on_the_images_they_share() -> None:
    rows = compared(two_runs())
    assert set(rows["image"]) == {"a", "b"}
    assert set(rows["images_seen"]) == {100}
    assert set(rows["recovery"]) == {"glow, latent-search", "dcgan, csgm"}
    assert len(rows) == 2 * 2 * 2 * 2
    other = two_runs()
    other.loc[other["run"] == "two", "seed"] = 9  # other noise
    with pytest.raises(ValueError, match="no problem, image and noise in common"):
        compared(other)


def test_the_comparison_names_the_run_where_priors_are_alike() -> None:
    rows = two_runs()
    rows["prior"], rows["method"] = "glow", "latent-search"
    names = set(compared(rows)["recovery"])
    assert names == {"one: glow, latent-search", "two: glow, latent-search"}


def test_the_comparison_as_a_table_and_a_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = two_runs()
    console = Console(width=120, record=True)
    console.print(comparison_table(compared(rows)))
    text = console.export_text()
    assert "41.00 ± 1.00" in text and "23.00 ± 1.00" in text  # cs-10%: 40 and 22 plus 10 / 10
    assert "45.00 ± 1.00" in text and "27.00 ± 1.00" in text
    left, right = comparison_figure(compared(rows)).axes
    assert left.get_title() == "in distribution: faces-in"
    assert right.get_title() == "out of distribution: faces-out"
    labels = [text.get_text() for text in left.get_legend().get_texts()]
    assert labels == ["glow, latent-search", "dcgan, csgm"]
    for run in ("one", "two"):
        folder = tmp_path / run
        folder.mkdir()
        rows[rows["run"] == run].to_csv(folder / "rows.csv", index=False)
    main([str(tmp_path / "one"), str(tmp_path / "two")])
    assert (tmp_path / "comparison.png").exists()
    main([str(tmp_path / "one"), str(tmp_path / "two"), "--out", str(tmp_path / "own.png")])
    assert (tmp_path / "own.png").exists()
    capsys.readouterr()
    with pytest.raises(SystemExit, match="nowhere"):
        main([str(tmp_path / "one"), str(tmp_path / "nowhere")])
