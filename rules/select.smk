# The run of a sweep is the best of its candidates, which train.smk trains.
SWEPT = {}
for name in CONFIG.candidates:
    SWEPT.setdefault(CONFIG.checkpoints(name, "training"), []).append(name)

for number, (checkpoints, recipes) in enumerate(SWEPT.items()):

    rule:
        name:
            f"select_{number}" if number else "select"
        input:
            candidates=candidates_of,
        output:
            run=f"{RUN}/run.json",
            history=f"{RUN}/history.csv",
            sweep=f"{RUN}/{SWEEP_FILE}",
            checkpoints=[str(checkpoint_path(RUN, epoch)) for epoch in checkpoints],
        log:
            f"{RESULTS}/logs/select/{PATTERN}.log",
        benchmark:
            f"{RESULTS}/benchmarks/select/{PATTERN}.tsv"
        wildcard_constraints:
            recipe=only(recipes),
        conda:
            "environment.yaml"
        resources:
            **asked("select"),
        params:
            folder=lambda wildcards, output: str(Path(output.run).parent),
            job=select_params,
        message:
            "Choose the learning rate of {wildcards.dataset} {wildcards.model} "
            "norm={wildcards.norm} {wildcards.recipe} n={wildcards.n_per_class} "
            "seed={wildcards.seed}"
        shell:
            "python -m pipeline select {params.folder:q} --job {params.job:q} 2> {log:q}"
