"""Small networks drawn from a grammar of layers, paddings, views, writes in place and formats.

A network is a list of Python expressions, each a module or a function of the activations, so that
the line that a failed test prints makes the same network again.
"""

from dataclasses import dataclass, replace
from random import Random

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

MOST_PARAMETERS = 150
MOST_ACTIVATIONS = 160  # of one example, after any step
TRIES = 200


@dataclass(frozen=True)
class Spec:
    """A network, its data and how they are cut into chunks, in one printable line."""

    steps: tuple[str, ...]
    shape: tuple[int, ...]
    classes: int = 3
    dtype: str = "float64"
    chunk: int = 4
    examples: int = 7
    layout: str = "contiguous"

    def network(self) -> nn.Module:
        """Return the network in eval mode, its parameters and running statistics random."""
        torch.manual_seed(0)
        network = Steps(*(evaluated(step) for step in self.steps)).double()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
            for name, buffer in network.named_buffers():
                if name.endswith("running_mean"):
                    buffer.normal_()
                elif name.endswith("running_var"):
                    buffer.uniform_(0.5, 2)
        return network.to(getattr(torch, self.dtype)).eval()

    def data(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs (N, ...) and labels (N,)."""
        generator = torch.Generator().manual_seed(1)
        size = (self.examples, *self.shape)
        inputs = torch.randn(size, generator=generator, dtype=torch.float64)
        inputs = inputs.to(getattr(torch, self.dtype))
        if self.layout == "channels_last":
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        elif self.layout == "transposed":
            inputs = inputs.transpose(0, -1).contiguous().transpose(0, -1)
        return inputs, torch.arange(self.examples) % self.classes


class Step(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, h):
        return self.function(h)


class Steps(nn.Module):
    """Modules and functions, one after the other."""

    def __init__(self, *steps):
        super().__init__()
        self.steps = nn.ModuleList(s if isinstance(s, nn.Module) else Step(s) for s in steps)

    def forward(self, h):
        for step in self.steps:
            h = step(h)
        return h


class Residual(Steps):
    """h + f(h)."""

    def forward(self, h):
        return h + super().forward(h)


class ResidualInPlace(Steps):
    """h + f(h), added to f(h) in place."""

    def forward(self, h):
        out = super().forward(h)
        out += h
        return out


class Gated(Steps):
    """h times a function of itself."""

    def forward(self, h):
        return h * super().forward(h).sigmoid()


class Joined(Steps):
    """h and f(h), side by side."""

    def forward(self, h):
        return torch.cat([h, super().forward(h)], 1)


class Twice(Steps):
    """f(f(h)), of the same f."""

    def forward(self, h):
        return super().forward(torch.tanh(super().forward(h)))


class Tied(nn.Module):
    """A linear layer and its transpose."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.one = nn.Linear(inputs, outputs)

    def forward(self, h):
        return F.linear(torch.tanh(self.one(h)), self.one.weight.T)


class Shared(nn.Module):
    """Two linear layers that share a weight, each with a bias of its own."""

    def __init__(self, size):
        super().__init__()
        self.one, self.two = nn.Linear(size, size), nn.Linear(size, size)
        self.two.weight = self.one.weight

    def forward(self, h):
        return self.two(torch.tanh(self.one(h)))


class Weighted(nn.Module):
    """A function of the activations and of one weight (and a buffer of its shape)."""

    def __init__(self, function, *shape):
        super().__init__()
        self.function, self.weight = function, nn.Parameter(torch.randn(shape) / 2)
        self.register_buffer("scale", torch.linspace(0.5, 1.5, self.weight.numel()).view(shape))

    def forward(self, h):
        return self.function(h, self.weight, self.scale)


class Listed(nn.Module):
    """Linear maps whose weights lie in a list of parameters."""

    def __init__(self, size):
        super().__init__()
        self.weights = nn.ParameterList([torch.randn(size, size) / 2 for _ in range(2)])

    def forward(self, h):
        for weight in self.weights:
            h = torch.tanh(h @ weight)
        return h


class Attention(nn.Module):
    """Self-attention of torch's own module."""

    def __init__(self, size, heads, **options):
        super().__init__()
        self.inner = nn.MultiheadAttention(size, heads, batch_first=True, **options)

    def forward(self, h):
        return self.inner(h, h, h, need_weights=False)[0]


class Recurrent(nn.Module):
    """The outputs of a recurrent layer."""

    def __init__(self, kind, inputs, outputs):
        super().__init__()
        self.inner = kind(inputs, outputs, batch_first=True)

    def forward(self, h):
        return self.inner(h)[0]


def assigned(h, make, *writes):
    """Return ``make(h)``, each of ``writes`` carried out on it and h."""
    out = make(h)
    for write in writes:
        write(out, h)
    return out


def put(index, function=lambda h: h):
    """Return a write of ``function`` of h's part at ``index``."""

    def write(out, h):
        out[index] = function(h[index])

    return write


def moved(to, origin):
    """Return a write of h's part at ``origin`` to the part ``to``."""

    def write(out, h):
        out[to] = h[origin]

    return write


def strided(h, size, stride, offset=0):
    """Return overlapping or transposed windows of each example, by strides."""
    flat = h.contiguous().flatten(1)
    return flat.as_strided((len(h), *size), (flat.shape[1], *stride), offset)


def evaluated(step: str):
    """Return the module or function that an expression stands for."""
    return eval(step, globals())


def spec(random: Random) -> Spec:
    """Draw a network."""
    shape = random.choice([(1, 4, 4), (2, 5, 5), (1, 6, 6), (2, 4, 3), (3, 4), (6,), (4, 3)])
    first, steps, tries = shape, [], 0
    wanted = random.randint(2, 7)
    learned = {random.choice([0, 0, 1]), random.randint(1, wanted)}  # steps with parameters
    while len(steps) < wanted and tries < TRIES:
        tries += 1
        step = drawn(random, shape)
        after = result(steps, step, first, learned=len(steps) in learned)
        if after is not None:
            steps, shape = [*steps, step], after
    classes = random.choice([3, 2, 4])
    if len(shape) > 1:
        ends = ["lambda h: h.flatten(1)", "lambda h: h.reshape(h.shape[0], -1)"]
        ends += ["lambda h: h.mean(tuple(range(2, h.ndim)))", "lambda h: h.amax(-1).flatten(1)"]
        step = random.choice(ends)
        shape, steps = result(steps, step, first), [*steps, step]
    if shape[0] * classes > 60:
        steps.append(f"lambda h: h[:, :{60 // classes}]")
        shape = (60 // classes,)
    steps.append(f"nn.Linear({shape[0]}, {classes})")
    layouts = ["contiguous"] * 4 + ["transposed"] + ["channels_last"] * (len(first) == 3)
    made = Spec(
        steps=tuple(steps),
        shape=first,
        classes=classes,
        dtype=random.choice(["float64", "float64", "float32"]),
        chunk=random.choice([4, 4, 4, 7, 1, 5]),
        layout=random.choice(layouts),
    )
    try:
        made.network()(made.data()[0].clone())
    except RuntimeError:  # a view that this layout of the inputs does not allow
        return replace(made, layout="contiguous")
    return made


def result(steps, step, first, *, learned=False):
    """Return the shape of an example after one more step, None if the step does not fit there.

    A step that must be ``learned`` fits only with parameters.
    """
    draft = Spec((*steps, step), first)
    try:
        network, (inputs, _) = draft.network(), draft.data()
        with sdpa_kernel(SDPBackend.MATH):
            outputs = network(inputs.clone())
            parts = torch.cat([network(some.clone()) for some in inputs.split((1, 2, 4))])
            differentiate_twice(outputs, [*network.parameters()])
    except (RuntimeError, ValueError, IndexError, AssertionError, TypeError, NotImplementedError):
        return None
    if learned and not any(True for _ in network.steps[-1].parameters()):
        return None
    shape = tuple(outputs.shape[1:])
    fits = outputs.shape[0] == len(inputs) and 1 <= len(shape) <= 3
    apart = parts.shape == outputs.shape and torch.allclose(parts, outputs)  # examples do not mix
    parameters = sum(parameter.numel() for parameter in network.parameters())
    small = shape and 0 < torch.Size(shape).numel() <= MOST_ACTIVATIONS
    return shape if fits and apart and small and parameters <= MOST_PARAMETERS - 40 else None


def differentiate_twice(outputs, parameters):
    """Raise RuntimeError if PyTorch cannot differentiate the outputs twice, to finite numbers."""
    if not outputs.requires_grad:
        return
    gradient = torch.autograd.grad(
        outputs.square().sum(), parameters, create_graph=True, materialize_grads=True
    )
    moving = sum(g.square().sum() for g in gradient)
    if moving.requires_grad:
        second = torch.autograd.grad(moving, parameters, materialize_grads=True)
        if not all(g.isfinite().all() for g in second):
            raise RuntimeError("not finite")


def drawn(random: Random, shape: tuple[int, ...], depth: int = 0) -> str:
    """Draw a step for activations of this shape (of one example)."""
    kinds = [activation, everywhere, {1: vector, 2: tokens, 3: image}[len(shape)]]
    kinds += [kinds[2]] * 3 + [writes]
    if depth < 2:
        kinds.append(lambda r, s: nested(r, s, depth))
    return random.choice(kinds)(random, shape)


def nested(random, shape, depth):
    """Steps within a step."""
    kind = random.choice(["Residual", "ResidualInPlace", "Gated", "Joined", "Twice"])
    inner = [drawn(random, shape, depth + 1)]
    if random.random() < 0.5:
        inner.append(activation(random, shape))
    return f"{kind}({', '.join(inner)})"


def activation(random, shape):
    return random.choice(
        [
            "torch.tanh",
            "nn.ReLU()",
            "nn.ReLU(inplace=True)",
            "nn.GELU()",
            "nn.GELU(approximate='tanh')",
            "nn.SiLU()",
            "nn.SiLU(inplace=True)",
            "nn.Softplus()",
            "nn.Mish()",
            "nn.ELU(inplace=True)",
            "nn.ELU()",
            "nn.CELU()",
            "nn.SELU()",
            "nn.Hardtanh(inplace=True)",
            "nn.Hardswish()",
            "nn.Hardsigmoid()",
            "nn.LeakyReLU(0.1, inplace=True)",
            "nn.LogSigmoid()",
            "nn.Softsign()",
            "nn.Tanhshrink()",
            "nn.Softshrink(0.1)",
            "nn.ReLU6()",
            "nn.Threshold(0.1, 0.2)",
            "nn.PReLU()",
            f"nn.PReLU({shape[0]})",
            "nn.Dropout(0.5)",
            "nn.Identity()",
            "torch.sigmoid",
            "lambda h: h.sigmoid_()",
            "lambda h: h.tanh_()",
            "lambda h: F.relu_(h)",
            "lambda h: torch.where(h > 0, h, 0.1 * h)",
            "lambda h: h.sin()",
            "lambda h: h * h.sigmoid()",
            "lambda h: h.abs() + h.square()",
            "lambda h: h.clamp(-1, 1)",
            "lambda h: h.clamp(min=-0.5)",
            "lambda h: torch.maximum(h, -0.3 * h)",
            "lambda h: (h.square() + 1).sqrt()",
            "lambda h: h.exp().log1p()",
            "lambda h: torch.erf(h)",
            "torch.atan",
        ]
    )


def writes(random, shape):
    """Operations in place, and slices that are written to."""
    n = random.randint(1, max(1, shape[0] - 1))
    dim = random.randint(1, len(shape))
    last = max(1, shape[-1] // 2)
    return random.choice(
        [
            f"lambda h: assigned(h, torch.zeros_like, put((slice(None), slice({n}))))",
            f"lambda h: assigned(h, torch.zeros_like, moved((..., slice({last}, None)), "
            f"(..., slice(None, -{last}))))",
            f"lambda h: assigned(h, torch.clone, put((slice(None), slice({n})), torch.tanh))",
            "lambda h: assigned(h, torch.clone, put((..., slice(None, None, 2)), torch.sin))",
            "lambda h: assigned(h, torch.empty_like, lambda out, h: out.copy_(h))",
            "lambda h: assigned(h, lambda h: h.new_zeros(h.shape), lambda out, h: out.add_(h))",
            "lambda h: assigned(h, lambda h: torch.zeros(h.shape, dtype=h.dtype, "
            f"device=h.device), put((slice(None), slice({n}, None))), put((slice(None), 0)))",
            "lambda h: h.add_(0.5)",
            "lambda h: h.mul_(1.5)",
            "lambda h: h.sub_(h.mean(-1, keepdim=True))",
            "lambda h: h.clone().mul_(h)",
            "lambda h: h.clone().div_(h.square() + 1)",
            "lambda h: h.clone().clamp_(-1, 1)",
            "lambda h: (h + 0).addcmul_(h, h, value=0.5)",
            f"lambda h: h.clone().index_fill_({dim}, torch.tensor([0], device=h.device), 0.3)",
            f"lambda h: h.clone().index_copy_({dim}, torch.tensor([0], device=h.device), "
            f"h.narrow({dim}, {shape[dim - 1] - 1}, 1))",
            f"lambda h: torch.zeros_like(h).index_add({dim}, torch.arange({shape[dim - 1]}, "
            f"device=h.device).flip(0), h)",
            f"lambda h: torch.zeros_like(h).scatter_add({dim}, torch.zeros_like(h, "
            "dtype=torch.int64), h)",
            "lambda h: h.masked_fill(h > 1, 1.0)",
            "lambda h: h.clone().masked_fill_(h < -1, -1.0)",
            "lambda h: h.triu()" if len(shape) > 1 else "lambda h: h.neg()",
            "lambda h: assigned(h, torch.clone, lambda out, h: out[:, 0].mul_(2), "
            "lambda out, h: out[:, -1].add_(h[:, 0]))",
            f"lambda h: assigned(h, torch.clone, lambda out, h: out.select({dim}, 0).copy_("
            f"h.select({dim}, -1)))",
            "lambda h: assigned(h, torch.clone, lambda out, h: out.transpose(1, -1)[:, 0].tanh_())",
            "lambda h: assigned(h, torch.clone, lambda out, h: out.view(len(h), -1)[:, 0].zero_())",
            "lambda h: assigned(h, torch.clone, lambda out, h: out.__setitem__(h > 0.5, 0.5))",
            "lambda h: assigned(h, torch.clone, lambda out, h: "
            "out.masked_scatter_(h < 0, h.tanh()))",
            "lambda h: torch.index_put(h, (torch.arange(len(h), device=h.device),), h.sin())",
            "lambda h: torch.select_scatter(h, h[:, 0].tanh(), 1, 0)",
            f"lambda h: torch.slice_scatter(h, h[:, :{n}].tanh(), 1, 0, {n})",
            "lambda h: assigned(h, lambda h: torch.stack([h, h]), lambda out, h: out[1].tanh_())"
            ".sum(0)",
        ]
    )


def everywhere(random, shape):
    """What fits activations of any number of dimensions."""
    rank, c = len(shape), shape[0]
    dim, other = random.randint(1, rank), random.randint(1, rank)
    order = [0, *random.sample(range(1, rank + 1), rank)]
    kept = random.choice(["", ".contiguous()"])
    size, n = shape[dim - 1], random.randint(1, max(1, shape[0] - 1))
    index = [random.randrange(c) for _ in range(random.randint(1, c))]
    numel = torch.Size(shape).numel()
    expanded = ", ".join("2" if at == dim else "-1" for at in range(rank + 2))
    return random.choice(
        [
            f"lambda h: h.permute({', '.join(map(str, order))}){kept}",
            f"lambda h: h.transpose({dim}, {other}){kept}",
            f"lambda h: h.flip({dim})",
            f"lambda h: h.roll({random.randint(1, 2)}, {dim})",
            f"lambda h: h.roll((1, 2), ({dim}, {other}))",
            f"lambda h: h[:, {index}]",
            f"lambda h: h.index_select(1, torch.tensor({index}, device=h.device))",
            f"lambda h: h.gather({dim}, torch.zeros_like(h, dtype=torch.int64))",
            f"lambda h: h.gather({dim}, h.argsort({dim}))",
            f"lambda h: torch.take_along_dim(h, h.argsort({dim}), {dim})",
            f"lambda h: h.sort({dim}).values",
            f"lambda h: torch.cat(h.chunk(2, {dim})[::-1], {dim})",
            f"lambda h: torch.cat(h.split([{n}, {c - n}], 1)[::-1], 1)",
            f"lambda h: torch.stack(h.unbind({dim})[::-1], {dim})",
            f"lambda h: torch.stack([h, h.tanh()], {dim}).flatten({dim}, {dim + 1})",
            "lambda h: h[:, ::2]",
            "lambda h: h[..., ::2].repeat_interleave(2, -1)",
            f"lambda h: h.narrow({dim}, 0, {max(1, size - 1)})",
            f"lambda h: h.unsqueeze({dim}).expand({expanded}).flatten({dim}, {dim + 1})",
            f"lambda h: h.repeat(1, {', '.join(['2'] + ['1'] * (rank - 1))})",
            "lambda h: torch.tile(h, (2,))",
            "lambda h: h.unsqueeze(-1).squeeze(-1)",
            "lambda h: h[:, None].squeeze(1)",
            "lambda h: h.reshape(h.shape[0], -1)",
            "lambda h: h.flatten(1)",
            f"lambda h: h.contiguous().view(len(h), {c}, -1)",
            f"lambda h: h.reshape(len(h), -1, {shape[-1]})",
            f"lambda h: h.unflatten(1, (-1, {2 if c % 2 == 0 else c}))",
            f"lambda h: h.flatten(1).unflatten(1, ({c}, 1, -1))",
            f"lambda h: strided(h, ({max(1, numel // 2)}, 2), (1, 1))",
            f"lambda h: strided(h, ({numel // c}, {c}), (1, {numel // c}))",
            f"lambda h: strided(h, ({max(1, numel - 2)},), (1,), 1)",
            "lambda h: h.as_strided(h.shape, h.stride())",
            f"lambda h: h.contiguous().as_strided((len(h), {numel}), ({numel}, 1))",
            f"lambda h: h.unfold({dim}, {min(2, size)}, 1).flatten({rank})",
            f"lambda h: h.cumsum({dim})",
            f"lambda h: h.diff(dim={dim})",
            f"lambda h: h.softmax({dim})",
            f"lambda h: h.log_softmax({dim})",
            f"lambda h: h - h.mean({dim}, keepdim=True)",
            f"lambda h: h / (h.var({dim}, keepdim=True) + 1).sqrt()",
            f"lambda h: F.normalize(h, dim={dim})",
            f"lambda h: h * h.logsumexp({dim}, keepdim=True)",
            f"lambda h: h + h.amax({dim}, keepdim=True)",
            f"lambda h: h.sum({dim})",
            f"lambda h: h.norm(dim={dim})",
            f"lambda h: h.prod({dim}, keepdim=True) + h",
            f"nn.LayerNorm({list(shape[dim - 1 :])})",
            f"nn.RMSNorm({list(shape[dim - 1 :])})",
            f"nn.LayerNorm({list(shape[-1:])}, elementwise_affine=False)",
            f"nn.GroupNorm({random.choice([1, c, 2])}, {c})",
            "lambda h: torch.einsum('b...i,b...j->b...j', h, h)",
            f"lambda h: torch.cat([h, torch.zeros(h.shape[0], *h.shape[1:], dtype=h.dtype, "
            f"device=h.device)], {dim})",
            f"lambda h: torch.cat([h, torch.ones(len(h), {', '.join(map(str, (1, *shape[1:])))}, "
            "dtype=h.dtype, device=h.device)], 1)",
            f"lambda h: h + torch.linspace(0, 1, {shape[-1]}, dtype=h.dtype, device=h.device)"
            ".expand(h.shape)",
            f"lambda h: F.pad(h, ({random.choice([1, -1, 0])}, 1))",
            f"Weighted(lambda h, w, s: h + w.expand(h.shape[0], *w.shape), "
            f"{', '.join(map(str, shape))})",
            f"Weighted(lambda h, w, s: h * (s * w).expand_as(h), {shape[-1]})",
            f"Weighted(lambda h, w, s: torch.cat([w.expand(len(h), *w.shape), h], 1), "
            f"{', '.join(map(str, (1, *shape[1:])))})",
            f"Weighted(lambda h, w, s: F.linear(h, s * w), {random.randint(1, 4)}, {shape[-1]})",
            f"Weighted(lambda h, w, s: h @ (w / w.norm()), {shape[-1]}, {random.randint(1, 4)})",
            f"Weighted(lambda h, w, s: h @ w.softmax(0).T, {random.randint(1, 4)}, {shape[-1]})",
            f"Weighted(lambda h, w, s: F.linear(h, w.view({shape[-1]}, {shape[-1]})), "
            f"{shape[-1] ** 2})",
            f"Weighted(lambda h, w, s: F.linear(h, w.clone().mul_(s)), 2, {shape[-1]})",
            f"Weighted(lambda h, w, s: h @ torch.linalg.inv(w + 4 * torch.eye({shape[-1]}, "
            f"dtype=w.dtype, device=w.device)), {shape[-1]}, {shape[-1]})",
            f"nn.Linear({shape[-1]}, {random.randint(1, 4)})",
            f"nn.Linear({shape[-1]}, {random.randint(1, 4)}, bias=False)",
            f"Tied({shape[-1]}, {random.randint(1, 3)})",
            f"Listed({shape[-1]})",
            f"Shared({shape[-1]})",
            f"Twice(nn.Linear({shape[-1]}, {shape[-1]}))",
            f"nn.utils.parametrizations.spectral_norm(nn.Linear({shape[-1]}, 3))",
            "lambda h: h.to(memory_format=torch.preserve_format)",
            "lambda h: h.contiguous()",
            "lambda h: torch.fft.fft(h).real",
            "lambda h: torch.view_as_real(torch.fft.rfft(h)).flatten(-2)",
            "lambda h: torch.fft.rfft(h).abs()",
            "lambda h: torch.vmap(torch.tanh)(h)",
            f"lambda h: (h - h.amax({dim}, keepdim=True).detach()).softmax({dim})",
            "Weighted(lambda h, w, s: h + F.embedding((h > 0).long(), w)[..., 0], 2, 1)",
            f"Weighted(lambda h, w, s: torch.tensordot(h, w, ([{rank}], [0])), {shape[-1]}, 2)",
            f"lambda h: h.cummax({dim}).values",
            f"lambda h: h.topk(1, {dim}).values",
            f"lambda h: h.median({dim}, keepdim=True).values + h",
            f"lambda h: F.cosine_similarity(h, h.roll(1, {dim}), {dim})",
            "lambda h: torch.broadcast_to(h[:, :1], h.shape) + h",
            f"lambda h: h.movedim({dim}, {other}){kept}",
            f"lambda h: h.swapaxes({dim}, {other}).reshape(h.shape)",
            f"lambda h: torch.cumprod(h.tanh(), {dim})",
            "lambda h: h.view(h.size(0), -1)",
            "lambda h: h.new_full((h.shape[0], *h.shape[1:]), 0.5) * h",
            "lambda h: torch.hstack([h, h.cos()])",
        ]
    )


def vector(random, shape):
    (d,) = shape
    out = random.randint(1, 6)
    return random.choice(
        [
            f"nn.Linear({d}, {out})",
            f"nn.BatchNorm1d({d})",
            f"nn.LayerNorm({d})",
            "lambda h: F.glu(h)" if d % 2 == 0 else f"nn.Linear({d}, {out})",
            f"lambda h: h.view(-1, 1, {d})",
            f"lambda h: h.view(len(h), {d}, 1).expand(-1, -1, 3)",
            "lambda h: torch.einsum('bi,bj->bij', h, h)",
            "lambda h: (h[:, :, None] * h[:, None, :])",
            "lambda h: torch.bmm(h[:, :, None], h[:, None, :]).flatten(1)",
            "lambda h: h.view(h.shape[0], 1, 1, -1)",
            f"Weighted(lambda h, w, s: torch.einsum('bi,oi->bo', h, w * s), {out}, {d})",
            f"Weighted(lambda h, w, s: F.bilinear(h, h, w), 2, {d}, {d})",
            f"Weighted(lambda h, w, s: -torch.cdist(h, w).square(), {out}, {d})",
            f"Weighted(lambda h, w, s: torch.addmm(w[0], h, w.T), {d}, {d})",
        ]
    )


def tokens(random, shape):
    t, d = shape
    heads = random.choice([1, d])
    out, k = random.randint(1, 3), random.randint(1, 3)
    mode = random.choice(["zeros", "circular", "reflect", "replicate"])
    pad = random.choice(["0", "1", "'same'"])
    groups = random.choice([1, 1, t])
    return random.choice(
        [
            f"nn.Linear({d}, {out})",
            f"nn.Conv1d({t}, {groups * out}, {k}, padding={pad}, padding_mode='{mode}', "
            f"groups={groups})",
            f"nn.Conv1d({t}, {out}, {k}, stride=2, padding=1, dilation={random.choice([1, 2])})",
            f"nn.ConvTranspose1d({t}, {out}, {k}, stride=2)",
            f"nn.BatchNorm1d({t})",
            f"nn.InstanceNorm1d({t}, affine=True)",
            f"nn.MaxPool1d({min(2, d)}, 1)",
            f"nn.AvgPool1d({min(2, d)})",
            "nn.AdaptiveAvgPool1d(2)",
            "nn.AdaptiveMaxPool1d(2)",
            f"Attention({d}, {heads})",
            f"Attention({d}, {heads}, bias=False, add_bias_kv={random.choice([True, False])})",
            "lambda h: F.scaled_dot_product_attention(h[:, None], h[:, None], h[:, None])"
            ".squeeze(1)",
            "lambda h: F.scaled_dot_product_attention(h, h.tanh(), h, is_causal=True)",
            f"nn.TransformerEncoderLayer({d}, {heads}, 2, batch_first=True)",
            "lambda h: (h @ h.mT / 2).softmax(-1) @ h",
            "lambda h: torch.bmm(h, h.transpose(1, 2))",
            "lambda h: torch.baddbmm(h, torch.bmm(h, h.mT), h)",
            "lambda h: torch.einsum('btd,bsd->bts', h, h)",
            f"Recurrent(nn.RNN, {d}, {out})",
            f"Recurrent(nn.GRU, {d}, 1)",
            f"Recurrent(nn.LSTM, {d}, 1)",
            "lambda h: h.mT",
            "lambda h: h.mT.contiguous()",
            "lambda h: h.mean(1)",
            "lambda h: h[:, -1]",
            "lambda h: h[:, None]",
            f"lambda h: F.pad(h, (1, 1), mode='{random.choice(['circular', 'reflect'])}')",
            f"Weighted(lambda h, w, s: F.conv1d(h, w.flip(-1), padding=1), {out}, {t}, 2)",
            f"Weighted(lambda h, w, s: (w @ h), {out}, {t})",
            f"Weighted(lambda h, w, s: torch.bmm(w.expand(len(h), -1, -1), h), {out}, {t})",
            "lambda h: F.interpolate(h, scale_factor=2, mode='linear')",
        ]
    )


def image(random, shape):
    c, height, width = shape
    out, k = random.randint(1, 3), random.choice([3, 2, 1, 3])
    mode = random.choice(["zeros", "circular", "reflect", "replicate"])
    pad = random.choice(["1", "0", "'same'", "(1, 0)"])
    groups = random.choice([1, 1, c])
    stride = 1 if "same" in pad else random.choice([1, 1, 2])
    dilation = random.choice([1, 1, 2])
    form = random.choice(["", "", ".to(memory_format=torch.channels_last)"])
    conv = (
        f"nn.Conv2d({c}, {groups * out}, {k}, stride={stride}, padding={pad}, "
        f"dilation={dilation}, groups={groups}, bias={random.choice([True, False])}, "
        f"padding_mode='{mode}'){form}"
    )
    padding = random.choice(["circular", "reflect", "replicate", "constant"])
    sides = random.choice(["(1, 1, 1, 1)", "(0, 1, 1, 0)", "(2, 0, 0, 1)"])
    return random.choice(
        [conv] * 8
        + [
            f"nn.ConvTranspose2d({c}, {groups * out}, {k}, stride={random.choice([1, 2])}, "
            f"padding={random.choice([0, 1])}, groups={groups}, dilation={dilation})",
            f"nn.ConvTranspose2d({c}, {out}, 3, stride=2, padding=1, output_padding=1)",
            f"nn.BatchNorm2d({c})",
            f"nn.BatchNorm2d({c}, affine=False)",
            f"nn.InstanceNorm2d({c}, affine=True)",
            "nn.LocalResponseNorm(2)",
            "nn.MaxPool2d(2)",
            "nn.MaxPool2d(3, 2, padding=1)",
            "nn.MaxPool2d(2, 1, ceil_mode=True)",
            "nn.AvgPool2d(2)",
            "nn.AvgPool2d(2, 1, padding=1, count_include_pad=False)",
            "nn.AvgPool2d(3, 2, ceil_mode=True)",
            "nn.AdaptiveAvgPool2d(2)",
            "nn.AdaptiveAvgPool2d((3, 2))",
            "nn.AdaptiveMaxPool2d(2)",
            "nn.LPPool2d(2, 2)",
            "lambda h: F.max_unpool2d(*F.max_pool2d(h, 2, return_indices=True), 2)",
            "lambda h: F.grid_sample(h, torch.zeros(len(h), 2, 2, 2, dtype=h.dtype, "
            "device=h.device), align_corners=False)",
            f"lambda h: F.pad(h, {sides}, mode='{padding}')",
            "lambda h: F.pad(h, (-1, 0, 0, -1))",
            "nn.ZeroPad2d(1)",
            "nn.ReflectionPad2d(1)",
            "nn.CircularPad2d(1)",
            "lambda h: F.unfold(h, 2)",
            "lambda h: F.unfold(h, 2, stride=2).mT",
            f"lambda h: F.fold(F.unfold(h, 3, padding=1), {(height, width)}, 3, padding=1)",
            "lambda h: h.unfold(2, 2, 1).unfold(3, 2, 1).amax((-1, -2))",
            "lambda h: h.unfold(2, 2, 2).unfold(3, 2, 2).flatten(2)",
            "lambda h: F.pixel_shuffle(h.repeat(1, 4, 1, 1), 2)[:, :, ::2, 1::2]",
            "nn.PixelShuffle(2)",
            "nn.PixelUnshuffle(2)",
            "lambda h: F.channel_shuffle(h, 2)",
            "lambda h: h.to(memory_format=torch.channels_last)",
            "lambda h: h.contiguous(memory_format=torch.channels_last)",
            "lambda h: h.contiguous(memory_format=torch.channels_last).clone()",
            "lambda h: torch.rot90(h, 1, (2, 3))",
            "lambda h: h.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)",
            "lambda h: h.flatten(2)",
            "lambda h: h.flatten(2).mT",
            "lambda h: h.mean((2, 3))",
            "lambda h: h.amax((-2, -1))",
            "lambda h: h.squeeze(1)",
            "lambda h: torch.einsum('bchw,bdhw->bcd', h, h)",
            "lambda h: torch.einsum('bchw->bwhc', h)",
            "lambda h: F.interpolate(h, scale_factor=2)",
            "lambda h: F.interpolate(h, size=(3, 3), mode='bilinear', align_corners=False)",
            "lambda h: F.interpolate(h, size=3, mode='bicubic')",
            "nn.Upsample(scale_factor=2)",
            f"Weighted(lambda h, w, s: F.conv2d(h, s * w, padding=1), {out}, {c}, 2, 2)",
            f"Weighted(lambda h, w, s: F.conv2d(h, w.transpose(2, 3)), {out}, {c}, 2, 2)",
            f"Weighted(lambda h, w, s: F.conv2d(h, w - w.mean((1, 2, 3), keepdim=True)), "
            f"{out}, {c}, 2, 2)",
            f"Weighted(lambda h, w, s: F.conv2d(h, w.flip(3).permute(1, 0, 2, 3)), {c}, {out}, "
            "2, 2)",
            f"lambda h: F.conv2d(h, torch.ones({c}, 1, 2, 2, dtype=h.dtype, device=h.device), "
            f"groups={c})",
            f"Residual(nn.Conv2d({c}, {c}, 3, padding=1, padding_mode='{mode}'))",
            f"Residual(nn.Conv2d({c}, {c}, 3, padding=1), nn.ReLU(inplace=True))",
            f"Twice(nn.Conv2d({c}, {c}, 3, padding=1))",
            "lambda h: h.view(h.size(0), h.size(1), -1).mean(-1)",
        ]
    )
