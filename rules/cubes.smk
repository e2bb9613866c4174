RUNS = CONFIG.runs()


def cube_parts(wildcards):
    """Return every file that the cube is gathered from."""
    if wildcards.cube == "training":
        return [str(run_folder(RESULTS, run) / name) for run in RUNS for name in TRAINING_FILES]
    return [
        str(part_path(RESULTS, run, epoch, split, wildcards.cube))
        for run in RUNS
        for epoch in CONFIG.recipes[run.recipe].checkpoints
        for split in CONFIG.spectrum.splits
    ]


rule cube:
    input:
        parts=cube_parts,
    output:
        cube=directory(f"{RESULTS}/cubes/{{cube}}.zarr"),
        manifest=f"{RESULTS}/cubes/{{cube}}.manifest.json",
    log:
        f"{RESULTS}/logs/cubes/{{cube}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/cubes/{{cube}}.tsv"
    resources:
        mem_mb=CONFIG.resources.cube.mem_mb,
        runtime=CONFIG.resources.cube.runtime,
        gpu=CONFIG.resources.cube.gpu,
    params:
        job=lambda wildcards: CONFIG.cube_job(wildcards.cube).model_dump_json(),
    message:
        "Gather the {wildcards.cube} cube"
    shell:
        "python -m pipeline cube {wildcards.cube} --job {params.job:q} 2> {log:q}"
