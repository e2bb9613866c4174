"""What was typed after ``snakemake``, where Snakemake itself would go on with something else."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import ConfigError

OPTIONS = ("--configfile", "--configfiles")
SETTINGS = {".yaml", ".yml", ".json"}


def check_command_line(words: Sequence[str]) -> None:
    """Raise ConfigError if ``--configfile`` is given twice, or has taken a target for a file.

    Of two options Snakemake reads only the last; one option takes every word up to the next option.
    """
    given: list[list[str]] = []
    taking = False
    for word in words:
        option, is_set, value = word.partition("=")
        if option in OPTIONS:
            given.append([value] if is_set else [])
            taking = not is_set
        elif word.startswith("-"):
            taking = False
        elif taking:
            given[-1].append(word)
    files = [file for some in given for file in some]
    if len(given) > 1:
        raise ConfigError(
            f"--configfile is given {len(given)} times, and Snakemake reads only the last. "
            f"Write: snakemake --configfile {' '.join(files)}"
        )
    targets = [file for file in files if Path(file).suffix.lower() not in SETTINGS]
    if targets:
        settings = [file for file in files if file not in targets]
        raise ConfigError(
            f"--configfile takes {', '.join(targets)} for a file of settings. Write targets first: "
            f"snakemake {' '.join(targets)} --configfile {' '.join(settings)}".rstrip()
        )
