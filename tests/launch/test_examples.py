"""Which examples a final test takes."""

from __future__ import annotations

from agenttts.launch.examples import held_out_examples
from agenttts.spec import load_spec
from agenttts.tasks.base import Example, Task
from agenttts.tasks.loading.report import LoadReport


class Mixed(Task):
    """Examples whose data has keys as YAML and Parquet have them."""

    name = "mixed"
    description = "examples with keys of several types"
    stages = ()
    main_metric = "x"

    def load(self, config):
        return [
            Example(f"{i}", {"rows": [{"a": i, 1: "b", None: "c", 2.5: "d"}]}) for i in range(4)
        ]


def test_a_final_test_takes_data_with_keys_of_several_types(scripted_spec):
    spec = load_spec(scripted_spec(search__test_split={"examples": 2}), [])
    # Of another split: other ids, and keys in another order.
    searched = [Example(f"s{i}", {"rows": [{2.5: "d", None: "c", 1: "b", "a": i}]}) for i in (0, 2)]
    left = held_out_examples(spec, Mixed(), searched, LoadReport(False))
    assert [example.id for example in left] == ["1", "3"]
