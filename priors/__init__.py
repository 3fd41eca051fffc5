"""What recovery needs of a trained network, and how one is saved, loaded and described."""

from priors.load import load_prior

__all__ = ["load_prior"]
