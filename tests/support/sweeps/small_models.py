"""The settings of the small models and data that the integration tests stand on."""

MODEL = {
    "base": "scratch",
    "scratch": {"hidden_size": 32, "intermediate_size": 64, "layers": 2, "heads": 2, "vocabulary": 400},
    "prepare": {"steps": 150, "global_batch": 32, "micro_batch": 16, "learning_rate": 0.005},
}
DATA = {
    "benchmark": "closed_world",
    "people": 8,
    "forget_people": 2,
    "attributes": 2,
    "values": 4,
    "phrasings": 3,
}
