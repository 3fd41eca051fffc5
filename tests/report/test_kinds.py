"""Figures ask what a problem is, not what it is called."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from recovery.operators import Denoising, GaussianSensing, Inpainting, Operator
from report.__main__ import main
from report.curves import training_curves
from report.experiments import recovery_section
from report.plots import STYLES, styles_of
from report.published import read_published
from results.means import named
from results.rows import BEFORE_KINDS, COLUMNS, Row, RowFile, read_rows

SHAPE = (3, 8, 8)
ROW = Row(
    *("run", "glow", 64, 1, "faces-val", "in", "a", "sensing-10", "cs", "search"),
    config="x",
    m=19,
    psnr=20.0,
    ssim=0.5,
    seconds=1.0,
    status="converged",
)


def sensing(folder: Path) -> Path:
    """A run that calls its two problems of compressive sensing by names of its own."""
    RowFile(folder / "rows.csv").append(
        replace(ROW, problem=f"sensing-{m}", m=m, image=image, psnr=20.0 + m)
        for m in (5, 10)
        for image in "ab"
    )
    (folder / "metrics.jsonl").write_text(
        '{"bits_per_dim/faces-val": 4.0, "images_seen": 64.0}\n{"bits_per_dim/fa'
    )
    return folder


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        (GaussianSensing(SHAPE, m=0.1), "cs"),
        (Denoising(SHAPE, sigma=0.1), "denoise"),
        (Inpainting(SHAPE), "inpaint"),
        (Operator(SHAPE, 0.0, 0), "Operator"),
    ],
)
def test_an_operator_says_its_kind(operator: Operator, kind: str) -> None:
    assert operator.kind == kind


def test_sensing_by_any_name_has_its_curve(tmp_path: Path) -> None:
    figure = training_curves(sensing(tmp_path))
    measured = figure.axes[-1]
    assert measured.get_xlabel() == "measurements m"
    points = measured.lines[0]
    assert list(points.get_ydata()) == [25.0, 30.0]  # type: ignore[arg-type]


def test_a_prior_without_a_likelihood_shows_its_losses(tmp_path: Path) -> None:
    folder = sensing(tmp_path)
    (training, *_) = training_curves(folder).axes
    assert training.get_title() == "likelihood"
    logged = [{"train/generator_loss": 3.0 - i, "images_seen": float(i)} for i in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in logged))
    (training, *_) = training_curves(folder).axes
    assert training.get_title() == "training"
    (line,) = training.lines
    assert line.get_label() == "generator loss" and list(line.get_ydata()) == [2.0, 1.0]


def test_a_report_reads_a_run_whose_last_line_is_being_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(sensing(tmp_path))])
    assert "sensing-10" in capsys.readouterr().out
    assert (tmp_path / "curves.png").stat().st_size > 0


def test_rows_of_version_0_1_are_read_and_continued(tmp_path: Path) -> None:
    old = {**vars(ROW), "problem": "cs-10%", "psnr_hole": "", "latent_norm": ""}
    lines = [",".join(BEFORE_KINDS), ",".join(str(old[column]) for column in BEFORE_KINDS)]
    path = tmp_path / "rows.csv"
    path.write_text("\n".join([*lines, "run,glo"]))  # a line cut short, too
    (read,) = read_rows(path).to_dict("records")
    assert list(read) == COLUMNS and read["kind"] == "cs" and read["psnr"] == 20.0
    RowFile(path).append([replace(ROW, image="b")])
    assert path.read_text().splitlines()[0] == ",".join(COLUMNS)
    assert read_rows(path)["kind"].tolist() == ["cs", "cs"]
    assert read_rows(path)["image"].tolist() == ["a", "b"]


def experiment(*methods: str) -> list[Row]:
    return [
        replace(ROW, problem="denoise-0.1", kind="denoise", m=192, method=method, image=image)
        for method in methods
        for image in "abcdefghij"
    ]


def test_one_method_alone_has_its_figures_in_the_summary(tmp_path: Path) -> None:
    file = RowFile(tmp_path / "rows.csv")
    file.append(experiment("glow"))
    section = recovery_section("Recovery", read_rows(tmp_path), read_published()[:0], 192)
    (inside, converged) = section.summary
    assert inside == "In distribution (faces-val): glow 20.00 ± 0.00 dB on denoise-0.1."
    assert converged == "Every recovery converged."


def test_a_dozen_methods_share_no_style() -> None:
    names = [f"method {i}" for i in range(12)] + ["glow", "dcgan"]
    styles = styles_of(names)
    assert len(set(styles.values())) == len(names)
    colours = [colour for colour, _ in list(styles.values())[:8]]
    assert len(set(colours)) == 8 and STYLES["glow"][0] not in colours


def test_figures_show_the_last_iterate_of_an_untrained_network_alone(tmp_path: Path) -> None:
    file = RowFile(tmp_path / "rows.csv")
    for variant in ("least-residual", "last"):
        file.append(replace(row, variant=variant) for row in experiment("deep-decoder"))
    file.append(experiment("glow"))
    rows = read_rows(tmp_path)
    section = recovery_section("Recovery", rows, read_published()[:0], 192)
    (figure,) = section.figures().values()
    labels = {text.get_text() for text in figure.axes[0].get_yticklabels()}
    assert labels == {"deep-decoder (last)", "glow"}
    (table,) = section.tables.values()  # the table has both
    assert set(table["method"]) == set(named(rows)["method"])
