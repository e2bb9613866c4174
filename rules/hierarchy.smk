for number, (checkpoints, recipes) in enumerate(CONFIG.checkpoint_lists("hierarchy").items()):

    rule:
        name:
            f"hierarchy_{number}" if number else "hierarchy"
        input:
            run=f"{RUN}/run.json",
            checkpoints=[str(checkpoint_path(RUN, epoch)) for epoch in checkpoints],
        output:
            parts=parts_of("hierarchy", checkpoints),
        log:
            f"{RESULTS}/logs/hierarchy/{jobs_of('hierarchy')}.log",
        benchmark:
            f"{RESULTS}/benchmarks/hierarchy/{jobs_of('hierarchy')}.tsv"
        wildcard_constraints:
            recipe=only(recipes),
            epoch="|".join(map(str, checkpoints)),
        conda:
            "environment.yaml"
        threads: threads_of("hierarchy")
        resources:
            **asked("hierarchy"),
        params:
            access=access,
            job=stage_params("hierarchy"),
        message:
            "Hierarchy of {wildcards.dataset} {wildcards.model} norm={wildcards.norm} "
            "{wildcards.recipe} n={wildcards.n_per_class} seed={wildcards.seed}"
        shell:
            "ANATOMY_MEM_MB={resources.mem_mb} "
            "python -m pipeline hierarchy {output.parts:q} --processes {resources.gpu} "
            "--job {params.job:q} --access {params.access:q} 2> {log:q}"
