"""RealNVP (Dinh, Sohl-Dickstein & Bengio 2017) for flat vectors, as in Asim et al. (Fig. 9).

A flow f(x) = z with log p(x) = log N(z; 0, I) + log |det df/dx|, of affine couplings. A coupling
keeps the masked half of the entries and scales and shifts the others by functions of that half.
"""

import torch
from torch import Tensor, nn


class Coupling(nn.Module):
    """z = x on the mask; z = x exp(s) + t off it, with s and t of the masked entries alone."""

    def __init__(self, mask: Tensor, hidden: int, max_log_scale: float) -> None:
        super().__init__()
        self.mask: Tensor
        self.register_buffer("mask", mask)
        self.max_log_scale = max_log_scale
        last = nn.Linear(hidden, 2 * len(mask))
        nn.init.zeros_(last.weight)  # starts as the identity
        nn.init.zeros_(last.bias)
        self.net = nn.Sequential(
            nn.Linear(len(mask), hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), last
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self.log_scale_and_shift(x)
        return x * log_scale.exp() + shift, log_scale.sum(dim=1)

    def inverse(self, z: Tensor) -> Tensor:
        log_scale, shift = self.log_scale_and_shift(z)
        return (z - shift) * (-log_scale).exp()

    def log_scale_and_shift(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute both, (B, n), 0 on the mask; |log_scale| < max_log_scale."""
        raw, shift = self.net(self.mask * x).chunk(2, dim=1)
        off = 1 - self.mask
        return off * self.max_log_scale * torch.tanh(raw), off * shift


class RealNVP(nn.Module):
    """Couplings with alternating masks: even entries kept, then odd ones.

    Args:
        latent_dim: n, at least 2.
        couplings: how many.
        hidden: width of their networks, of two hidden layers.
        max_log_scale: each scale lies between exp(-max_log_scale) and exp(max_log_scale).

    Raises:
        ValueError: a size is below 1, n below 2, or the bound not positive.
    """

    def __init__(
        self, latent_dim: int = 2, couplings: int = 8, hidden: int = 64, max_log_scale: float = 2.0
    ) -> None:
        super().__init__()
        if latent_dim < 2 or min(couplings, hidden) < 1 or max_log_scale <= 0:
            raise ValueError(
                "RealNVP: latent_dim must be at least 2, couplings and hidden at least 1, "
                "max_log_scale above 0"
            )
        self.latent_dim = latent_dim
        even = 1.0 - torch.arange(latent_dim) % 2
        self.couplings = nn.ModuleList(
            Coupling(even if index % 2 == 0 else 1 - even, hidden, max_log_scale)
            for index in range(couplings)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, n) -> z (B, n), log_det (B,) in nats."""
        log_det = x.new_zeros(len(x))
        for coupling in self.couplings:
            x, coupling_log_det = coupling(x)
            log_det = log_det + coupling_log_det
        return x, log_det

    def inverse(self, z: Tensor) -> Tensor:
        """z (B, n) -> x (B, n)."""
        for coupling in reversed(self.couplings):
            z = coupling.inverse(z)  # type: ignore[operator]
        return z
