def figure_job(wildcards):
    return CONFIG.figure_job(wildcards.figure).model_dump_json()


def figure_cubes(wildcards):
    """Return the manifests of the figure's cubes: they change when the cubes' contents do."""
    return [f"{RESULTS}/cubes/{cube}.manifest.json" for cube in FIGURES[wildcards.figure]]


rule figure:
    input:
        cubes=figure_cubes,
    output:
        svg=f"{RESULTS}/figures/{{figure}}.svg",
        png=f"{RESULTS}/figures/{{figure}}.png",
    log:
        f"{RESULTS}/logs/figures/{{figure}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/figures/{{figure}}.tsv"
    resources:
        mem_mb=CONFIG.resources.figure.mem_mb,
        runtime=CONFIG.resources.figure.runtime,
        gpu=CONFIG.resources.figure.gpu,
    params:
        job=figure_job,
    message:
        "Draw figure {wildcards.figure}"
    shell:
        "python -m pipeline figure {wildcards.figure} --out {output.svg:q} --out {output.png:q} "
        "--job {params.job:q} 2> {log:q}"
