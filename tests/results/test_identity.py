"""What identifies a configuration: told apart by all that changes a result, by nothing else."""

import json
import re
from collections.abc import Callable
from enum import Enum
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from networks.deep_decoder import DeepDecoder
from recovery.bm3d import BM3D
from recovery.csgm import Csgm, iagan_stage_1
from recovery.deepinv import TotalVariation
from recovery.image_adaptive import ia_dcgan, iagan
from recovery.lasso import Lasso
from recovery.latent_search import LatentSearch
from recovery.linear import Adjoint, PseudoInverse
from recovery.operators import Denoising, GaussianSensing, Inpainting, Operator
from recovery.starts import Encoded, Normal, OnSphere
from recovery.untrained import Untrained
from results.identity import ConfigTexts, describe
from tests.made import cuts, gan_prior
from tests.results.conftest import SHAPE, FlatPrior, N

CPU = torch.device("cpu")


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


def test_what_version_0_1_recovered_stays_recovered() -> None:
    """Rows are reused by these hashes: another one would recover everything anew."""
    gan, shape = gan_prior(), (3, 8, 8)
    known = {
        "d39cec9156": GaussianSensing(shape, 0.25),
        "a1615cd084": Denoising(shape, 0.1),
        "23ba1ca589": Inpainting(shape),
        "c8fe79b54f": Inpainting(shape, "random", sigma=0.1),
        "2c847bee17": LatentSearch(gan, 0.01),
        "7a747fe0e6": LatentSearch(gan, start=OnSphere(0.5)),
        "791ba196d5": LatentSearch(gan, start=Encoded(Adjoint())),
        "7ef097f168": Csgm(gan),
        "d9a26f53c2": iagan_stage_1(gan, 0.5),
        "d67bf0fe95": iagan(gan),
        "d08f4cc308": ia_dcgan(gan),
        "87bd82e128": Untrained(DeepDecoder),
        "eb2cde56e7": Lasso(),
        "51b745abd8": Lasso(basis="haar"),
        "c8f22b0d8e": PseudoInverse(),
        "251399d634": Adjoint(),
        "6b92a4a63b": BM3D(),
        "2f2b8c7e3b": TotalVariation(),
    }
    texts = ConfigTexts(None)
    assert {texts.hash(**describe(thing)): thing for thing in known.values()} == known


def test_other_settings_have_another_hash(tmp_path: Path) -> None:
    texts = ConfigTexts(tmp_path / "configs.jsonl")
    configs: list[dict[str, object]] = [{"m": 3}, {"m": 4}, {"m": "3"}, {"n": 3}, {"m": 3, "n": 3}]
    assert len({texts.hash(**config) for config in configs}) == 5
    assert len((tmp_path / "configs.jsonl").read_text().splitlines()) == 5


def test_a_config_in_use_again_is_noted_once_for_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "configs.jsonl"
    one, other = [ConfigTexts(path).hash(m=m) for m in (3, 4)]
    both, rows = {one, other, "of another file"}, {"method": "x", "seed": 0}
    for _ in range(2):
        ConfigTexts(path).put_after(other, both, rows)  # is last already
        assert len(path.read_text().splitlines()) == 2
    for _ in range(2):
        ConfigTexts(path).put_after(one, both, rows)
        _, _, again = map(json.loads, path.read_text().splitlines())
        assert again == {"hash": one, "again": rows}
    ConfigTexts(path).put_after(other, both, {"method": "y", "seed": 0})  # is last for these
    ConfigTexts(path).put_after(other, both, rows)
    assert len(path.read_text().splitlines()) == 4


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
