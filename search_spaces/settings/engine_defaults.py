"""Sizes of buffers that follow from the model and the device where a sweep file leaves them out."""


def head_chunk(asked: int | None, vocabulary: int, *, gpu: bool) -> int:
    """Answer tokens whose logits exist at a time, where `asked` leaves it open: chunks as large as memory
    that nobody misses."""
    if asked is not None:
        return asked
    logit_bytes = 20  # in float32, with the copies that token beliefs make of them
    # Many small chunks keep a GPU waiting for its launches.
    least, spare = (256, 2 * 1024**3) if gpu else (128, 256 * 1024**2)
    return max(least, spare // (logit_bytes * vocabulary))


def reduce_bucket(trained: int) -> int:
    """Elements of ZeRO-3's gradient bucket, where `deepspeed` leaves it open: its usual size, or all that is
    trained where that is less.

    The bucket is held from the first step on; at its usual size it takes 1 GB in half precision also where
    adapters train.
    """
    return max(1, min(500_000_000, trained))
