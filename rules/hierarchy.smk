for number, (checkpoints, recipes) in enumerate(CONFIG.checkpoint_lists("hierarchy").items()):

    rule:
        name:
            f"hierarchy_{number}" if number else "hierarchy"
        input:
            run=f"{RUN}/run.json",
            checkpoints=[str(checkpoint_path(RUN, epoch)) for epoch in checkpoints],
        output:
            parts=[
                f"{RESULTS}/curvature/{PATTERN}/epoch{epoch}/{split}/hierarchy.zarr.zip"
                for epoch in checkpoints
                for split in CONFIG.hierarchy.splits
            ],
        log:
            f"{RESULTS}/logs/hierarchy/{PATTERN}.log",
        benchmark:
            f"{RESULTS}/benchmarks/hierarchy/{PATTERN}.tsv"
        wildcard_constraints:
            recipe="|".join(recipes),
        conda:
            "environment.yaml"
        threads: threads_of("hierarchy")
        resources:
            **asked("hierarchy"),
        params:
            folder=lambda wildcards, input: str(Path(input.run).parent),
            job=stage_params("hierarchy"),
        message:
            "Hierarchy of {wildcards.dataset} {wildcards.model} norm={wildcards.norm} "
            "{wildcards.recipe} n={wildcards.n_per_class} seed={wildcards.seed}"
        shell:
            "python -m pipeline hierarchy {params.folder:q} --processes {resources.gpu} "
            "--job {params.job:q} 2> {log:q}"
