"""What ``replay`` refuses before it replays anything, and what it says after the trace."""

import polars as pl
import pytest

TABLE = "retrieval.model,retrieval.samples,answer.model,answer.samples,score\nweak,1,weak,1,0.5\n"


@pytest.fixture
def refused(cli, scripted_spec, tmp_path):
    (tmp_path / "table.csv").write_text(TABLE)
    spec = scripted_spec()

    def run(*arguments):
        done = cli("replay", "table.csv", "--space", spec, "--trials", 3, *arguments)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        return done.stderr

    return run


def test_a_method_that_needs_a_model_without_one(refused):
    for method in ("agenthpo", "llm_zs"):
        error = refused("--searcher", method)
        assert f"'{method}' needs a language model to ask" in error
        assert "agent section" in error


def test_an_impossible_place_for_the_trace(refused, tmp_path):
    assert "is a directory" in refused("--out", tmp_path)
    assert "table.csv is not a directory" in refused("--out", tmp_path / "table.csv" / "trace.csv")


@pytest.mark.parametrize("name", ["table.csv", "link.csv", "small.yaml"])
def test_the_trace_does_not_replace_what_is_read(refused, tmp_path, name):
    (tmp_path / "link.csv").symlink_to("table.csv")
    [spec] = tmp_path.glob("*.yaml")
    out = spec if name.endswith("yaml") else tmp_path / name
    before = out.read_text()
    assert f"{out}: the replay reads this file" in refused("--out", out)
    assert out.read_text() == before


def test_what_the_seed_decides_is_said_after_the_trace(cli, scripted_spec, tmp_path):
    (tmp_path / "table.csv").write_text(TABLE)
    command = ("replay", "table.csv", "--space", scripted_spec(), "--trials", 2, "--seed", 7)
    done = cli(*command, "--searcher", "random")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "seed 7 decides every allocation"
    few = {"values": [1, 2]}
    small = scripted_spec("small", stages__retrieval__samples=few, stages__answer__samples=few)
    for out in ((), ("--out", "trace.csv")):
        done = cli("replay", "table.csv", "--space", small, "--trials", 2, *out)
        assert done.stderr.splitlines()[-1].startswith("seed 0 decides only ties")


@pytest.mark.parametrize(
    ("recorded", "said"),
    [
        ("weak,2,weak,1,0.5\nweak,1,weak,2,0.5\nweak,2,weak,2,0.5\n", None),
        ("", "lacks: 3 of 4; each has the score of the nearest"),
        ("weak,2,weak,1,\n", "lacks: 2 of 4; each has the score of the nearest"),
    ],
)
def test_results_of_other_allocations_are_counted(cli, scripted_spec, tmp_path, recorded, said):
    (tmp_path / "table.csv").write_text(TABLE + recorded)
    few = {"models": ["weak"], "prompt_tokens": 64, "decode_tokens": 16, "samples": [1, 2]}
    spec = scripted_spec(stages={"retrieval": few, "answer": few})
    done = cli("replay", "table.csv", "--space", spec, "--searcher", "random")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "lacks" in line]
    assert len(lines) == (said is not None)
    assert said is None or said in lines[0]


def test_the_grid_of_a_table_is_small_in_a_large_space(cli, scripted_spec, tmp_path):
    """The limit of `grid` is on what the table has, not on what the spec allows."""
    rows = [f"weak,{a},weak,{b},[0.5]" for a in (1, 2) for b in (1, 2)]
    (tmp_path / "table.csv").write_text("\n".join([TABLE.split()[0][:-6] + ",examples", *rows]))
    part = {"models": ["weak"], "prompt_tokens": 64, "decode_tokens": 16, "samples": [1, 300]}
    spec = scripted_spec(stages={"retrieval": part, "answer": part}, search__budget=1e6)
    done = cli("replay", "table.csv", "--space", spec, "--searcher", "grid", "--out", "t.csv")
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 1 + 4
    wrong = scripted_spec("wrong", search__method="grid", search__options={"mostt": 3})
    done = cli("replay", "none.csv", "--space", wrong, "--searcher", "grid")
    assert "search.options.mostt" in done.stderr, "options are checked before the table"


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("t.tsv", TABLE.replace(",", "\t"), "tabs separate the columns; valid: commas (CSV)"),
        ("t.csv", TABLE.replace(",", ";"), "semicolons separate the columns; valid: commas (CSV)"),
        (
            "t.JSONL",
            '{"score": 1}\n',
            ".JSONL is not a format of recorded results; valid: .parquet",
        ),
    ],
)
def test_a_table_in_another_format_is_named(cli, scripted_spec, tmp_path, name, text, problem):
    (tmp_path / name).write_text(text)
    done = cli("replay", name, "--space", scripted_spec())
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert f"agenttts-hpc: {name}: {problem}" in line
    options = {"knowledge": [str(tmp_path / name)]}
    spec = scripted_spec("other", search__method="mlcopilot", search__options=options)
    done = cli("launch", spec, "--dry-run")
    assert f"search.options.knowledge[0]: {tmp_path / name}: {problem}" in done.stderr


def test_the_ending_of_the_trace_decides_its_format(refused, cli, scripted_spec, tmp_path):
    (tmp_path / "table.csv").write_text(TABLE)
    command = ("replay", "table.csv", "--space", scripted_spec(), "--trials", 2)
    assert cli(*command, "--out", "T.PARQUET").returncode == 0
    assert (tmp_path / "T.PARQUET").read_bytes()[:4] == b"PAR1"
    assert "not written as .jsonl; valid: .csv or .parquet" in refused("--out", "t.jsonl")
    (tmp_path / "table.csv").rename(tmp_path / "TABLE.CSV")
    pl.read_csv(tmp_path / "TABLE.CSV").write_parquet(tmp_path / "UPPER.PARQUET")
    assert cli("replay", "UPPER.PARQUET", *command[2:]).returncode == 0
    (tmp_path / "UPPER.PARQUET").rename(tmp_path / "named.csv")
    assert cli("replay", "named.csv", *command[2:]).returncode == 0, "its first bytes decide"


def test_a_run_in_place_of_its_table_is_told_where_the_table_is(cli, scripted_spec, tmp_path):
    (tmp_path / "results").mkdir()
    done = cli("replay", "results", "--space", scripted_spec())
    assert done.returncode == 2
    assert "results is a directory; valid:" in done.stderr
    assert "If this is a run's directory: results/trials.parquet" in done.stderr
