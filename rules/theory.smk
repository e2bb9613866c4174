rule theory:
    output:
        part=str(theory_path(RESULTS)),
    log:
        f"{RESULTS}/logs/theory.log",
    benchmark:
        f"{RESULTS}/benchmarks/theory.tsv"
    conda:
        "environment.yaml"
    threads: CONFIG.compute.threads
    resources:
        **asked("theory"),
    params:
        job=theory_job(CONFIG).model_dump_json(),
    message:
        "Random two-layer networks"
    shell:
        "ANATOMY_MEM_MB={resources.mem_mb} "
        "python -m pipeline theory --job {params.job:q} 2> {log:q}"
