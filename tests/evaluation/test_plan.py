"""The plan of an evaluation: which images, methods and operators."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from evaluation.config import read_evaluation
from evaluation.plan import plan
from evaluation.run import make_bench
from results.identity import ConfigTexts
from results.rows import read_rows
from tests.evaluation.conftest import Run


@pytest.mark.slow
def test_gammas_replace_the_problems_own_for_methods_with_a_prior(run: Run) -> None:
    folder = run(
        "--trials.problems=[denoise]",
        "--trials.methods=[glow, adjoint]",
        "--trials.gammas=[0, 0.01, 0.1]",
        "--trials.seeds=[0]",
    )
    rows = read_rows(folder)
    assert rows[rows["method"] == "glow"].groupby("gamma").size().to_dict() == {
        0.0: 6,
        0.01: 6,
        0.1: 6,
    }
    assert rows[rows["method"] == "adjoint"].groupby("gamma").size().to_dict() == {0.0: 6}
    penalised = rows[rows["method"] == "glow"].groupby("gamma")["latent_norm"].mean()
    assert penalised.is_monotonic_decreasing


def test_methods_without_a_penalty_solve_a_problem_once(arguments: list[str]) -> None:
    """A flow's image search has none for denoising; where it cannot search images, it has one."""
    methods = {
        "map": "recovery.image_search.ImageSearch",
        "samples": "recovery.posterior.PosteriorSamples",
        "latents": "recovery.latent_search.LatentSearch",
        "free": "recovery.linear.Adjoint",
    }
    named = "".join(
        f"{name}: {{{'' if name == 'free' else 'prior: glow, '}method: {{class_path: {path}}}}}, "
        for name, path in methods.items()
    )
    config, _ = read_evaluation(
        [
            *arguments,
            f"--methods={{{named}}}",
            "--trials.problems=[denoise]",
            "--trials.methods=[map, samples, latents, free]",
            "--trials.sets=[faces]",
            "--trials.seeds=[0]",
            "--trials.gammas=[0, 0.1]",
        ]
    )
    bench = make_bench(config, torch.device("cpu"))
    jobs = plan(config.trials, bench, "tiny", ConfigTexts(None))
    solved = [(job.template.method, job.template.gamma) for job in jobs]
    once = [("map", 0.01), ("samples", 0.01)]
    assert solved == [*once, ("latents", 0.0), ("latents", 0.1), ("free", 0.0)]


def test_methods_that_share_a_problem_see_one_operator(
    arguments: list[str],
) -> None:
    config, _ = read_evaluation(arguments)
    bench = make_bench(config, torch.device("cpu"))
    texts = ConfigTexts(None)
    jobs = list(plan(config.trials, bench, "tiny", texts))
    assert len(jobs) == 2 * 3 * 2 * 2
    of_problem = {}
    for job in jobs:
        of_problem.setdefault(job.template.problem, set()).add(id(job.operator))
    assert {problem: len(operators) for problem, operators in of_problem.items()} == {
        "cs-50%": 1,
        "denoise": 1,
    }


@pytest.mark.slow
def test_bias_is_studied_on_balanced_images(run: Run, workshop: Path) -> None:
    folder = run(
        "--trials.methods=[glow, adjoint]",
        "--trials.sets=[faces]",
        "--trials.seeds=[0]",
        "--trials.balance=[Hat, Young]",
        "--trials.per_group=2",
        f"--attributes={workshop / 'attributes.csv'}",
        "--studies={bias: {class_path: studies.bias.Bias, init_args: "
        "{attributes: [Hat, not Young], reference: adjoint, dataset: faces}}}",
    )
    table = pd.read_csv(folder / "studies" / "bias" / "bias.csv")
    assert set(table["attribute"]) == {"Hat", "not Young"}
    assert table["small"].all()
    rows = read_rows(folder)
    of = rows[(rows["method"] == "glow") & (rows["problem"] == "denoise")].set_index("image")[
        "psnr"
    ]
    assert len(of) == 4  # two with a hat, two without, and the one who is not young among them
    hat = [name for name in of.index if int(name[-1]) % 2]
    expected = of[hat].mean() - of.drop(hat).mean()
    row = table.query("attribute == 'Hat' and problem == 'denoise' and method == 'glow'").iloc[0]
    assert row["difference"] == pytest.approx(expected)
    assert row["with"] == len(hat) and row["low"] <= row["difference"] <= row["high"]
    own = table.query("method == 'adjoint'")
    assert (own["relative_difference"].abs() < 1e-12).all()
    assert "too small to rely on" in (folder / "report.md").read_text()
