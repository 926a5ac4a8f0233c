"""The container in which the trials of a run are executed."""

from __future__ import annotations

from pathlib import Path

from agenttts.dispatch.apptainer import Container
from agenttts.dispatch.profile import Profile
from agenttts.errors import Unavailable
from agenttts.spec import JobSpec


def container_of(spec: JobSpec, profile: Profile) -> Container | None:
    """Return the container of the trials; None if they run on the host's Python."""
    defaults = profile.container
    if defaults is not None and defaults.runtime == "none":
        return None
    image = spec.container.image or (defaults.image if defaults else None)
    if image is None:
        if defaults is None and not spec.container.binds:
            return None
        raise Unavailable(
            "container.image: the profile runs trials in a container, but neither it nor the "
            "spec names the image",
            fix="set container.image in the spec or the profile (build one with 'agenttts-hpc "
            "image build')",
        )
    return Container(
        image=Path(image).absolute(),
        runtime=defaults.runtime if defaults else "apptainer",
        nv=defaults.nv if defaults else True,
        binds=(*(defaults.binds if defaults else ()), *spec.container.binds),
        options=tuple(defaults.options) if defaults else (),
    )
