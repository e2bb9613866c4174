"""Refusals of jobs that are known to fail: found before any job starts.

Snakemake deletes the outputs of a job before it starts the job.  A missing module, a misspelled
option or an absent image folder is therefore refused when the workflow is read.  A user's modules
are parsed here and not imported: an import may take seconds, or do anything.
"""

import ast
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipeline.catalogue import FOLDER, SOURCES, SPLITS
from pipeline.config import Config, Dataset
from pipeline.configfile import refuse
from pipeline.data.early import check_folder
from pipeline.data_files import data_files
from pipeline.errors import DataError
from pipeline.fingerprint import path_of
from pipeline.image_size import IMAGE_SIZE
from pipeline.pending import pending
from pipeline.refusals import Place, Refusal
from pipeline.schema_refusals import did_you_mean
from pipeline.workload import Work, workload

LOADED_WITH = ("split", "data_root")  # the keywords of a user's load
BUILT_WITH = 3  # in_shape, classes and norm, by position
PUT_IT = (
    "put the module on PYTHONPATH or in the folder that snakemake runs in, and check the spelling"
)


def preflight(config: Config, settings: dict[str, Any], files: Sequence[str | Path]) -> None:
    """Raise ConfigError if a job of the grid is known to fail; imports no torch.

    ``settings`` is the merged mapping that ``config`` was read from, ``files`` the YAML files.
    """
    found = [*_name_refusals(config), *_absent_refusals(config, settings)]
    refuse(found or list(_folder_refusals(config)), files)


def _name_refusals(config: Config) -> Iterator[Refusal]:
    """Yield modules, functions, augmentations and options that do not exist."""
    for name in _used(config, "datasets"):
        dataset, place = config.datasets[name], ("datasets", name, "source")
        if dataset.source not in SOURCES and dataset.source != FOLDER:
            yield from _function_refusals(
                place, dataset.source, dataset.options, keywords=LOADED_WITH
            )
    for name in _used(config, "models"):
        model, place = config.models[name], ("models", name, "family")
        if model.family not in IMAGE_SIZE:
            yield from _function_refusals(place, model.family, model.options, positional=BUILT_WITH)
    for name in _used(config, "recipes"):
        for transform, options in config.recipes[name].augment.items():
            place = ("recipes", name, "augment", transform)
            yield from _augmentation_refusals(place, transform, options)


def _absent_refusals(config: Config, settings: dict[str, Any]) -> Iterator[Refusal]:
    """Yield absent data that a job needs; finished results stand without them."""
    works: list[Work] = []
    outdated: dict[Path, str] | None = None
    for name in _used(config, "datasets"):
        where = {"data_root": config.data_root, "download": config.download}
        absent = absent_data(config.datasets[name], **where)
        if absent is None:
            continue
        works = works or list(workload(config))
        readers = [w for w in works if w.run and w.run.dataset == name and w.rule != "select"]
        missing = [w for w in readers if w.rule == "train" and not w.outputs[0].exists()]
        if not missing:
            outdated = pending(settings) if outdated is None else outdated
            missing = [w for w in readers if any(file in outdated for file in w.outputs)]
        if missing:
            key = ("datasets", name, "path")
            is_folder = config.datasets[name].source == FOLDER
            yield Refusal(
                key if is_folder else ("data_root",),
                f"{absent}, and {len(missing)} jobs need it, such as {missing[0].rule} "
                f"{missing[0].name}",
                f"correct the path of {name}"
                if is_folder
                else "correct data_root, or set download: true where there is a network",
            )


def _folder_refusals(config: Config) -> Iterator[Refusal]:
    """Yield what is wrong with the image folders that are there, as far as listing them shows."""
    for name in _used(config, "datasets"):
        dataset = config.datasets[name]
        where = {"data_root": config.data_root, "download": config.download}
        if dataset.source == FOLDER and absent_data(dataset, **where) is None:
            try:
                check_folder(dataset.resolved())
            except DataError as error:
                wrong, _, cure = str(error).rpartition(". ")
                yield Refusal(("datasets", name, "path"), wrong, cure)


def _used(config: Config, key: str) -> list[str]:
    return sorted({name for block in config.grid for name in getattr(block, key)})


def absent_data(dataset: Dataset, *, data_root: str, download: bool) -> str | None:
    """Return where a data set's files are missing and cannot be fetched; None if a job finds them.

    The function of a user fetches what it likes: nothing is known of its files.
    """
    if dataset.source == FOLDER:
        missing = [Path(dataset.path, split) for split in SPLITS]
        missing = [folder for folder in missing if not folder.is_dir()]
        return f"there is no folder {missing[0].resolve()}" if missing else None
    if dataset.source not in SOURCES or not SOURCES[dataset.source].files:
        return None
    root = Path(data_root)
    if dataset.source == "imagenet":
        if any(root.glob("ILSVRC2012_devkit_t12*")) or any(root.glob("meta.bin")):
            return None
    elif download or data_files(dataset.model_copy(update={"files": None}), data_root):
        return None
    return f"{dataset.source} is not in {root.resolve()}"


