for number, (checkpoints, recipes) in enumerate(CONFIG.checkpoint_lists("bounds").items()):

    rule:
        name:
            f"bounds_{number}" if number else "bounds"
        input:
            run=f"{RUN}/run.json",
            checkpoints=[str(checkpoint_path(RUN, epoch)) for epoch in checkpoints],
        output:
            part=f"{RESULTS}/curvature/{PATTERN}/{{method}}/bounds.zarr.zip",
        log:
            f"{RESULTS}/logs/bounds/{PATTERN}/{{method}}.log",
        benchmark:
            f"{RESULTS}/benchmarks/bounds/{PATTERN}/{{method}}.tsv"
        wildcard_constraints:
            recipe=only(recipes),
        conda:
            "environment.yaml"
        threads: CONFIG.compute.threads
        resources:
            **asked("bounds"),
        params:
            access=access,
            job=bounds_params,
        message:
            "Bound by {wildcards.method} of {wildcards.dataset} {wildcards.model} "
            "norm={wildcards.norm} {wildcards.recipe} n={wildcards.n_per_class} "
            "seed={wildcards.seed}"
        shell:
            "ANATOMY_MEM_MB={resources.mem_mb} "
            "python -m pipeline bounds {output.part:q} --job {params.job:q} "
            "--access {params.access:q} 2> {log:q}"
