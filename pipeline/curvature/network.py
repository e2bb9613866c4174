"""A network as a function of one flat parameter vector."""

import copy
from collections.abc import Sequence

import torch
from torch import nn
from torch.autograd.graph import Node
from torch.func import functional_call, vjp, vmap
from torch.nn.modules.conv import _ConvNd

from pipeline.curvature.attention import plain_attention
from pipeline.curvature.tangent import along

ERROR = "torch::autograd::Error"  # what autograd calls the place of a missing derivative


class FlatNetwork:
    """A network in eval mode as a function of one flat parameter vector.

    It is a copy: the caller's network keeps its mode, its gradients and its running statistics.
    ``theta`` (p,) is ordered as ``named_parameters()``, each row-major; with ``only`` it is these
    parameters, the others being constant.
    """

    def __init__(self, model: nn.Module, only: Sequence[str] | None = None) -> None:
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        parameters = dict(self.module.named_parameters())
        if only is not None:
            parameters = {name: parameters[name] for name in only}
        self._names = list(parameters)
        self._shapes = [parameter.shape for parameter in parameters.values()]
        self._sizes = [parameter.numel() for parameter in parameters.values()]
        self.theta = torch.cat([parameter.flatten() for parameter in parameters.values()])

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All parameters and buffers, which are there whatever else is."""
        return [self.theta, *self.module.parameters(), *self.module.buffers()]

    @property
    def channels(self) -> int:
        """Output channels of the widest convolution, 0 without any."""
        modules = self.module.modules()
        return max(
            (module.out_channels for module in modules if isinstance(module, _ConvNd)), default=0
        )

    def logits(self, theta: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        """Return the logits (N, C) at parameters ``theta`` (p,)."""
        return self.logits_of(self.pieces(theta), inputs)

    def pieces(self, theta: torch.Tensor) -> list[torch.Tensor]:
        """Return ``theta`` (p,) as the network's parameters."""
        sizes = theta.split(self._sizes)
        return [piece.view(shape) for piece, shape in zip(sizes, self._shapes, strict=True)]

    def logits_of(self, pieces: Sequence[torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
        """Return the logits (N, C) at the parameters ``pieces``."""
        named = dict(zip(self._names, pieces, strict=True))
        with plain_attention():
            return functional_call(self.module, named, (inputs,))

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the logits (N, C) at the network's own parameters."""
        with plain_attention():
            return self.module(inputs)

    @torch.no_grad()
    def refusal(self, example: torch.Tensor) -> str | None:
        """Return why torch.func cannot follow the network; None where it can.

        Asked is what operators do: G's product, made anew for several vectors and several examples.
        """

        def product(v: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            def both(theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                logits, u = along(lambda at: self.logits(at, x[None]), theta, v)
                return logits, u.detach()

            logits, pull, u = vjp(both, self.theta, has_aux=True)
            return vmap(lambda cotangent: pull(cotangent)[0])((logits + u)[None])

        try:
            vmap(product)(self.theta[None], example)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            return str(error)
        return None

    def hides_a_derivative(self, example: torch.Tensor) -> bool:
        """Return whether reverse mode twice would silently leave something out.

        A backward marked once_differentiable hangs its error where no derivative passes by.
        """
        with torch.enable_grad():
            theta = self.theta.detach().requires_grad_()
            logits = self.logits(theta, example)
            if not logits.requires_grad:
                return False
            cotangent = torch.ones_like(logits).requires_grad_()
            gradient = torch.autograd.grad(
                logits, theta, cotangent, create_graph=True, materialize_grads=True
            )
        return any(node.name() == ERROR for node in _graph(gradient[0].grad_fn))


def _graph(root: Node | None) -> set[Node]:
    """Return all that autograd would run through from ``root``."""
    found: set[Node] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting += [before for before, _ in node.next_functions]
    return found
