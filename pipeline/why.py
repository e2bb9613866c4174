"""Why an artifact is as it is: what made it, and what has changed since."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.atomic import sha256
from pipeline.config import Config
from pipeline.cubes.store import open_cube, opened_part, read_attributes
from pipeline.errors import ArtifactError
from pipeline.fingerprint import PACKAGE, closure, path_of
from pipeline.runs import Part, checkpoint_path
from pipeline.tasks import STAGES
from pipeline.training.record import read_record
from pipeline.workload import Work, kept_inputs, told, workload

SHOWN_FILES = 6
CODE = {"modules", "code"}
UPSTREAM = "a job that makes one of its inputs runs first"
DRAWN = ("figure", "comparison")  # jobs whose drawing carries their record


def explanation(
    artifact: str | Path,
    config: Config,
    *,
    pending: Mapping[Path, str],
    command: str = "snakemake",
) -> str:
    """Return what made an artifact of ``config``, what it depends on, and what differs now.

    ``pending`` are the files that Snakemake would make now, each with its reason; ``command``
    starts Snakemake with this configuration.  Raises ArtifactError if the configuration makes no
    such artifact, or if it does not exist.
    """
    work, artifact = _maker(Path(artifact), config)
    if not artifact.exists():
        if artifact not in pending:
            raise ArtifactError(
                f"{artifact} was deleted when its sweep had chosen the best rate. Set sweep.keep "
                "to keep such files"
            )
        raise ArtifactError(f"{artifact} is not there. Run: {command}")
    record = _record(artifact, work)
    now = told(config, work).model_dump(mode="json")
    settings = [(key, json.dumps(value)) for key, value in _leaves(now) if key not in CODE]
    modules = sorted(set().union(*map(closure, now["modules"])))
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    lasting = replace(work, inputs=kept_inputs(config, work))
    changes = list(_changes(artifact, record, now, lasting, modules))
    if artifact in pending:
        reason = pending[artifact]
        changes += [] if changes else [UPSTREAM if reason == "ok" else f"Snakemake: {reason}"]
        changes.append(f"it is made again by: {command}")
    elif changes:
        changes.append(f"Snakemake sees none of this. Delete {artifact}, then run: {command}")
    lines = [
        f"{artifact}",
        f"  made by   {work.rule} {work.name}".rstrip(),
        f"  log       {work.log}",
        f"  commit    {record['git_commit']}",
        f"  device    {record['device']}",
        f"  versions  {versions}",
        f"  seeds     {json.dumps(record.get('seeds', {}))}",
        "it is made again when one of these changes:",
        *(f"  setting   {key}: {value}" for key, value in settings),
        f"  code      of {len(modules)} modules: {', '.join(modules)}",
        *(f"  input     {text}" for text in _some(work.inputs)),
        "now:",
        *(f"  {change}" for change in changes or ["nothing of these has changed"]),
    ]
    return "\n".join(lines)


def _maker(artifact: Path, config: Config) -> tuple[Work, Path]:
    """Return the job that makes an artifact, and the artifact as the job names it."""
    wanted = artifact.resolve()
    for work in workload(config):
        for file in work.outputs:
            if file.resolve() == wanted:
                return work, file
    raise ArtifactError(
        f"{artifact} is made by no job of this configuration, whose results are in "
        f"{config.results}. Name one of its files, or give the --configfile that it was made with"
    )


def _record(artifact: Path, work: Work) -> dict[str, Any]:
    """Return the provenance that an artifact carries, or the one made with it that carries it.

    Raises ArtifactError where it is missing or corrupt.
    """
    if work.rule in ("train", "select"):
        record = read_record(work.outputs[0].parent)
        # A recipe that has become a sweep, or is none any more, finds the record of the other.
        return record.get("selection", record)["provenance"]
    if work.rule == "cube":
        return read_attributes(open_cube(work.outputs[0]))
    if work.rule in DRAWN:
        drawing = next(file for file in work.outputs if file.suffix == ".png")
        try:
            with Image.open(drawing) as image:
                return json.loads(image.text["Description"])
        except (OSError, KeyError, AttributeError, ValueError) as error:
            raise ArtifactError(
                f"{drawing}, which carries the record of this figure, is missing or corrupt "
                f"({error!r}). Delete it, and snakemake draws it anew"
            ) from error
    with opened_part(artifact) as part:
        return read_attributes(part)


def _changes(
    artifact: Path, record: dict[str, Any], now: dict[str, Any], work: Work, modules: list[str]
) -> Iterator[str]:
    """Yield what differs between an artifact's record and the present."""
    then, current = dict(_leaves(record["settings"])), dict(_leaves(now))
    for key in sorted((then.keys() | current.keys()) - CODE):
        if then.get(key) != current.get(key):
            yield f"setting {key}: {json.dumps(then.get(key))} -> {json.dumps(current.get(key))}"
    if record["code"] != now["code"]:
        yield f"code: {', '.join(_edited(record['git_commit'], modules)) or 'edited'}"
    checksums, made = _checksums(artifact, record, work), artifact.stat().st_mtime
    for file in work.inputs:
        if not file.exists():
            yield f"input {file} is missing"
        elif file in checksums and checksums[file] != sha256(file):
            yield f"input {file} is another than it was made from"
        elif file not in checksums and file.stat().st_mtime > made:
            yield f"input {file} is younger"


def _checksums(artifact: Path, record: dict[str, Any], work: Work) -> dict[Path, str]:
    """Return the checksums of inputs that an artifact tells of."""
    if work.rule == "cube":
        manifest = work.outputs[1]
        parts = json.loads(manifest.read_text(encoding="utf-8"))["parts"]
        return {manifest.parent.parent / name: checksum for name, checksum in parts.items()}
    if work.rule in DRAWN:
        return {Path(name): checksum for name, checksum in record["inputs"].items()}
    if work.rule in STAGES:
        part = Part.from_path(artifact)
        return {checkpoint_path(part.folder, part.epoch): record["checkpoint"]}
    return {}


def _edited(commit: str, modules: list[str]) -> list[str]:
    """Return the modules edited since a commit, none where git cannot tell."""
    paths = [str(path) for path in map(path_of, modules) if path]
    command = ["git", "diff", "--name-only", commit.removesuffix("-dirty"), "--", *paths]
    done = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True)
    return done.stdout.split() if done.returncode == 0 else []


def _leaves(settings: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings with their dotted places."""
    if isinstance(settings, dict) and settings:
        for key, value in settings.items():
            yield from _leaves(value, f"{place}.{key}" if place else key)
    else:
        yield place, settings


def _some(files: tuple[Path, ...]) -> list[str]:
    more = [f"and {len(files) - SHOWN_FILES} more"] if len(files) > SHOWN_FILES else []
    return [*map(str, files[:SHOWN_FILES]), *more]
