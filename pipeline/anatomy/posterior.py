"""A Gaussian over a network's parameters, its covariance diagonal in a basis of each layer."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import nn

from pipeline.anatomy.eigenbasis import LayerBasis
from pipeline.anatomy.pac_bayes import gaussian_kl

# Of a parameter of exactly zero, such as a bias that nothing moved: its logarithm must be finite.
SMALLEST = 1e-8


@dataclass(frozen=True)
class Posterior:
    """Q = N(mean, diagonal in ``bases``) over a network's parameters, and the prior's scale.

    ``mean`` has the parameters by name; ``log_scale`` the log standard deviations of their
    coordinates: (m, n) of a weight, (m,) of a bias, in the layer's basis; of a parameter of no such
    layer, its own shape, in the standard basis.  ``half_log_lambda`` is (1/2) log lambda.
    """

    mean: dict[str, torch.Tensor]
    log_scale: dict[str, torch.Tensor]
    half_log_lambda: torch.Tensor
    bases: dict[str, LayerBasis] = field(default_factory=dict)

    @property
    def parameter_groups(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """All that is optimised: the mean, and the scales."""
        return [*self.mean.values()], [*self.log_scale.values(), self.half_log_lambda]

    def basis_of(self, name: str) -> LayerBasis | None:
        """Return the basis of a parameter, None of one that belongs to no layer with a basis."""
        layer, _, kind = name.rpartition(".")
        return self.bases.get(layer) if kind in ("weight", "bias") else None

    def sample(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Return parameters drawn from Q, by name; differentiable in mean and scales."""
        drawn = {}
        for name, mean in self.mean.items():
            scale = self.log_scale[name].exp()
            noise = torch.randn(
                scale.shape, generator=generator, dtype=scale.dtype, device=scale.device
            )
            basis = self.basis_of(name)
            own = scale * noise if basis is None else basis.rotated(scale * noise)
            drawn[name] = mean + own.view_as(mean)
        return drawn

    def kl(self, centre: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return KL(Q || P), P = N(``centre``, lambda I), in nats."""
        distance = sum((self.mean[name] - w).square().sum() for name, w in centre.items())
        scales = torch.cat([scale.flatten() for scale in self.log_scale.values()])
        return gaussian_kl(distance, scales, self.half_log_lambda)

    def double(self) -> "Posterior":
        """Return the same in float64, for a KL that is summed once."""
        return Posterior(
            {name: mean.detach().double() for name, mean in self.mean.items()},
            {name: scale.detach().double() for name, scale in self.log_scale.items()},
            self.half_log_lambda.detach().double(),
            self.bases,
        )

    @torch.no_grad()
    def change_bases(self, bases: dict[str, LayerBasis]) -> None:
        """Take new bases; of the covariance the diagonal in the new one is kept.

        That is the diagonal Gaussian nearest to the old Q, by KL(old || new).
        """
        for name, scale in self.log_scale.items():
            old = self.basis_of(name)
            if old is not None:
                new = bases[name.rpartition(".")[0]]
                scale.copy_(old.variances_in(new, (2 * scale).exp()).log() / 2)
        self.bases.update(bases)

    def state(self) -> dict[str, torch.Tensor]:
        """Return all of it as named tensors."""
        named = {f"mean/{name}": tensor for name, tensor in self.mean.items()}
        named |= {f"log_scale/{name}": tensor for name, tensor in self.log_scale.items()}
        for layer, basis in self.bases.items():
            named |= {f"basis/{layer}/{key}": value for key, value in vars(basis).items()}
        named = {key: tensor for key, tensor in named.items() if tensor is not None}
        return named | {"half_log_lambda": self.half_log_lambda}

    @torch.no_grad()
    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Become what ``state`` was taken of."""
        for kind, own in (("mean", self.mean), ("log_scale", self.log_scale)):
            for name, tensor in own.items():
                tensor.copy_(state[f"{kind}/{name}"])
        self.half_log_lambda.copy_(state["half_log_lambda"])
        for layer, basis in self.bases.items():
            # As it lay in memory too: products of another layout round otherwise.
            saved = {
                key: torch.empty_like(value).copy_(state[f"basis/{layer}/{key}"])
                for key, value in vars(basis).items()
                if value is not None
            }
            self.bases[layer] = LayerBasis(**(vars(basis) | saved))


def posterior_at(
    network: nn.Module, bases: dict[str, LayerBasis], *, half_log_lambda: float
) -> Posterior:
    """Return where the optimisation starts: at the network's parameters w, scales |w|.

    |w| is taken of the coordinates in the posterior's own basis.  Source: D and its public code.
    """
    named = {name: p.detach().clone() for name, p in network.named_parameters()}
    like = next(iter(named.values()))
    made = Posterior(named, {}, torch.full_like(like.flatten()[0], half_log_lambda), dict(bases))
    for name, w in named.items():
        basis = made.basis_of(name)
        own = w if basis is None else basis.coordinates(w.flatten(1) if w.ndim > 1 else w)
        made.log_scale[name] = own.abs().clamp_min(SMALLEST).log()
    for tensor in chain(*made.parameter_groups):
        tensor.requires_grad_(True)
    return made


@dataclass(frozen=True)
class VarianceCurve:
    """A layer's posterior variances against curvature, in bins of coordinates of near curvature.

    ``curvature`` and ``variance`` are means (arithmetic and geometric) over ``count`` coordinates
    each, the largest curvature first.
    """

    curvature: torch.Tensor
    variance: torch.Tensor
    count: torch.Tensor


@torch.no_grad()
def variance_curves(posterior: Posterior, *, bins: int) -> dict[str, VarianceCurve]:
    """Return how a posterior's variance depends on curvature, for each layer that has a basis.

    Of each weight's coordinates, sorted by the product of the factors' eigenvalues (in the standard
    basis: of their diagonals), bins hold as many as their place in the order is far from the first.
    """
    curves = {}
    for layer, basis in posterior.bases.items():
        curvature, order = basis.curvature(bias=False).flatten().sort(descending=True)
        logs = 2 * posterior.log_scale[f"{layer}.weight"].flatten()[order].double()
        size = len(order)
        edges = torch.logspace(0, math.log10(size + 1), bins + 1, dtype=torch.float64).round()
        counts = edges.long().unique().diff()
        groups = [values.split(counts.tolist()) for values in (curvature, logs)]
        means = [torch.stack([some.mean() for some in own]) for own in groups]
        curves[layer] = VarianceCurve(means[0], means[1].exp(), counts)
    return curves
