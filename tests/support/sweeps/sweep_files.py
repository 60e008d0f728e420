"""A small sweep file as YAML reads it, for tests to change."""

SMALL = {
    "model": {"base": "scratch"},
    "data": {"benchmark": "closed_world"},
    "space": {
        "forget.method": {"choice": ["npo", "wga"]},
        "forget.npo.beta": {"uniform": [0.1, 1.0], "when": {"forget.method": "npo"}},
        "retain.weight": {"log_uniform": [0.5, 5.0]},
    },
}
