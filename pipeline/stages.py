"""The settings of each stage: what it computes, where, and with what resources."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, StringConstraints

from pipeline.catalogue import COMPONENT, FIGURES, METHODS, SPLITS
from pipeline.settings import Matrix, Method, Settings, Split


class Spectrum(Settings):
    """What the spectrum stage computes of each network."""

    matrices: Annotated[tuple[Matrix, ...], Field(min_length=1)] = ("Hess", "G", "H")
    splits: Annotated[tuple[Split, ...], Field(min_length=1)] = SPLITS
    top: dict[Matrix, PositiveInt] = Field(
        {"Hess": 20, "G": 20, "H": 5},
        description="eigenpairs found of each matrix, algebraically largest first; some more than "
        "classes, so that outliers can be told from the bulk",
    )
    bottom: dict[Matrix, Annotated[int, Field(ge=0)]] = Field(
        {"Hess": 2, "H": 2}, description="eigenpairs found at the lower end; 0 where not named"
    )
    exact: Annotated[int, Field(ge=0)] = Field(
        2000,
        description="matrices of at most this dimension, and G of at most so many examples times "
        "classes, are solved whole instead",
    )
    tolerance: PositiveFloat = Field(
        1e-3, description="largest residual of a converged pair, relative to the largest |value|"
    )
    probes: PositiveInt = Field(1, description="Gaussian starting vectors of the quadrature")
    steps: Annotated[int, Field(ge=2)] = Field(128, description="Lanczos steps per probe")
    trace_probes: Annotated[int, Field(ge=2)] = 10


class Hierarchy(Settings):
    """What the hierarchy stage computes of each network."""

    splits: Annotated[tuple[Split, ...], Field(min_length=1)] = SPLITS
    knockouts: tuple[Annotated[str, StringConstraints(pattern=COMPONENT)], ...] = Field(
        ("G-A1", "G-A2", "G-B1", "G-B2"),
        description="sums and differences of G, A1, A2, B1 and B2 whose spectra are estimated "
        "beside G's and B2's",
    )
    classes: Annotated[int, Field(ge=2)] = Field(
        10,
        description="classes whose pairs are embedded and kept in the cube; of more, so many are "
        "chosen at random, the same for all networks",
    )
    perplexity: PositiveFloat | None = Field(
        None, description="of t-SNE; null: the number of those classes"
    )
    probes: PositiveInt = Field(1, description="Gaussian starting vectors of each quadrature")
    steps: Annotated[int, Field(ge=2)] = Field(128, description="Lanczos steps per probe")
    trace_probes: Annotated[int, Field(ge=2)] = 10
    exact: Annotated[int, Field(ge=0)] = Field(
        5000,
        description="of at most so many examples times classes B2's traces are exact, from a "
        "backward pass each",
    )


class Layers(Settings):
    """What the layers stage computes of each linear and convolution layer of a network."""

    splits: Annotated[tuple[Split, ...], Field(min_length=1)] = ("train",)
    checkpoints: Literal["last", "all"] = Field(
        "last", description="the checkpoints of a recipe that are dissected by layer"
    )
    names: tuple[str, ...] | None = Field(
        None, description="layers, by their named_modules() name; null: all"
    )
    rank: PositiveInt | None = Field(
        None,
        description="eigenpairs of each layer; null: a quarter more than its outputs, so that the "
        "overlap's peak shows. Fewer where compute.basis_gb has no more room",
    )
    most: PositiveInt = Field(300, description="eigenpairs of a layer at most, where rank is null")
    tolerance: PositiveFloat = Field(
        1e-6,
        description="largest residual of a converged pair, relative to the largest eigenvalue; "
        "eigenvalues below it are lost",
    )
    full: PositiveInt = Field(
        20, description="eigenpairs of the whole Hessian beside those from Kronecker parts"
    )
    index: PositiveInt = Field(
        50, description="singular values, factors' eigenvalues and correspondences kept of a layer"
    )
    shown: PositiveInt = Field(3, description="eigenvectors kept of a layer, for heat maps")
    elements: PositiveInt = Field(
        200_000, description="layers of more weights keep no eigenvector in the cube"
    )
    probes: Annotated[int, Field(ge=2)] = Field(
        10, description="random vectors for what the decoupling error has beyond the eigenpairs"
    )


class Overlap(Settings):
    """Which pairs of networks, beside all pairs of seeds, have their eigenspaces compared."""

    across: tuple[Literal["recipe", "n_per_class"], ...] = Field(
        (), description="compare seeds across these too, at their last checkpoints"
    )


class Theory(Settings):
    """The random two-layer networks of D's theory."""

    widths: Annotated[tuple[Annotated[int, Field(ge=16)], ...], Field(min_length=1)] = (
        64,
        128,
        256,
        512,
        1024,
        2048,
    )
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0, 1, 2)
    classes: Annotated[int, Field(ge=2)] = 10
    exponent: Annotated[float, Field(ge=0)] = Field(
        0.1, description="a: a network of width n has n^(1 + a) inputs"
    )
    examples: PositiveInt = Field(2000, description="random inputs that expectations are over")


