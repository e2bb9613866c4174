"""A network as a function of one flat parameter vector."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import Node
from torch.func import functional_call, vjp, vmap
from torch.nn.modules.conv import _ConvNd

from pipeline.curvature.attention import plain_attention
from pipeline.curvature.copies import call_on_copies
from pipeline.curvature.derivatives import along, map_rows
from pipeline.curvature.eval_copy import differentiated, eval_copy, refuse_types, unwrapped
from pipeline.curvature.places import places
from pipeline.device import rounding
from pipeline.errors import ArgumentError

PLAIN = (bool, int, float, complex, str, type(None), torch.dtype, torch.device, torch.Size)
FUNCTIONS = (FunctionType, BuiltinFunctionType, type)
TENSORS = (
    "_parameters",
    "_buffers",
    "_modules",
)  # attributes that hold a module's tensors and parts

ERROR = "torch::autograd::Error"  # what autograd calls the place of a missing derivative


class FlatNetwork:
    """A network in eval mode as a function of one flat parameter vector.

    It is a copy: the caller's network keeps its mode, its gradients and its running statistics.
    ``theta`` (p,) is ordered as ``named_parameters()``, each row-major; with ``only`` it is these
    parameters, the others being constant. Raises ArgumentError if the model is no network with
    parameters of one floating type.
    """

    def __init__(self, model: nn.Module, only: Sequence[str] | None = None) -> None:
        self.module = eval_copy(model)
        parameters = dict(self.module.named_parameters())
        refuse_types(parameters)
        if only is not None:
            parameters = {name: parameters[name] for name in only}
        self.names = tuple(parameters)
        self._places = places(self.module)
        self._shapes = [parameter.shape for parameter in parameters.values()]
        self._sizes = [parameter.numel() for parameter in parameters.values()]
        # clone: of a single tensor cat may return a view.
        self.theta = torch.cat([x.flatten().clone() for x in parameters.values()])
        self.works_on_copies = False

    @property
    def state(self) -> dict[str, torch.Tensor]:
        """All parameters and buffers of the network, by name."""
        return {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All parameters and buffers, which are allocated whatever else is."""
        return [self.theta, *self.state.values()]

    @property
    def structure(self) -> Hashable:
        """What the recorded operations depend on, as far as modules show it.

        Two networks of one structure may still compute different functions: a recorded list of
        another network is checked before it is used.
        """
        modules = tuple(
            (
                (name, type(module), type(module).forward),
                *((key, _fixed(x)) for key, x in vars(module).items() if key not in TENSORS),
            )
            for name, module in self.module.named_modules()
        )
        tensors = tuple((name, x.shape, x.dtype, x.device) for name, x in self.state.items())
        return modules, tensors, self.names, self.works_on_copies

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
        parts = zip(theta.split(self._sizes), self._shapes, strict=True)
        pieces = [piece.view(shape) for piece, shape in parts]
        # view_as_complex takes no pair of numbers that begins at an odd place of a storage.
        return [piece.clone() if piece.shape[-1:] == (2,) else piece for piece in pieces]

    def logits_of(self, pieces: Sequence[torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
        """Return the logits (N, C) at the parameters ``pieces``."""
        return self._called(self._exchanged(dict(zip(self.names, pieces, strict=True))), inputs)

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the logits (N, C) at the network's own parameters."""
        return self._called(self.module, inputs)

    def copy_what_it_writes_to(self) -> None:
        """Call the network on copies of its inputs and buffers, which it would change otherwise."""
        self.works_on_copies = True
        call_on_copies(self.module)

    def in_double(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return the function inputs -> logits (N, C) in float64, at the network's parameters."""
        named = {name: x.double() if x.is_floating_point() else x for name, x in self.state.items()}

        def logits(inputs: torch.Tensor) -> torch.Tensor:
            inputs = inputs.double() if inputs.is_floating_point() else inputs
            return self._called(self._exchanged(named), inputs)

        return logits

    def _exchanged(self, named: Mapping[str, torch.Tensor]) -> Callable[[torch.Tensor], Any]:
        """Return the network with some of its tensors exchanged.

        functional_call's own ``tie_weights`` names a module's tensor twice if the module has two
        names, and then restores the exchanged tensor in place of the network's own.
        """
        everywhere = {place: x for name, x in named.items() for place in self._places[name]}
        return lambda x: functional_call(self.module, everywhere, (x,), tie_weights=False)

    def _called(self, call: Callable[[torch.Tensor], Any], inputs: torch.Tensor) -> torch.Tensor:
        with plain_attention():
            return logits_in(call(inputs))

    def hidden(self, example: torch.Tensor, model: nn.Module) -> list[str]:
        """Return the parameters that the network reads otherwise than from its modules.

        They are leaves of the logits' graph besides ``theta``: tensors of the copy, from a list
        say, or of the caller's ``model``, from a closure.
        """
        with torch.enable_grad(), differentiated(self.module), differentiated(model):
            theta = self.theta.detach().requires_grad_()
            leaves = {id(leaf) for leaf in _leaves(self.logits(theta, example).grad_fn)}
        named = (*self.module.named_parameters(), *unwrapped(model).named_parameters())
        read = {name for name, parameter in named if id(parameter) in leaves}
        return [name for name in self.names if name in read]

    @torch.no_grad()
    def refusal(self, example: torch.Tensor) -> str | None:
        """Return why torch.func cannot follow the network; None if it can.

        The trial is what operators do: G's product for several vectors and several examples, and
        J^T of two vectors that share a pass, which must be what it is of each.
        """

        def product(v: torch.Tensor, x: torch.Tensor, shared: bool) -> torch.Tensor:
            def both(theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                logits, u = along(lambda at: self.logits(at, x[None]), theta, v)
                return logits, u.detach()

            logits, pull, u = vjp(both, self.theta, has_aux=True)
            rows = torch.stack([logits + u, logits.roll(1, -1) - u])
            return map_rows(lambda cotangent: pull(cotangent)[0], rows, vectorize=shared)

        try:
            together = vmap(partial(product, shared=True))(self.theta[None], example)
            apart = product(self.theta, example[0], shared=False)[None]
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            return str(error)
        allowed = rounding(apart.device, apart.dtype) ** 0.5 * apart.norm()
        if bool((together - apart).norm() > allowed):
            return "vmap gives other products of several vectors than of each"
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


def logits_in(output: Any) -> torch.Tensor:
    """Return the logits in what a network returns: a tensor, or the one named ``logits``.

    Of a tuple the logits are its one tensor of two dimensions. Raises ArgumentError otherwise.
    """
    if isinstance(output, torch.Tensor):
        return output
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(named, torch.Tensor):
        return named
    several = list(output.values()) if isinstance(output, Mapping) else output
    if isinstance(several, tuple | list):
        found = [x for x in several if isinstance(x, torch.Tensor) and x.ndim == 2]
        if len(found) == 1:
            return found[0]
    keys = f" with keys {list(output)}" if isinstance(output, Mapping) else ""
    raise ArgumentError(
        f"the network returns a {type(output).__name__}{keys}, in which the logits (N, C) are not "
        "plain to see. Wrap it in a module that returns the logits only, or name them 'logits'"
    )


def _fixed(value: Any) -> Hashable:
    """Return a module's attribute as a part of its structure.

    Functions count as themselves. Nothing equals an object that may change, so that networks with
    such attributes share no recorded list.
    """
    if isinstance(value, PLAIN):
        return type(value), repr(value)
    if isinstance(value, tuple | list):
        return type(value), tuple(map(_fixed, value))
    if isinstance(value, Mapping):
        return tuple((repr(key), _fixed(part)) for key, part in value.items())
    if isinstance(value, set):
        return tuple(sorted(map(repr, value)))
    return value if isinstance(value, FUNCTIONS) else object()


def _leaves(root: Node | None) -> list[torch.Tensor]:
    """Return the tensors at which autograd would end from ``root``."""
    return [node.variable for node in _graph(root) if hasattr(node, "variable")]


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
