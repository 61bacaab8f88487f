"""How fast sagas are, measured against a floor and against others, in one run on one server."""
