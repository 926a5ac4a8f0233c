"""The job spec, read strictly.

Errors name the file, the line, the key and what is valid.
"""

from agenttts.spec.agent import (
    AgentSection,
    EndpointAgent,
    ScriptedAgent,
    ServeAgent,
)
from agenttts.spec.load import dump_spec, load_spec, parse_spec
from agenttts.spec.model import (
    ContainerSection,
    FinalistsSection,
    JobSpec,
    ModelSection,
    SearchSection,
    StageSection,
    TaskSection,
    TestSplitSection,
)
from agenttts.spec.strict import load_strict
from agenttts.spec.thinking import ThinkingMarkers, ThinkingSetting

__all__ = [
    "AgentSection",
    "ContainerSection",
    "EndpointAgent",
    "FinalistsSection",
    "JobSpec",
    "ModelSection",
    "ScriptedAgent",
    "SearchSection",
    "ServeAgent",
    "StageSection",
    "TaskSection",
    "TestSplitSection",
    "ThinkingMarkers",
    "ThinkingSetting",
    "dump_spec",
    "load_spec",
    "load_strict",
    "parse_spec",
]
