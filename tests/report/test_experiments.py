"""Findings, figures and published numbers of an experiment: they claim what its rows say."""

import math

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.figure import Figure

from report.findings import Lead, lead
from report.published import read_published
from results.means import means, per_image
from results.rows import Row
from tests.conftest import REPOSITORY
from tests.report.conftest import IN, N, frame, rows_of, section

OUT = {"dataset": "ffhq-test", "distribution": "out"}
CONFIGS = REPOSITORY / "configs" / "evaluate"
PUBLISHED = [
    path.stem for path in sorted(CONFIGS.glob("*.yaml")) if "\npublished: true" in path.read_text()
]


def sensing(method: str, side: dict[str, str], levels: dict[float, list[float]]) -> list[Row]:
    return [
        row
        for share, psnr in levels.items()
        for row in rows_of(
            method, psnr, **side, problem=f"cs-{share:.0%}", m=round(share * N), sigma=0.01
        )
    ]


# --- findings


def test_a_difference_is_that_of_the_same_images() -> None:
    rng = np.random.default_rng(0)
    b = rng.normal(25, 3, 20)
    a = b + rng.normal(1.0, 0.5, 20)
    scores = pd.DataFrame({"b": b, "a": a, "never": np.nan})
    scores.loc[3, "a"] = np.nan  # diverged: leaves the comparison
    found = lead(scores)
    kept = np.delete(a - b, 3)
    assert found is not None and (found.best, found.next, found.images) == ("a", "b", 19)
    assert found.mean == pytest.approx(kept.mean())
    assert found.sem == pytest.approx(kept.std(ddof=1) / math.sqrt(19))
    assert found.clear
    assert lead(scores[["a", "never"]]) is None


def test_no_lead_within_the_quantile_of_t_nor_of_few_images() -> None:
    assert not Lead("a", "b", 0.23, 0.1, 8).clear  # 2.36 standard errors
    assert Lead("a", "b", 0.24, 0.1, 8).clear
    assert Lead("a", "b", 0.20, 0.1, 1000).clear
    assert not Lead("a", "b", 9.0, 0.1, 7).clear
    only = lead(pd.DataFrame({"a": [30.0], "b": [20.0]}))
    assert only is not None and not only.clear


def test_a_lead_is_over_every_other_method_not_only_the_nearest() -> None:
    rng = np.random.default_rng(2)
    a = rng.normal(30, 3, 100)
    scores = pd.DataFrame({"a": a, "b": a - rng.normal(0.27, 0.5, 100), "c": np.nan})
    scores.loc[:7, "c"] = a[:8] - 0.6 + np.array([2.5, -2.5] * 4)  # further, and may be chance
    found = lead(scores)
    assert found is not None and (found.best, found.next, found.images) == ("a", "c", 8)
    assert not found.clear
    without = lead(scores[["a", "b"]])
    assert without is not None and without.clear and without.mean < found.mean


def test_problems_of_one_m_keep_their_own_columns() -> None:
    """Two noises at each m: known by their names, and each difference of one problem."""
    parts = []
    for method, least in (("glow", 20.0), ("dcgan", 18.0)):
        for share in (0.1, 0.25):
            for name, sigma, more in (("", 0.01, 5.0), ("-noisy", 0.1, 0.0)):
                level = least + 40 * share + more + (4.0 if (method, name) == ("dcgan", "") else 0)
                psnr = [level + i for i in range(8)]
                problem, m = f"cs-{share:.0%}{name}", round(share * N)
                parts += rows_of(method, psnr, problem=problem, m=m, sigma=sigma, kind="cs")
    shown = section(parts)
    (table,) = shown.tables.values()
    assert {"cs-10%", "cs-10%-noisy", "cs-25%", "cs-25%-noisy"} <= set(table.columns)
    assert "dcgan leads glow by 2.00 ± 0.00 dB (n = 8) on cs-25%;" in shown.sentences[0]
    assert "glow leads dcgan by 2.00 ± 0.00 dB (n = 8) on cs-25%-noisy." in shown.sentences[0]


