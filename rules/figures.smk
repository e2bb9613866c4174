rule figure:
    input:
        cubes=figure_cubes,
    output:
        svg=report(
            f"{RESULTS}/figures/{{figure}}.svg",
            caption="report/figure.rst",
            category=figure_category,
            labels={"figure": "{figure}"},
        ),
        png=f"{RESULTS}/figures/{{figure}}.png",
    log:
        f"{RESULTS}/logs/figures/{{figure}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/figures/{{figure}}.tsv"
    conda:
        "environment.yaml"
    resources:
        **asked("figure"),
    params:
        job=figure_params,
    message:
        "Draw figure {wildcards.figure}"
    shell:
        "python -m pipeline figure {wildcards.figure} --out {output.svg:q} --out {output.png:q} "
        "--job {params.job:q} 2> {log:q}"
