"""Default sizes of buffers, which follow from the model and the device."""


def head_chunk(setting: int | None, vocabulary: int, *, gpu: bool) -> int:
    """Returns the chunk size of the fused head.

    Args:
        setting: The value of `engine.head_chunk_tokens`; None for the default, which is as many tokens as fit
            into 2 GiB on a GPU and 256 MiB on a CPU.
        vocabulary: Size of the vocabulary.
        gpu: Whether the head runs on a GPU.

    Returns:
        Number of answer tokens whose logits exist at the same time.
    """
    if setting is not None:
        return setting
    # A logit in float32, with the copies that token beliefs make of it.
    logit_bytes = 20
    # With many small chunks a GPU waits for kernel launches, hence the minimum.
    least, spare = (256, 2 * 1024**3) if gpu else (128, 256 * 1024**2)
    return max(least, spare // (logit_bytes * vocabulary))


def reduce_bucket(trained: int) -> int:
    """Returns the default number of elements of ZeRO-3's gradient bucket.

    This is DeepSpeed's default, or the number of trained elements if that is less. The bucket stays allocated
    from the first step on, and at DeepSpeed's default size takes 1 GB in half precision even if only adapters
    are trained.
    """
    return max(1, min(500_000_000, trained))
