for number, (checkpoints, recipes) in enumerate(CONFIG.checkpoint_lists("spectrum").items()):

    rule:
        name:
            f"spectrum_{number}" if number else "spectrum"
        input:
            run=f"{RUN}/run.json",
            checkpoints=[str(checkpoint_path(RUN, epoch)) for epoch in checkpoints],
        output:
            parts=[
                f"{RESULTS}/curvature/{PATTERN}/epoch{epoch}/{split}/spectrum.zarr.zip"
                for epoch in checkpoints
                for split in CONFIG.spectrum.splits
            ],
        log:
            f"{RESULTS}/logs/spectrum/{PATTERN}.log",
        benchmark:
            f"{RESULTS}/benchmarks/spectrum/{PATTERN}.tsv"
        wildcard_constraints:
            recipe="|".join(recipes),
        conda:
            "environment.yaml"
        threads: threads_of("spectrum")
        resources:
            **asked("spectrum"),
        params:
            folder=lambda wildcards, input: str(Path(input.run).parent),
            job=stage_params("spectrum"),
        message:
            "Spectra of {wildcards.dataset} {wildcards.model} norm={wildcards.norm} "
            "{wildcards.recipe} n={wildcards.n_per_class} seed={wildcards.seed}"
        shell:
            "python -m pipeline spectrum {params.folder:q} --processes {resources.gpu} "
            "--job {params.job:q} 2> {log:q}"
