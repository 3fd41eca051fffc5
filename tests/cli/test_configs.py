"""Config files that compose: what merges into what, and in which order."""

from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.configs import Mistake, merge, read_command
from cli.parse import with_home
from evaluation.config import DEFAULTS, read_evaluation
from tests.cli.programs import REPOSITORY

EVALUATE = REPOSITORY / "configs" / "evaluate"
SMALL = EVALUATE / "small.yaml"
TRAINING = REPOSITORY / "configs"
TRAINING_DEFAULTS = TRAINING / "defaults.yaml"
OVERLAYS = ["baselines", "cluster", "glow_celeba32_deep", "image_search", "paper_parity"]

GLOW = {"class_path": "networks.glow.Glow", "init_args": {"steps": 8, "hidden": 64}}
NAMED = {"prior": "glow", "method": GLOW, "images": 3}


def merged(*files: Path, defaults: Path = DEFAULTS) -> dict[str, Any]:
    methods = "methods" if defaults == DEFAULTS else "recovery.methods"
    return read_command([f"--config={file}" for file in files], defaults, methods).config


# ---- what merges into what


@pytest.mark.parametrize(
    ("earlier", "later", "expected"),
    [
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}, {"a": {"b": 1, "c": 3}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": {"b": 1}}, {"a": None}, {"a": None}),
        # the same class keeps its arguments, however it is named
        (GLOW, {"class_path": "networks.glow.Glow"}, GLOW),
        (GLOW, "networks.glow.Glow", GLOW),
        (GLOW, {"class_path": "Glow"}, GLOW | {"class_path": "Glow"}),
        (
            GLOW,
            {"init_args": {"steps": 12}},
            GLOW | {"init_args": {"steps": 12, "hidden": 64}},
        ),
        (GLOW, {"steps": 12}, GLOW | {"init_args": {"steps": 12, "hidden": 64}}),
        ("a.B", {"init_args": {"x": 1}}, {"class_path": "a.B", "init_args": {"x": 1}}),
        (
            {"init_args": {"steps": 5, "levels": 3}},
            GLOW,
            {
                "class_path": "networks.glow.Glow",
                "init_args": {"steps": 8, "levels": 3, "hidden": 64},
            },
        ),
        # another class drops them
        (
            GLOW,
            {"class_path": "a.B", "init_args": {"x": 1}},
            {"class_path": "a.B", "init_args": {"x": 1}},
        ),
        (GLOW, "a.B", "a.B"),
        ("auto", {"class_path": "a.B"}, {"class_path": "a.B"}),
        # an option of a class that is called method
        (
            {"class_path": "E", "init_args": {"method": {"class_path": "L"}}},
            {"init_args": {"method": "X"}},
            {"class_path": "E", "init_args": {"method": "X"}},
        ),
    ],
)
def test_a_later_value_merges_into_the_earlier(earlier: Any, later: Any, expected: Any) -> None:
    assert merge(earlier, later) == expected


@pytest.mark.parametrize(
    ("earlier", "later", "expected"),
    [
        (NAMED, "networks.glow.Glow", NAMED),
        (NAMED, {"class_path": "a.B"}, NAMED | {"method": {"class_path": "a.B"}}),
        (NAMED, {"images": 4}, NAMED | {"images": 4}),
        (GLOW, {"images": 4}, {"method": GLOW, "images": 4}),
        (GLOW, {"method": "networks.glow.Glow", "images": 4}, {"method": GLOW, "images": 4}),
        (
            GLOW,
            {"steps": 12},
            {"method": GLOW | {"init_args": {"steps": 12, "hidden": 64}}},
        ),
    ],
)
def test_a_method_alone_merges_with_one_in_full(
    earlier: Any, later: Any, expected: Any, tmp_path: Path
) -> None:
    files = tmp_path / "earlier.yaml", tmp_path / "later.yaml"
    for path, method in zip(files, (earlier, later), strict=True):
        path.write_text(yaml.safe_dump({"methods": {"mine": method}}))
    assert merged(*files)["methods"]["mine"] == expected


def test_merging_leaves_what_it_merges_alone() -> None:
    earlier = {"a": {"b": 1}}
    merge(earlier, {"a": {"b": 2, "c": 3}})
    assert earlier == {"a": {"b": 1}}


def test_later_files_win_and_options_win_over_files(tmp_path: Path) -> None:
    one, other = tmp_path / "one.yaml", tmp_path / "other.yaml"
    one.write_text("name: one\ntrials: {images: 1, per_group: 3}\n")
    other.write_text("name: other\ntrials: {images: 2}\n")
    assert merged(one, other)["trials"] == {"images": 2, "per_group": 3}
    assert merged(other, one)["trials"] == {"images": 1, "per_group": 3}
    options = [f"--config={one}", "--trials.images=7", f"--config={other}"]
    found, _ = read_evaluation(options)
    assert found.name == "other"
    assert found.trials.images == 7 and found.trials.per_group == 3


def test_what_is_quoted_stays_text(tmp_path: Path) -> None:
    config = tmp_path / "e.yaml"
    config.write_text("name: '1e3'\ntitle: '007'\n")
    found, _ = read_evaluation(["--config", str(config)])
    assert (found.name, found.title) == ("1e3", "007")


# ---- the order of files


