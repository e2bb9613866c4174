for number, (checkpoints, recipes) in enumerate(CONFIG.checkpoint_lists("layers").items()):

    rule:
        name:
            f"layers_{number}" if number else "layers"
        input:
            run=f"{RUN}/run.json",
            checkpoints=[str(checkpoint_path(RUN, epoch)) for epoch in checkpoints],
        output:
            parts=[
                f"{RESULTS}/curvature/{PATTERN}/epoch{epoch}/{split}/layers.zarr.zip"
                for epoch in checkpoints
                for split in CONFIG.layers.splits
            ],
        log:
            f"{RESULTS}/logs/layers/{PATTERN}.log",
        benchmark:
            f"{RESULTS}/benchmarks/layers/{PATTERN}.tsv"
        wildcard_constraints:
            recipe="|".join(recipes),
        conda:
            "environment.yaml"
        threads: threads_of("layers")
        resources:
            **asked("layers"),
        params:
            folder=lambda wildcards, input: str(Path(input.run).parent),
            job=stage_params("layers"),
        message:
            "Layers of {wildcards.dataset} {wildcards.model} norm={wildcards.norm} "
            "{wildcards.recipe} n={wildcards.n_per_class} seed={wildcards.seed}"
        shell:
            "python -m pipeline layers {params.folder:q} --processes {resources.gpu} "
            "--job {params.job:q} 2> {log:q}"
