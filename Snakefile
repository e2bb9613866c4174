import re
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

min_version("9.0")

# The workflow's own package, and the user's modules in the folder that snakemake runs in.
ROOT = str(workflow.basedir)
sys.path[:0] = [ROOT, "."]

from pipeline.assign import (
    data_access,
    digests,
    bounds_job,
    comparison_job,
    cube_job,
    figure_job,
    overlap_job,
    select_job,
    stage_job,
    theory_job,
    train_job,
)
from pipeline.atomic import check_writable
from pipeline.catalogue import CUBES, FIGURES, METHODS
from pipeline.configfile import load_config
from pipeline.errors import AnatomyError, ConfigError
from pipeline.frozen import freeze, thawed
from pipeline.provenance import git_commit, versions
from pipeline.reference.values import compared_cubes
from pipeline.runs import (
    NAME,
    PATTERN,
    SWEEP_FILE,
    Run,
    checkpoint_path,
    comparison_paths,
    overlap_path,
    theory_path,
)
from pipeline.tasks import (
    candidate_files,
    compared_networks,
    layers_parts,
    part_places,
    training_files,
)

DEFAULT = f"{ROOT}/config.yaml"


configfile: DEFAULT


report: "rules/report/experiment.rst"


try:
    SETTINGS = thawed(config, is_job=not workflow.is_main_process)
    CONFIG = load_config(SETTINGS, [DEFAULT, *workflow.overwrite_configfiles])
except ConfigError as error:
    raise WorkflowError(str(error))

# For the report's first page, which sees nothing but the configuration.
config = SETTINGS | {"software": versions() | {"commit": git_commit()}}

# Jobs run with the Python that runs snakemake, activated or not, and with this package.
shell.prefix(
    f'export PATH="{Path(sys.executable).parent}:$PATH" '
    f'PYTHONPATH="{ROOT}:${{{{PYTHONPATH:-}}}}"; '
)


wildcard_constraints:
    dataset=NAME,
    model=NAME,
    norm="none|batch",
    recipe=NAME,
    n_per_class=r"\d+",
    seed=r"\d+",
    split="train|test",
    cube="|".join(CUBES),
    figure="|".join(FIGURES),
    method="|".join(METHODS),


include: "rules/common.smk"
include: "rules/train.smk"
include: "rules/select.smk"
include: "rules/spectrum.smk"
include: "rules/hierarchy.smk"
include: "rules/layers.smk"
include: "rules/overlap.smk"
include: "rules/theory.smk"
include: "rules/bounds.smk"
include: "rules/cubes.smk"
include: "rules/figures.smk"
include: "rules/comparison.smk"


onstart:
    try:
        check_writable(CONFIG.results)
        freeze(SETTINGS, digests(CONFIG), CONFIG.results)
    except AnatomyError as error:
        raise WorkflowError(str(error))


rule all:
    default_target: True
    input:
        figures=expand(
            f"{RESULTS}/figures/{{figure}}.{{suffix}}",
            figure=CONFIG.figure_names(),
            suffix=["svg", "png"],
        ),
        cubes=expand(f"{RESULTS}/cubes/{{cube}}.manifest.json", cube=CONFIG.gathered()),
        comparison=COMPARISON.values() if compared_cubes(CONFIG) else [],
