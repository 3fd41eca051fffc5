"""One module per way of training a prior."""

from lightning_modules.adversarial import Adversarial
from lightning_modules.closed_form import ClosedForm
from lightning_modules.latent_optimization import LatentOptimization
from lightning_modules.maximum_likelihood import MaximumLikelihood
from priors.load import load_prior

__all__ = ["Adversarial", "ClosedForm", "LatentOptimization", "MaximumLikelihood", "load_prior"]
