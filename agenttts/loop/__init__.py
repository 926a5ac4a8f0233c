"""The controller: proposes, submits, collects and tells until the run is over."""
