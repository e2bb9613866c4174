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
    conda:
        "environment.yaml"
    resources:
        **asked("cube"),
    params:
        job=cube_params,
    message:
        "Gather the {wildcards.cube} cube"
    shell:
        "python -m pipeline cube {wildcards.cube} --job {params.job:q} 2> {log:q}"