class Bounds(Settings):
    """How a PAC-Bayes bound is optimised and sampled.

    The defaults are D's, and its public code's where the paper says nothing (batch, smoothing).
    """

    methods: Annotated[tuple[Method, ...], Field(min_length=1)] = Field(
        METHODS,
        description="the posterior's basis: base, the standard one; appr, each layer's Kronecker "
        "eigenbasis at the trained network; iter, the same made anew at the posterior's mean; "
        "iter-d, ever more rarely; iter-m, with the output Hessian's closed form",
    )
    epochs: PositiveInt = Field(2000, description="passes of the optimisation")
    lr: PositiveFloat = Field(0.001, description="of RMSprop")
    mean_share: PositiveFloat = Field(
        1.0,
        description="the mean's rate over the scales'; below 1 where a short schedule has a "
        "large rate",
    )
    smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.9, description="RMSprop's alpha, of its mean of squared gradients"
    )
    drop_at: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.2, 0.4, 0.6, 0.8), description="fractions of the epochs after which the rate drops"
    )
    drop_factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    batch: PositiveInt = Field(
        100, description="examples of a step, and of each split for a sampled network"
    )
    basis_every: PositiveInt = Field(10, description="epochs between bases, of iter and its kin")
    basis_decay: PositiveInt = Field(
        10, description="of iter-d: by what that interval grows where the rate drops"
    )
    prior_ceiling: PositiveFloat = Field(
        0.1, description="c: the prior's variance is lambda = c exp(-j / b), j = 1, 2, ..."
    )
    prior_steps: PositiveFloat = Field(100.0, description="b")
    start_half_log_lambda: float = Field(-3.0, description="(1/2) log lambda at the start")
    delta: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.025, description="probability that the bound fails for the training set"
    )
    samples: PositiveInt = Field(
        150_000, description="networks drawn for the posterior's error, each with a batch"
    )
    sampling_delta: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.01, description="probability that the bound fails for those samples"
    )


