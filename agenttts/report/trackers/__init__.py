"""Tables of runs in the forms of experiment trackers, written without a server."""