def test_a_method_of_few_images_decides_nothing_about_the_others() -> None:
    rng = np.random.default_rng(1)
    hard = rng.normal(0, 3, 40)
    hard[:4] += 12  # the few images are easy: the mean of the slow method is the highest
    glow, dcgan = 30 + hard, 28 + hard + rng.normal(0, 0.5, 40)
    slow = np.where(np.arange(40) < 4, glow - 1.0, np.nan)
    found = lead(pd.DataFrame({"slow": slow, "dcgan": dcgan, "glow": glow}))
    assert found is not None and (found.best, found.next, found.images) == ("glow", "dcgan", 40)
    assert found.mean == pytest.approx((glow - dcgan).mean())
    assert found.sem == pytest.approx((glow - dcgan).std(ddof=1) / math.sqrt(40))


def test_a_lead_is_of_the_same_images_also_with_enough_of_them() -> None:
    """slow's own mean is the highest, and on the images of slow glow is better."""
    easy = np.where(np.arange(20) < 10, 8.0, 0.0)
    scores = pd.DataFrame({"slow": 29 + easy, "glow": 30 + easy, "dcgan": 25 + easy})
    scores.loc[10:, "slow"] = np.nan
    found = lead(scores)
    assert found == Lead("glow", "slow", 1.0, 0.0, 10)
    circle = pd.DataFrame({"a": [1.0, 3, np.nan], "b": [np.nan, 1, 3], "c": [3.0, np.nan, 1]})
    found = lead(circle)  # each is two above another, on an image each
    assert found is not None and found.mean > 0 and not found.clear
    many = pd.DataFrame(  # the same circle on 20 images a pair, its smallest difference clear
        {
            "a": [30.0] * 20 + [np.nan] * 20 + [29.5] * 20,
            "b": [29.0] * 20 + [30.0] * 20 + [np.nan] * 20,
            "c": [np.nan] * 20 + [28.0] * 20 + [30.0] * 20,
        }
    )
    found = lead(many + np.random.default_rng(0).normal(0, 0.1, (60, 3)))
    assert found is not None and not found.few and not found.clear


def test_counts_and_few_images_are_said() -> None:
    flow, other = [30.0 + i for i in range(12)], [28.0 + i + i % 2 for i in range(12)]
    parts = [rows_of("glow", flow), rows_of("dcgan", other), rows_of("slow", [33.0, 34.0])]
    shown = section(*parts)
    assert "glow leads dcgan by 1.50 ± 0.15 dB (n = 12)" in shown.sentences[0]
    assert "; not counted, of fewer than 8 images: slow; " in shown.sentences[0]
    few = "on few images, no lead: slow is above glow by 3.00 ± 0.00 dB (n = 2) on denoise-0.1."
    assert shown.sentences[0].endswith(few)
    (uneven,) = [s for s in shown.sentences if s.startswith("Not all means")]
    assert "images: slow's of 2, where others are of 12 (column images)." in uneven
    (table,) = shown.tables.values()
    assert dict(zip(table["method"], table["images"], strict=True)) == {
        **{"glow": "12", "dcgan": "12"},
        "slow": "2",
    }
    assert not any("Not all means" in s for s in section(*parts[:2]).sentences)
    text = section(*(part[:3] for part in parts)).sentences[0]
    assert "too few images for a lead on denoise-0.1: slow over glow by 3.00 ± 0.00 dB" in text


def test_what_sees_the_truth_is_not_compared() -> None:
    starts = {
        "start-null-space": (40.0, "sees the truth"),
        "start-0": (30.0, ""),
        "start-0.1": (29.0, ""),
    }
    for gammas in ([0.0], [0.0, 0.01]):  # two layouts
        parts = [
            rows_of(method, [level + i for i in range(9)], gamma=gamma, variant=variant)
            for method, (level, variant) in starts.items()
            for gamma in gammas
        ]
        shown = section(*parts)
        assert not any("start-null-space" in s for s in shown.summary)
        assert "start-0" in shown.sentences[0] and "leads start-0.1" in shown.sentences[0]
        note = "start-null-space starts from the truth: a diagnostic, not compared."
        assert note in shown.sentences
        (table,) = shown.tables.values()
        assert "start-null-space (sees the truth)" in set(table["method"])
        alone = section(*parts[: len(gammas)])
        assert note in alone.sentences and list(alone.summary) == ["Every recovery converged."]


