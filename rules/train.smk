# One rule for each list of checkpoints: a rule's outputs cannot depend on a wildcard's value.
for number, ((checkpoints, kept), recipes) in enumerate(CONFIG.trained_lists().items()):

    rule:
        name:
            f"train_{number}" if number else "train"
        output:
            run=f"{RUN}/run.json",
            history=f"{RUN}/history.csv",
            checkpoints=[
                str(checkpoint_path(RUN, epoch)) if kept else temp(checkpoint_path(RUN, epoch))
                for epoch in checkpoints
            ],
        log:
            f"{RESULTS}/logs/train/{PATTERN}.log",
        benchmark:
            f"{RESULTS}/benchmarks/train/{PATTERN}.tsv"
        wildcard_constraints:
            recipe=only(recipes),
        conda:
            "environment.yaml"
        threads: CONFIG.compute.threads
        resources:
            **asked("train"),
        params:
            access=access,
            folder=lambda wildcards, output: str(Path(output.run).parent),
            job=train_params,
        message:
            "Train {wildcards.dataset} {wildcards.model} norm={wildcards.norm} "
            "{wildcards.recipe} n={wildcards.n_per_class} seed={wildcards.seed}"
        shell:
            "ANATOMY_MEM_MB={resources.mem_mb} "
            "python -m pipeline train {params.folder:q} --job {params.job:q} "
            "--access {params.access:q} 2> {log:q}"
