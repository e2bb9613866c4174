import os
import re
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake.utils import min_version

min_version("9.0")

# First the workflow's own package, wherever another workflow imports this one from; last the
# user's modules in the folder that snakemake runs in, which so replace no library.
ROOT = str(workflow.current_basedir)
sys.path.insert(0, ROOT)
sys.path.append(os.getcwd())

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
from pipeline.command_line import check_command_line
from pipeline.configfile import load_config
from pipeline.errors import AnatomyError
from pipeline.frozen import freeze, thawed
from pipeline.overlay import merged, settings_in
from pipeline.pending import ASKING
from pipeline.preflight import preflight
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
from pipeline.start import OneSentence, claim, rehearse
from pipeline.tasks import (
    candidate_files,
    compared_networks,
    layers_parts,
    part_places,
    training_files,
)
from pipeline.workload import targets

DEFAULT = f"{ROOT}/config.yaml"


configfile: DEFAULT


report: "rules/report/experiment.rst"


STARTS = workflow.is_main_process and ASKING not in os.environ
try:
    if STARTS:
        check_command_line(sys.argv[1:])
    # A workflow that imports this one as a module gives only what it changes.
    SETTINGS = merged(settings_in(Path(DEFAULT)), config)
    SETTINGS = thawed(SETTINGS, is_job=not workflow.is_main_process)
    FILES = [DEFAULT, *workflow.overwrite_configfiles]
    CONFIG = load_config(SETTINGS, FILES)
    if STARTS:
        preflight(CONFIG, SETTINGS, FILES)
except AnatomyError as error:
    raise WorkflowError(str(error))

# For the report's first page, which sees nothing but the configuration.
config = SETTINGS | {"software": versions() | {"commit": git_commit()}}

# Jobs run with the Python that runs snakemake, activated or not, and with this package: a
# pipeline.py in the working folder is not looked at.
shell.prefix(
    f'export PATH="{Path(sys.executable).parent}:$PATH" PYTHONSAFEPATH=1 '
    f'PYTHONPATH="{ROOT}${{{{PYTHONPATH:+:$PYTHONPATH}}}}"; '
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
    logger.addFilter(OneSentence())
    try:
        check_writable(CONFIG.results)
        claim(CONFIG.results)
        rehearse(workflow.dag.needrun_jobs(), CONFIG)
        freeze(SETTINGS, digests(CONFIG), CONFIG.results)
    except AnatomyError as error:
        raise WorkflowError(str(error))


rule all:
    default_target: True
    input:
        lambda wildcards: targets(CONFIG),
    message:
        "All results are there"
