RESULTS = CONFIG.results
RUN = f"{RESULTS}/runs/{PATTERN}"


def access(wildcards, output):
    """Return how a job comes by its data: params that look at outputs are not compared."""
    return data_access(CONFIG).model_dump_json()


def asked(stage):
    """Return what a stage asks of a scheduler: more memory and time at each attempt."""
    wanted = getattr(CONFIG.resources, stage)
    resources = {
        "mem_mb": lambda wildcards, attempt: wanted.at("mem_mb", attempt),
        "runtime": lambda wildcards, attempt: wanted.at("runtime", attempt),
    }
    return resources | wanted.fixed()


def threads_of(stage):
    """Return the CPU threads of a stage that starts a process for each of its GPUs."""
    return CONFIG.compute.threads * max(1, getattr(CONFIG.resources, stage).gpu)


def only(names):
    """Return the pattern that the names alone match: a '+' or '.' in one is itself."""
    return "|".join(map(re.escape, names))


def jobs_of(stage):
    """Return the pattern that a stage's jobs are named after: one for each run, or for each part."""
    if getattr(CONFIG.resources, stage).job == "run":
        return PATTERN
    return f"{PATTERN}/epoch{{epoch}}/{{split}}"


def parts_of(stage, checkpoints):
    """Return the parts that one of a stage's jobs makes."""
    folder = f"{RESULTS}/curvature/{PATTERN}"
    if getattr(CONFIG.resources, stage).job == "part":
        return [f"{folder}/epoch{{epoch}}/{{split}}/{stage}.zarr.zip"]
    return [
        f"{folder}/epoch{epoch}/{split}/{stage}.zarr.zip"
        for epoch in checkpoints
        for split in getattr(CONFIG, stage).splits
    ]


def train_params(wildcards):
    return train_job(
        CONFIG, dataset=wildcards.dataset, model=wildcards.model, recipe=wildcards.recipe
    ).model_dump_json()


def select_params(wildcards):
    return select_job(CONFIG, recipe=wildcards.recipe).model_dump_json()


def candidates_of(wildcards):
    """Return the files of the candidates that a sweep chooses from."""
    words = {word: getattr(wildcards, word) for word in ("dataset", "model", "norm", "recipe")}
    run = Run(**words, n_per_class=int(wildcards.n_per_class), seed=int(wildcards.seed))
    job = select_job(CONFIG, recipe=wildcards.recipe)
    return [str(file) for file in candidate_files(run, job, RESULTS)]


def stage_params(stage):
    """Return the function that tells what a stage of a run depends on."""

    def params(wildcards):
        job = stage_job(CONFIG, stage, dataset=wildcards.dataset, model=wildcards.model)
        return job.model_dump_json()

    return params


def bounds_params(wildcards):
    words = {word: getattr(wildcards, word) for word in ("dataset", "model", "method")}
    return bounds_job(CONFIG, **words).model_dump_json()


def overlap_of(wildcards):
    return overlap_job(
        CONFIG, dataset=wildcards.dataset, model=wildcards.model, norm=wildcards.norm
    )


def overlap_params(wildcards):
    return overlap_of(wildcards).model_dump_json()


def overlap_parts(wildcards):
    """Return the parts whose eigenspaces are compared."""
    return [str(file) for _, _, file in layers_parts(overlap_of(wildcards))]


def overlap_networks(wildcards):
    """Return the files of the networks whose weights are compared."""
    return [str(file) for file in compared_networks(overlap_of(wildcards))]


def cube_params(wildcards):
    return cube_job(CONFIG, wildcards.cube).model_dump_json()


def figure_params(wildcards):
    return figure_job(CONFIG, wildcards.figure).model_dump_json()


def cube_parts(wildcards):
    """Return every file that the cube is gathered from."""
    job = cube_job(CONFIG, wildcards.cube)
    if wildcards.cube == "training":
        return [str(file) for file in training_files(job)]
    return [str(file) for _, file in part_places(wildcards.cube, job)]


def figure_category(wildcards):
    """Return the cube that a figure is drawn from, which the report groups figures by."""
    return FIGURES[wildcards.figure][0]


def figure_cubes(wildcards):
    """Return the manifests of the figure's cubes: they change when the cubes' contents do."""
    return [f"{RESULTS}/cubes/{cube}.manifest.json" for cube in FIGURES[wildcards.figure]]
