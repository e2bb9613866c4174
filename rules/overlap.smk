rule overlap:
    input:
        parts=overlap_parts,
        networks=overlap_networks,
    output:
        part=str(overlap_path(RESULTS, "{dataset}", "{model}", "{norm}")),
    log:
        f"{RESULTS}/logs/overlap/{{dataset}}/{{model}}/{{norm}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/overlap/{{dataset}}/{{model}}/{{norm}}.tsv"
    conda:
        "environment.yaml"
    threads: CONFIG.compute.threads
    resources:
        **asked("overlap"),
    params:
        job=overlap_params,
    message:
        "Overlaps of {wildcards.dataset} {wildcards.model} norm={wildcards.norm}"
    shell:
        "ANATOMY_MEM_MB={resources.mem_mb} "
        "python -m pipeline overlap --job {params.job:q} 2> {log:q}"
