"""Norms of latents: against a linear flow."""

import math

import torch

from priors.prior import FlowPrior
from studies.latent_norm import LatentNorm
from studies.study import Given
from tests.studies.conftest import LinearFlow, reread


def test_latent_norm_of_a_linear_flow(given: Given) -> None:
    prior = FlowPrior(LinearFlow(2 * torch.eye(192), (3, 8, 8)), "linear")
    study = LatentNorm(images=4, sigmas=[0.5], batch_size=3)
    linear = Given({"glow": prior}, given.sets, given.rows, given.device, given.folder)
    study.check(linear)
    norms = study.compute(linear, lambda _: None)["norms"]
    assert len(norms) == 16
    x = given.sets["celeba-val"].images[0].float() / 255 - 0.5
    clean, noisy = norms.iloc[0], norms[norms["sigma"] == 0.5]
    assert math.isclose(clean["norm"], 2 * x.norm().item(), rel_tol=1e-5)
    log_p = 192 * (math.log(2) - 0.5 * math.log(2 * math.pi)) - clean["norm"] ** 2 / 2
    assert math.isclose(clean["log_likelihood"], log_p, rel_tol=1e-5)
    added = (noisy["norm"].pow(2).mean() - norms["norm"].iloc[:4].pow(2).mean()) / 192
    assert abs(added - 4 * 0.25) < 0.2  # ||2 sigma noise||^2 / n
    assert "celeba-val + 0.5" in study.findings(reread({"norms": norms}))[0]