class Arithmetic(Settings):
    """Where a job runs, and how numbers are rounded there: part of what all results depend on."""

    device: Annotated[str, StringConstraints(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = Field(
        "auto", description="auto: a GPU where the job finds one; checked inside the job"
    )
    tf32: bool = Field(False, description="let a GPU round float32 products to TF32")
    threads: PositiveInt = Field(1, description="CPU threads per job")


class Products(Arithmetic):
    """How products with curvature matrices are evaluated, which changes rounding."""

    dtype: Literal["float32", "float64"] = Field("float32", description="of curvature products")
    chunk: PositiveInt = Field(
        1000,
        description="examples linearised at once; fewer if a pass over them would take more than "
        "1 GiB on a CPU, 8 GiB on a GPU",
    )
    memory_gb: Annotated[float, Field(ge=0)] | None = Field(
        None, description="GiB for kept linearised chunks; null: 1 on a CPU, 8 on a GPU"
    )
    vectors: PositiveInt = Field(
        8, description="vectors multiplied in one pass over a chunk; fewer by the same bound"
    )
    compiled: bool = Field(
        False, description="products through torch.compile; on a CPU it needs a C++ compiler"
    )


class Krylov(Products):
    """The same, and the room for a Krylov basis, which may lower what is asked of it."""

    basis_gb: Annotated[float, Field(gt=0)] | None = Field(
        None, description="GiB for a Krylov basis; null: 1 on a CPU, 8 on a GPU"
    )


class Compute(Krylov):
    """Where and in what arithmetic jobs run; a job's results depend on what it reads of it."""

    stream: bool | Literal["auto"] = Field(
        "auto",
        description="read images as they are needed, chunk by chunk, instead of keeping them on "
        "the device; auto: where those of a split would take over a quarter of all memory. "
        "Changing it reruns nothing: on a CPU no bit changes",
    )


class Figures(Settings):
    """How figures are drawn; none of this touches a cube."""

    names: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        tuple(FIGURES), description="figures to draw, where their cubes are gathered"
    )
    kappa: PositiveFloat = Field(3.0, description="width of the kernel that smooths a spectrum")
    points: Annotated[int, Field(ge=16)] = Field(1024, description="grid points of a density")
    margin: Annotated[float, Field(ge=0)] = Field(0.05, description="of a spectrum's range")
    dpi: PositiveInt = 160


class Resources(Settings):
    """What one job of a stage asks of a scheduler; changing it reruns nothing by itself.

    A second attempt asks for twice the memory and time, a third for three times, at most for
    most_mem_mb and most_runtime, beyond which a job would wait for ever.  The memory changes
    no result.
    """

    mem_mb: PositiveInt = Field(4000, description="MB of main memory")
    runtime: PositiveInt = Field(120, description="minutes")
    most_mem_mb: PositiveInt | None = Field(
        None, description="of any attempt: what a node or partition has; null: no limit"
    )
    most_runtime: PositiveInt | None = Field(None, description="likewise")
    gpu: Annotated[int, Field(ge=0)] = Field(
        0,
        description="GPUs; of several, spectrum, hierarchy and layers start a process for each, "
        "which share the examples",
    )
    gpu_model: str | None = Field(None, description="as the cluster names it, such as h200")
    partition: str | None = Field(None, description="Slurm's; null: the profile's, or its default")
    account: str | None = Field(None, description="Slurm's; null: the profile's, or none")

    def at(self, name: Literal["mem_mb", "runtime"], attempt: int) -> int:
        """Return what an attempt, counted from 1, asks for of memory or time."""
        wanted, most = attempt * getattr(self, name), getattr(self, f"most_{name}")
        return wanted if most is None else min(wanted, most)

    def fixed(self) -> dict[str, int | str]:
        """Return what every attempt asks for, by Snakemake's names."""
        named = {
            "gpu": self.gpu,
            "gpu_model": self.gpu_model,
            # torchrun starts its processes on one node.
            "nodes": 1 if self.gpu > 1 else None,
            "slurm_partition": self.partition,
            "slurm_account": self.account,
        }
        return {name: value for name, value in named.items() if value is not None}


class PartResources(Resources):
    """The same for a stage that makes a part for each checkpoint and split."""

    job: Literal["run", "part"] = Field(
        "run",
        description="what one job makes: all parts of a run, which imports torch once, or one part",
    )


class StageResources(Settings):
    """Resources by stage."""

    train: Resources = Resources()
    select: Resources = Resources(mem_mb=1000, runtime=20)
    spectrum: PartResources = PartResources()
    hierarchy: PartResources = PartResources()
    layers: PartResources = PartResources()
    overlap: Resources = Resources(runtime=30)
    theory: Resources = Resources(runtime=30)
    bounds: Resources = Resources(runtime=720)
    cube: Resources = Resources(runtime=30)
    figure: Resources = Resources(mem_mb=2000, runtime=20)
