"""What runs in a worker: data, losses, the ZeRO-3 engine, the trial and its metrics. The only place for
torch."""

import logging

# Whoever imports transformers imports torchao, which names every GPU kernel that it cannot load, and makes
# torch warn about its enums.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