def test_leads_are_grouped_and_ties_are_not_claimed() -> None:
    flow = {0.05: [20.0, 22.0, 24.0], 0.1: [26.0, 27.0, 28.0], 0.5: [33.0, 35.0, 36.0]}
    other = {0.05: [21.0, 21.0, 24.1], 0.1: [24.0, 25.1, 25.9], 0.5: [28.0, 30.0, 31.1]}
    flow, other = ({k: 3 * v for k, v in side.items()} for side in (flow, other))
    text = section(sensing("glow", IN, flow), sensing("dcgan", IN, other)).sentences[0]
    differences = [np.subtract(flow[share], other[share]) for share in flow]
    (tie, least, most) = (
        f"{abs(d.mean()):.2f} ± {d.std(ddof=1) / 3:.2f} dB (n = 9)" for d in differences
    )
    assert text == (
        f"In distribution (celeba-test): no clear lead at m/n = 5%: {tie} between dcgan and glow; "
        f"glow leads from m/n = 10% to 50%, by {least} over dcgan at 10% to {most} over dcgan "
        "at 50%."
    )


def test_seeds_are_averaged_before_images() -> None:
    once, again = rows_of("glow", [30.0, 31.0]), rows_of("glow", [34.0], seed=1)
    table = means(frame(once, again)).iloc[0]
    assert table["images"] == 2
    assert table["psnr"] == pytest.approx((32.0 + 31.0) / 2)
    assert table["sem"] == pytest.approx(0.5)


def test_counts_are_of_distinct_images() -> None:
    twice = [
        rows_of("glow", [30.0, 31.0, math.nan], status=s, config=s) for s in ("budget", "converged")
    ]
    other = [Row(**{**vars(row), "run": "other", "status": "diverged"}) for row in twice[0]]
    table = means(frame(*twice, other)).iloc[0]
    assert len(per_image(frame(*twice, other))) == 6
    assert (table["images"], table["not_converged"], table["diverged"]) == (2, 3, 3)
    ((_, shown),) = section(*twice, other).tables.items()
    assert list(shown.iloc[0][["images", "not converged", "diverged"]]) == ["2", "3 of 3", "3 of 3"]


def test_failures_are_named() -> None:
    nan = [math.nan, math.nan]
    diverged = rows_of("dcgan", nan, status="diverged", **OUT)
    slow = rows_of("glow", [30.0], status="budget")
    shown = section(slow, rows_of("glow", [28.0, 29.0], **OUT), diverged)
    sentences = shown.summary
    assert set(sentences) < set(shown.sentences)
    assert (
        "Diverged: dcgan 2 of 2 recoveries (most at denoise-0.1, out of distribution: 2 of 2)."
        in sentences
    )
    (rest,) = [s for s in sentences if s.startswith("Not converged")]
    assert "glow 1 of 3" in rest and "dcgan 2 of 2" in rest
    assert not any("leads" in s for s in sentences)
    assert "Every recovery converged." in section(rows_of("glow", [30.0])).sentences


def test_methods_without_an_image_in_common_are_not_compared() -> None:
    late = [Row(**{**vars(row), "image": "z"}) for row in rows_of("dcgan", [20.0])]
    text = section(rows_of("glow", [30.0]), late).sentences[0]
    assert text.endswith("not compared on denoise-0.1: no image that two recovered.")


def test_inpainting_is_judged_inside_the_hole() -> None:
    hole = {"problem": "inpaint-centre", "m": 11_205, "sigma": 0.0}
    whole = rows_of("a", [35.0, 36.0, 37.0] * 3, psnr_hole=20.0, **hole)
    inside = rows_of("b", [30.0, 31.0, 32.0] * 3, psnr_hole=24.0, **hole)
    shown = section(whole, inside)
    assert "b leads a by 4.00 ± 0.00 dB (n = 9) on inpaint-centre" in shown.sentences[0]
    assert list(shown.figures()) == ["PSNR inside the hole, inpaint-centre", "PSNR, inpaint-centre"]


# --- layouts


