for number, (checkpoints, recipes) in enumerate(CONFIG.checkpoint_lists("spectrum").items()):

    rule:
        name:
            f"spectrum_{number}" if number else "spectrum"
        input:
            run=f"{RUN}/run.json",
            checkpoints=[str(checkpoint_path(RUN, epoch)) for epoch in checkpoints],
        output:
            parts=parts_of("spectrum", checkpoints),
        log:
            f"{RESULTS}/logs/spectrum/{jobs_of('spectrum')}.log",
        benchmark:
            f"{RESULTS}/benchmarks/spectrum/{jobs_of('spectrum')}.tsv"
        wildcard_constraints:
            recipe=only(recipes),
            epoch="|".join(map(str, checkpoints)),
        conda:
            "environment.yaml"
        threads: threads_of("spectrum")
        resources:
            **asked("spectrum"),
        params:
            access=access,
            job=stage_params("spectrum"),
        message:
            "Spectra of {wildcards.dataset} {wildcards.model} norm={wildcards.norm} "
            "{wildcards.recipe} n={wildcards.n_per_class} seed={wildcards.seed}"
        shell:
            "ANATOMY_MEM_MB={resources.mem_mb} "
            "python -m pipeline spectrum {output.parts:q} --processes {resources.gpu} "
            "--job {params.job:q} --access {params.access:q} 2> {log:q}"
