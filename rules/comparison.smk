COMPARISON = {kind: str(path) for kind, path in comparison_paths(RESULTS).items()}


rule comparison:
    input:
        cubes=expand(f"{RESULTS}/cubes/{{cube}}.manifest.json", cube=compared_cubes(CONFIG)),
    output:
        csv=report(
            COMPARISON["csv"],
            caption="report/comparison.rst",
            category="comparison",
            labels={"comparison": "table"},
        ),
        markdown=COMPARISON["md"],
        svg=report(
            COMPARISON["svg"],
            caption="report/comparison.rst",
            category="comparison",
            labels={"comparison": "figure"},
        ),
        png=COMPARISON["png"],
    log:
        f"{RESULTS}/logs/comparison.log",
    benchmark:
        f"{RESULTS}/benchmarks/comparison.tsv"
    conda:
        "environment.yaml"
    resources:
        **asked("figure"),
    params:
        job=comparison_job(CONFIG).model_dump_json(),
    message:
        "Set the papers' values beside the cubes'"
    shell:
        "python -m pipeline comparison --job {params.job:q} 2> {log:q}"