def test_the_best_gamma_is_compared_and_named() -> None:
    levels = ((0, 22), (0.01, 30))
    sweep = [rows_of("glow", [p - 0.5, p, p + 0.5] * 3, gamma=g) for g, p in levels]
    bm3d = rows_of("bm3d", [28.0, 29.0, 29.0] * 3)
    shown = section(*sweep, bm3d)
    assert "glow at γ = 0.01 leads bm3d by 1.33" in shown.sentences[0]
    ((caption, figure),) = shown.figures().items()
    assert caption == "PSNR against γ, denoise-0.1, in distribution (celeba-test)"
    (axes,) = figure.axes
    assert axes.get_xscale() == "symlog"
    (line,) = [line for line in axes.lines if len(set(line.get_ydata())) == 1]  # type: ignore[arg-type]
    assert line.get_ydata()[0] == pytest.approx(86 / 3)  # type: ignore[index]
    (table,) = shown.tables.values()
    assert list(table.columns[:5]) == ["problem", "method", "γ not varied", "γ = 0", "γ = 0.01"]


@pytest.mark.parametrize("name", ["short", "a method of a very long name indeed"])
def test_the_legend_stays_within_its_figure(name: str) -> None:
    levels = {0.1: [20.0, 21.0], 0.5: [30.0, 31.0]}
    figures = section(*(sensing(f"{name} {k}", IN, levels) for k in range(4))).figures()
    figure = next(iter(figures.values()))
    (legend,) = figure.legends
    figure.draw_without_rendering()
    columns = {round(text.get_window_extent().x0) for text in legend.get_texts()}
    assert len(columns) == (2 if name == "short" else 1)
    extent, page = legend.get_window_extent(), figure.bbox
    assert extent.x0 >= 0 and extent.x1 <= page.width and extent.y0 >= 0
    assert figure.axes[0].get_window_extent().height > 0.45 * 3.3 * figure.dpi


def test_in_and_out_of_distribution_share_colours_and_range() -> None:
    levels = {0.1: [20.0, 21.0], 0.5: [30.0, 31.0]}
    parts = [sensing(m, side, levels) for side in (IN, OUT) for m in ("glow", "dcgan")]
    figures = section(*parts, published=read_published()).figures()
    assert [c.split(",")[0] for c in figures] == ["PSNR against m/n"] * 2 + ["SSIM against m/n"] * 2
    inside, outside, *_ = (figure.axes[0] for figure in figures.values())
    assert inside.get_ylim() == outside.get_ylim()
    assert "published at 64px" in next(iter(figures)) and "published" not in list(figures)[2]
    legend = [t.get_text() for t in next(iter(figures.values())).legends[0].get_texts()]
    assert legend == ["glow", "dcgan", "published at 64px"]
    assert {line.get_color() for line in inside.lines} == {
        line.get_color() for line in outside.lines
    }
    (dashed,) = [
        line for line in outside.lines if line.get_linestyle() == "--" and line.get_color() == "C0"
    ]
    published = read_published().query(
        "figure == 'icml-2020' and problem == 'cs' and dataset == 'ffhq' and method == 'glow'"
    )
    np.testing.assert_allclose(dashed.get_ydata(), published.sort_values("m")["psnr"])


def test_what_was_published_of_other_problems_is_not_drawn() -> None:
    def tables(**columns: object) -> list[str]:
        shown = section(rows_of("glow", [30.0], **columns), published=read_published())
        return [caption for caption in shown.tables if "Published" in caption]

    assert tables(gamma=0.01) and not tables(gamma=0.3)  # a gamma they have, and not
    assert not tables(sigma=0.15, gamma=0.01)
    assert not tables(dataset="faces-val", gamma=0.01)
    centre = {"sigma": 0.0, "problem": "inpaint-centre"}
    assert tables(m=11_205, **centre) and not tables(m=6_144, **centre)
    assert not tables(m=11_205, gamma=0.01, **centre)  # theirs weighs ||z||, not its square


def settings(problem: dict) -> dict[str, object]:
    """m and sigma of a definition in configs/evaluate/defaults.yaml, at 64px."""
    kind = problem["operator"]["class_path"].rsplit(".", 1)[1]
    values = problem["operator"]["init_args"]
    if kind == "GaussianSensing":
        m = round(values["m"] * N)
        return {"m": m, "sigma": 0.1 / math.sqrt(m)}
    return {"m": N, **values} if kind == "Denoising" else {"m": 11_205, "sigma": 0.0}


def test_experiments_with_published_numbers_ask_for_them() -> None:
    shown = {"celeba32", "celeba64", "cs64", "denoising64", "initialisation64", "inpainting64"}
    assert set(PUBLISHED) == shown | {"methods", "start_norm64"}


