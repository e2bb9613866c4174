"""The table of an experiment's jobs, from the files that Snakemake leaves."""

import yaml

from benchmarks.jobs import main

SMALL = {
    "cubes": ["training", "layers"],
    "figures": {"names": ["training"]},
    "grid": [
        {
            "datasets": ["digits"],
            "models": ["fnet32x2"],
            "norms": ["none"],
            "recipes": ["sgd"],
            "n_per_class": [30],
            "seeds": [0, 1],
        }
    ],
}


def test_jobs_are_added_up_by_network_and_held_to_what_they_ask_for(tmp_path, capsys):
    own = tmp_path / "own.yaml"

    def told(mem_mb):
        asked = {"results": str(tmp_path), "resources": {"train": {"mem_mb": mem_mb}}}
        own.write_text(yaml.safe_dump(SMALL | asked))
        return main(["config.yaml", str(own)])

    folder = tmp_path / "benchmarks" / "train" / "digits" / "fnet32x2" / "none" / "sgd" / "n30"
    folder.mkdir(parents=True)
    for seed, row in enumerate(("7.5\t600.0\t6.0", "2.5\t850.0\tNA")):
        (folder / f"seed{seed}.tsv").write_text(f"s\tmax_rss\tcpu_time\n{row}\n")
    (tmp_path / "benchmarks" / "comparison.tsv").write_text("s\tmax_rss\tcpu_time\n3\t100\t2\n")
    assert told(900) == 0
    assert "| fnet32x2, none | train | 2 | 10 | 6 | 891 | 900 |" in capsys.readouterr().out
    assert told(900) == 0
    assert "|  | comparison | 1 | 3 | 2 | 105 | 2000 |" in capsys.readouterr().out
    assert told(800) == 1
