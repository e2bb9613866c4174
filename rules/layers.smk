for number, (checkpoints, recipes) in enumerate(CONFIG.checkpoint_lists("layers").items()):

    rule:
        name:
            f"layers_{number}" if number else "layers"
        input:
            run=f"{RUN}/run.json",
            checkpoints=[str(checkpoint_path(RUN, epoch)) for epoch in checkpoints],
        output:
            parts=parts_of("layers", checkpoints),
        log:
            f"{RESULTS}/logs/layers/{jobs_of('layers')}.log",
        benchmark:
            f"{RESULTS}/benchmarks/layers/{jobs_of('layers')}.tsv"
        wildcard_constraints:
            recipe=only(recipes),
            epoch="|".join(map(str, checkpoints)),
        conda:
            "environment.yaml"
        threads: threads_of("layers")
        resources:
            **asked("layers"),
        params:
            access=access,
            job=stage_params("layers"),
        message:
            "Layers of {wildcards.dataset} {wildcards.model} norm={wildcards.norm} "
            "{wildcards.recipe} n={wildcards.n_per_class} seed={wildcards.seed}"
        shell:
            "ANATOMY_MEM_MB={resources.mem_mb} "
            "python -m pipeline layers {output.parts:q} --processes {resources.gpu} "
            "--job {params.job:q} --access {params.access:q} 2> {log:q}"
