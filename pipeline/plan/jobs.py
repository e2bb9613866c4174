"""The plan of a configuration: the cost of every job, gathered by rule."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from pipeline.assign import overlap_job
from pipeline.config import Config
from pipeline.jobs.overlap import Side, pairs_of
from pipeline.plan.cost import Cost
from pipeline.plan.costs import (
    PLAIN,
    hierarchy_cost,
    on_gpu,
    room_of,
    spectrum_cost,
    train_cost,
)
from pipeline.plan.facts import DataFacts, NetworkFacts, data_facts, network_facts
from pipeline.plan.layer_costs import bounds_cost, layers_cost, overlap_cost, theory_cost
from pipeline.runs import Part, Run
from pipeline.tasks import STAGES, layers_parts
from pipeline.workload import Work, is_done, keeps_networks, workload

# Of a tiny job, its interpreter and libraries: 0.85 to 0.97 GiB were measured on the default
# experiment's F-nets (torch 2.15 on a CPU).
PROCESS = 2**30
COSTS = {"spectrum": spectrum_cost, "hierarchy": hierarchy_cost, "layers": layers_cost}
T = TypeVar("T")


class UnknownError(Exception):
    """What a network or a data set is like cannot be told before its jobs run."""


@dataclass(frozen=True)
class Job:
    """A job, whether it is ``done``, and its cost, None where it cannot be told.

    ``main`` and ``device`` are bytes of main memory, and of each GPU's where it runs on some;
    ``processes`` share its work.
    """

    work: Work
    done: bool
    cost: Cost | None
    main: float = 0.0
    device: float = 0.0
    processes: int = 1

    @property
    def flop(self) -> float:
        """The FLOPs of one process."""
        return self.cost.flop / self.processes if self.cost else 0.0


@dataclass(frozen=True)
class Row:
    """A rule's jobs, the known ones' ``cost`` in all, and the FLOPs of those ``left`` to do.

    ``largest`` and ``fullest`` are the jobs of the most main memory and of the most of a GPU's,
    ``longest`` that of the most FLOPs a process.
    """

    jobs: int
    done: int
    unknown: int
    cost: Cost
    left: float
    largest: Job
    fullest: Job
    longest: Job


@dataclass(frozen=True)
class Plan:
    """Rows by rule, and what will not go as asked or is unknown, with the places that it is of."""

    rows: dict[str, Row]
    notes: dict[str, list[str]]


def plan_of(config: Config, *, device_gb: float) -> Plan:
    """Return the plan of a configuration on GPUs of ``device_gb`` GiB, where GPUs are asked for."""
    account = Account(config, device_gb)
    jobs: dict[str, list[Job]] = {}
    notes: dict[str, dict[str, None]] = {}
    for work in workload(config):
        try:
            cost = account.cost(work)
        except UnknownError as error:
            unknown = Job(work, is_done(config, work), None)
            jobs.setdefault(work.rule, []).append(unknown)
            notes.setdefault(f"unknown: {error}", {})[work.rule] = None
            continue
        jobs.setdefault(work.rule, []).append(account.job(work, cost))
        for note in cost.notes:
            notes.setdefault(f"{work.rule}: {note}", {})[network_name(work)] = None
    rows = {rule: _row(some) for rule, some in jobs.items()}
    return Plan(rows, {note: list(places) for note, places in notes.items()})


def _row(jobs: list[Job]) -> Row:
    known = [job for job in jobs if job.cost]
    return Row(
        jobs=len(jobs),
        done=sum(job.done for job in jobs),
        unknown=len(jobs) - len(known),
        cost=sum((job.cost for job in known), Cost()),
        left=sum(job.cost.flop for job in known if not job.done),
        largest=max(jobs, key=lambda job: job.main),
        fullest=max(jobs, key=lambda job: job.device),
        longest=max(jobs, key=lambda job: job.flop),
    )


def network_name(work: Work) -> str:
    """Return the data set and network that a job is of."""
    return "/".join(work.name.split("/")[:2])


class Account:
    """The costs of a configuration's jobs, each network and each kind of job looked at once."""

    def __init__(self, config: Config, device_gb: float) -> None:
        self.config = config
        self.room = _once(lambda stage: room_of(config, stage, device_gb=device_gb))
        self.data = _once(self._data)
        self.network = _once(self._network)
        self.trained = _once(self._train)
        self.stage = _once(self._stage)
        self.bound = _once(self._bound)

    def job(self, work: Work, cost: Cost) -> Job:
        """Return a job with the memory that it takes: of each GPU, and of main memory in all."""
        done = is_done(self.config, work)
        if not cost.flop:
            return Job(work, done, cost)
        gpu, room = on_gpu(self.config, work.rule), self.room(work.rule)
        main = PROCESS + cost.held + cost.host + (0 if gpu else cost.work)
        device = cost.held + cost.work if gpu else 0.0
        return Job(work, done, cost, room.processes * main, device, room.processes)

    def cost(self, work: Work) -> Cost:
        """Return a job's cost; UnknownError where only the job itself can tell."""
        if work.rule == "train":
            return self.trained(replace(work.run, seed=0))
        if work.rule == "select":
            return self._selected(work.run)
        if work.rule in STAGES:
            splits = Counter(Part.from_path(file).split for file in work.outputs)
            parts = [
                self.stage(work.rule, replace(work.run, seed=0), split)
                for split in splits.elements()
            ]
            return sum(parts[1:], parts[0])
        if work.rule == "bounds":
            return self.bound(replace(work.run, seed=0), work.name.rpartition("/")[2])
        if work.rule == "overlap":
            return self._overlap(*work.name.split("/"))
        return theory_cost(self.config.theory) if work.rule == "theory" else Cost()

    def _data(self, name: str) -> DataFacts:
        read = data_facts
        return _known(name, lambda: read(self.config.datasets[name], self.config.data_root))

    def _network(self, dataset: str, model: str, norm: str) -> NetworkFacts:
        data, own = self.data(dataset), self.config.models[model]
        return _known(f"{dataset}/{model}/{norm}", lambda: network_facts(own, norm, data))

    def _of(self, run: Run) -> NetworkFacts:
        return self.network(run.dataset, run.model, run.norm)

    def _sizes(self, run: Run) -> dict[str, int]:
        data = self.data(run.dataset)
        return {split: data.examples(split, run.n_per_class) for split in ("train", "test")}

    def _train(self, run: Run) -> Cost:
        recipe, kept = self.config.recipe(run.recipe), keeps_networks(self.config, run)
        network, room = self._of(run), self.room("train")
        return train_cost(recipe, network, room, kept=kept, **self._sizes(run))

    def _selected(self, run: Run) -> Cost:
        """Return the cost of a sweep's choice: a copy of the best candidate's networks."""
        checkpoints = self.config.recipes[run.recipe].checkpoints
        return Cost(disk=len(checkpoints) * self._of(run).state * PLAIN)

    def _stage(self, stage: str, run: Run, split: str) -> Cost:
        examples = self.data(run.dataset).examples(split, run.n_per_class)
        return COSTS[stage](self.config, self._of(run), self.room(stage), examples=examples)

    def _bound(self, run: Run, method: str) -> Cost:
        room, sizes = self.room("bounds"), self._sizes(run)
        return bounds_cost(self.config, self._of(run), room, method=method, **sizes)

    def _overlap(self, dataset: str, model: str, norm: str) -> Cost:
        job = overlap_job(self.config, dataset=dataset, model=model, norm=norm)
        sides = [Side(run, *at, file, "", {}) for run, at, file in layers_parts(job)]
        network, room = self.network(dataset, model, norm), self.room("overlap")
        groups = Counter(side.group for side in sides).most_common(2)
        return overlap_cost(
            self.config,
            network,
            room,
            self.room("layers"),
            pairs=sum(1 for _ in pairs_of(sides, job)),
            sides=len(sides),
            together=sum(count for _, count in groups),
        )


def _once(find: Callable[..., T]) -> Callable[..., T]:
    """Return ``find`` with its answers, and its refusals, remembered."""
    found: dict[tuple, T | UnknownError] = {}

    def remembered(*words: object) -> T:
        if words not in found:
            try:
                found[words] = find(*words)
            except UnknownError as error:
                found[words] = error
        answer = found[words]
        if isinstance(answer, UnknownError):
            raise answer
        return answer

    return remembered


def _known(name: str, find: Callable[[], T]) -> T:
    """Return what ``find`` does; whatever users' own code raises means that it cannot be told."""
    try:
        return find()
    except Exception as error:
        raise UnknownError(f"{name} ({type(error).__name__}: {error})") from error