@pytest.mark.parametrize(
    "path", sorted({*EVALUATE.glob("*.yaml")} - {DEFAULTS, SMALL}), ids=lambda path: path.stem
)
def test_small_means_the_same_first_and_last(path: Path) -> None:
    first, last = merged(SMALL, path), merged(path, SMALL)
    assert first == last
    assert first["trials"]["images"] == 8 and first["image_size"] == 32


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_of_training_means_the_same_first_and_last(overlay: str) -> None:
    files = (TRAINING / f"{overlay}.yaml", TRAINING / "glow_celeba32.yaml")
    one, other = (merged(*order, defaults=TRAINING_DEFAULTS) for order in permutations(files))
    assert one == other != merged(files[1], defaults=TRAINING_DEFAULTS)
    assert "overlay" not in one


def test_two_overlays_merge_in_their_order(tmp_path: Path) -> None:
    for name, images in (("one", 1), ("two", 2)):
        text = f"overlay: true\ntrials: {{images: {images}}}\n"
        (tmp_path / f"{name}.yaml").write_text(text)
    one, two, plain = tmp_path / "one.yaml", tmp_path / "two.yaml", EVALUATE / "cs64.yaml"
    assert merged(one, plain, two)["trials"]["images"] == 2
    assert merged(two, plain, one)["trials"]["images"] == 1


def test_the_defaults_named_again_come_first() -> None:
    path = EVALUATE / "cs64.yaml"
    assert merged(path, DEFAULTS) == merged(path)


def test_without_a_file_the_defaults_are_read() -> None:
    found, _ = read_evaluation(["--name=x", "--trials.sets=[celeba-val]"])
    assert "cs-10%" in found.problems and "glow" in found.methods


def test_options_of_an_experiment_are_kept_beside_small() -> None:
    """A method that the experiment defines and small.yaml does not know is still there."""
    found, _ = read_evaluation(["--config", str(EVALUATE / "budget.yaml"), "--config", str(SMALL)])
    assert set(found.trials.methods) <= set(found.methods)


# ---- files that cannot be


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "expected keys and values, found a list"),
        ("just words\n", "expected keys and values, found 'just words'"),
        ("name: [1,\ntrials: 2", "is not YAML: line 3: did not find expected ',' or ']'"),
        ("overlay: maybe\n", "overlay is true or false, got 'maybe'"),
    ],
)
def test_a_file_that_is_no_config_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(Mistake) as refused:
        merged(path)
    assert str(path) in str(refused.value) and message in str(refused.value)


@pytest.mark.parametrize("text", ["", "# nothing yet\n"])
def test_an_empty_file_changes_nothing(text: str, tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text(text)
    assert merged(EVALUATE / "cs64.yaml", path) == merged(EVALUATE / "cs64.yaml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "no.yaml"], "--config no.yaml: No such file or directory"),
        (["--config=configs"], "--config configs: Is a directory"),
        (["--config"], "--config: name a YAML file"),
        (["--config", "--name", "x"], "--config: name a YAML file"),
    ],
)
def test_a_file_that_is_not_there_is_named(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(Mistake, match=message):
        read_command(arguments, DEFAULTS, "methods")


# ---- what a config means


def test_home_is_expanded_wherever_a_path_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config = {"a": "~/x", "b": [{"c": "~/y"}], "d": "~", "e": "half ~/z", "f": 3, "g": "~me"}
    assert with_home(config) == {**config, "a": "/home/me/x", "b": [{"c": "/home/me/y"}]}


def test_every_path_of_an_evaluation_is_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "e.yaml").write_text("name: e\nroot: ~/results\npriors: {glow: ~/glow}\n")
    options = ["--config=~/e.yaml", "--data=~/data", "--attributes=~/a.csv", "--priors.dcgan=~/d"]
    found, text = read_evaluation(options)
    assert found.folder == tmp_path / "results" / "e"
    assert (found.data, found.attributes) == (f"{tmp_path}/data", f"{tmp_path}/a.csv")
    assert found.priors["glow"] == f"{tmp_path}/glow" and found.priors["dcgan"] == f"{tmp_path}/d"
    assert "~" not in text


def test_a_class_that_has_moved_is_found(tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    operator = {"class_path": "recovery.deepinv.PerChannel"}
    path.write_text(yaml.safe_dump({"problems": {"mri": {"operator": operator}}}))
    assert merged(path)["problems"]["mri"]["operator"]["class_path"] == (
        "recovery.physics.PerChannel"
    )


def test_the_sets_of_trials_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"trials\.sets: name the sets to recover, of celeba-val, "
    ):
        read_evaluation(["--name=x", "--trials.problems=[cs-10%]", "--trials.methods=[glow]"])


def test_null_takes_a_method_or_a_problem_away_and_is_a_value_elsewhere() -> None:
    earlier = {
        "methods": {"a": {"method": "x.A"}, "b": {"method": "x.B"}},
        "problems": {"p": {"operator": "x.P", "gamma": 0.0}},
        "model": {"growth": {"fade_images": 3}, "clip": 5.0},
    }
    later = {"methods": {"a": None}, "problems": {"p": None}, "model": {"growth": None}}
    assert merge(earlier, later) == {
        "methods": {"b": {"method": "x.B"}},
        "problems": {},
        "model": {"growth": None, "clip": 5.0},
    }