def _function_refusals(
    place: Place,
    path: str,
    options: dict[str, Any],
    *,
    keywords: Iterable[str] = (),
    positional: int = 0,
) -> Iterator[Refusal]:
    """Yield why the function at ``module:function`` cannot be called as a job will call it."""
    module, _, name = path.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), name)):
        yield Refusal(place, f"{path!r} is not module:function", "name one, such as mine:load")
        return
    file = path_of(module)
    if file is None:
        yield Refusal(place, f"{path!r}: there is no module {module}", PUT_IT)
        return
    if file.suffix != ".py":
        return  # compiled: only an import can tell
    try:
        tree = _parsed(file)
    except (SyntaxError, UnicodeDecodeError) as error:
        yield Refusal(place, f"{path!r}: {file} is not Python: {error}", "correct the file")
        return
    found = _top_level(tree.body)
    if name in found:
        if isinstance(found[name], ast.FunctionDef) and not found[name].decorator_list:
            yield from _call_refusals(
                (*place[:-1], "options"), path, found[name].args, options, keywords, positional
            )
    elif not found.keys() & {"*", "__getattr__"}:
        near = did_you_mean(name, found)
        yield Refusal(place, f"{path!r}: {file} defines no {name}", f"{near}check the spelling")


def _call_refusals(
    place: Place,
    path: str,
    arguments: ast.arguments,
    options: dict[str, Any],
    keywords: Iterable[str] = (),
    positional: int = 0,
) -> Iterator[Refusal]:
    """Yield the options that a function does not take, and those that it needs and are not given.

    ``keywords`` and the first ``positional`` arguments are given by the job.
    """
    by_position = [argument.arg for argument in arguments.args]
    by_keyword = [argument.arg for argument in arguments.kwonlyargs]
    free = {*by_position[positional:], *by_keyword}
    given = {*options, *keywords}
    for option in options:
        if option not in free and arguments.kwarg is None:
            names = sorted(free - set(keywords))
            yield Refusal(
                (*place, option),
                f"{path} takes no option {option!r}",
                f"{did_you_mean(str(option), names)}known: {', '.join(names) or 'none'}",
            )
    if arguments.vararg is None and len(by_position) + len(arguments.posonlyargs) < positional:
        yield Refusal(
            place,
            f"{path} takes {len(by_position)} arguments, but is called with {positional}",
            "write it as build(in_shape, classes, norm, **options)",
        )
    needed = by_position[: len(by_position) - len(arguments.defaults)][positional:]
    needed += [
        argument.arg
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        if default is None
    ]
    for name in needed:
        if name not in given:
            yield Refusal(place, f"{path} needs the option {name!r}", "add it")
    for name in keywords:
        if name not in free and arguments.kwarg is None:
            yield Refusal(
                place,
                f"{path} takes no {name}, which it is called with",
                "write it as load(*, split, data_root, **options)",
            )


def _augmentation_refusals(place: Place, name: str, options: dict[str, Any]) -> Iterator[Refusal]:
    """Yield why torchvision.transforms.v2 has no such transform, or not with these options."""
    folder = Path(find_spec("torchvision").origin).parent / "transforms" / "v2"
    public = _top_level(_parsed(folder / "__init__.py").body)
    if name not in public:
        yield Refusal(
            place,
            f"torchvision.transforms.v2 has no {name}",
            f"{did_you_mean(name, public)}check the spelling; capitals count",
        )
        return
    classes = {
        key: node
        for file in sorted(folder.glob("_*.py"))
        for key, node in _top_level(_parsed(file).body).items()
        if isinstance(node, ast.ClassDef)
    }
    while node := classes.get(name):
        own = [inner for inner in node.body if getattr(inner, "name", "") == "__init__"]
        if own:
            arguments = own[0].args
            yield from _call_refusals(place, place[-1], _without_self(arguments), options)
            return
        name = next((base.id for base in node.bases if isinstance(base, ast.Name)), "")


def _without_self(arguments: ast.arguments) -> ast.arguments:
    return ast.arguments(
        posonlyargs=arguments.posonlyargs,
        args=arguments.args[1:],
        vararg=arguments.vararg,
        kwonlyargs=arguments.kwonlyargs,
        kw_defaults=arguments.kw_defaults,
        kwarg=arguments.kwarg,
        defaults=arguments.defaults,
    )


@cache
def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _top_level(body: list[ast.stmt]) -> dict[str, ast.AST]:
    """Return the names that statements at a module's top level bind; ``*`` of a star import."""
    found: dict[str, ast.AST] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                found[alias.asname or alias.name.split(".")[0]] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                found |= {n.id: node for n in ast.walk(target) if isinstance(n, ast.Name)}
        else:
            for part in ("body", "orelse", "finalbody"):
                found |= _top_level(getattr(node, part, []))
            for handler in getattr(node, "handlers", []):
                found |= _top_level(handler.body)
    return found