@pytest.mark.parametrize("config", PUBLISHED)
def test_what_was_published_is_drawn_beside_an_experiment(config: str) -> None:
    defaults = yaml.safe_load((CONFIGS / "defaults.yaml").read_text())
    asked = yaml.safe_load((CONFIGS / f"{config}.yaml").read_text())
    trials = asked["trials"]
    free = {"bm3d", "lasso-dct", "lasso-haar", "ia-dcgan", "deep-decoder"}
    variants = dict.fromkeys(("deep-decoder", "deep-image-prior"), ("last", "least-residual"))
    parts = [
        rows_of(
            method,
            [30.0, 31.0],
            variant=variant,
            dataset=dataset,
            distribution=defaults["sets"][dataset],
            problem=problem,
            gamma=gamma,
            **settings(defaults["problems"][problem]),
        )
        for dataset in trials["sets"]
        for problem in trials["problems"]
        for method in trials["methods"]
        for variant in variants.get(method, ("",))
        for gamma in ([0.0] if method in free else trials.get("gammas", [0.0]))
    ]
    shown = section(*parts, published=read_published())
    drawn = {
        name.removesuffix(", published").removesuffix(" (last)")
        for caption, table in shown.tables.items()
        for name in table["method"]
        if caption.startswith("Published beside celeba-test")
    }
    unpublished = {"lasso-haar", "deep-image-prior", "total-variation", "pseudo-inverse", "adjoint"}
    missing = {  # of these the same figure has no number
        "inpainting64": {"ia-dcgan", "deep-decoder", "lasso-dct", "total-variation"},
        "cs64": {"lasso-haar"},  # of the first version alone
        "denoising64": {"glow-denoising-from-y"},  # the paper starts at 0
        "celeba32": unpublished,
        "celeba64": {"lasso-haar", "total-variation"},
        "methods": unpublished,
    }
    assert drawn == set(trials["methods"]) - missing.get(config, set()) - {"gaussian", "glow-map"}
    assert any("published at 64px" in caption for caption in shown.figures())


def test_published_starts_keep_their_own_study() -> None:
    at = {"dataset": "celeba-test-12", "problem": "cs-41%", "m": 5000, "sigma": 0.00141421}

    def published(*methods: str, gammas: tuple[float, ...] = (0.0,)) -> dict[str, list[str]]:
        parts = [rows_of(m, [30.0, 31.0], gamma=g, **at) for m in methods for g in gammas]
        tables = section(*parts, published=read_published()).tables
        ((_, table),) = ((c, t) for c, t in tables.items() if c.startswith("Published"))
        return {
            row[0]: row[1:]
            for row in table.drop(columns="problem", errors="ignore").to_numpy().tolist()
        }

    norms = published("start-0", "radius-0.18", "radius-1.08")
    assert norms == {
        "start-0, published": ["35.98"],
        "radius-0.18, published": ["35.72"],
        "radius-1.08, published": ["33.57"],
    }
    # the gammas of these runs weigh ||z||: 0 alone means the same
    swept = published("start-0", "start-lasso", gammas=(0.0, 0.001))
    assert swept == {"start-0, published": ["36.98"], "start-lasso, published": ["31.15"]}


def test_every_published_number_is_there() -> None:
    published = read_published()
    counts = published.groupby(["figure", "problem"]).size().to_dict()
    assert counts == {
        ("icml-2020", "cs"): 82,
        ("icml-2020", "denoise"): 40,
        ("v1-2019", "cs"): 165,
        ("v1-2019", "denoise"): 184,
        ("v1-2019", "initialisation"): 68,
        ("v1-2019", "inpaint"): 52,  # of 54 runs two failed
        ("v1-2019-squared", "denoise"): 17,
    }
    assert published["psnr"].notna().all() and (published["n"] == N).all()
    glow = published.query("figure == 'icml-2020' and method == 'glow' and dataset == 'celeba'")
    assert glow.query("m == 5000")["psnr"].item() == 37.21
    assert set(published["distribution"][published["dataset"] == "ffhq"]) == {"out"}


def line() -> dict[str, Figure]:
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, 1], [0, 1])
    return {"A line <b>": figure}
