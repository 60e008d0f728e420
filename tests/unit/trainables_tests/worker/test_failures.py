import errno

import pytest
import torch
import torch.distributed as dist

from search_spaces.full_disk import full_disk
from search_spaces.user_errors import UserError
from trainables.events import Failed, Lost
from trainables.worker.failures import OUT_OF_MEMORY_REMEDY, describe_failure, outcome_of


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 8 bytes"),
        RuntimeError("NCCL error: unhandled cuda error, Out of Memory"),
    ],
)
def test_lack_of_memory_is_described_with_its_remedy(error):
    assert describe_failure(error) == f"out of memory: {OUT_OF_MEMORY_REMEDY}"


def test_user_errors_are_described_in_their_own_words():
    error = UserError("this model has no linear output head", key="model.target", remedy="use a causal LM")
    assert describe_failure(error) == str(error)


def test_other_errors_are_described_by_type_and_first_line():
    assert describe_failure(KeyError("x")) == "KeyError: 'x'"
    assert describe_failure(RuntimeError("one\ntwo")) == "RuntimeError: one"
    assert describe_failure(RuntimeError()) == "RuntimeError: no message"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer"),
        dist.DistBackendError(
            "NCCL error in: ProcessGroupNCCL.cpp: remote process exited or there was a network error"
        ),
    ],
)
def test_failure_because_of_another_rank_is_no_outcome(error):
    assert outcome_of(error) is None


def test_lack_of_memory_in_a_collective_fails_the_job():
    outcome = outcome_of(dist.DistBackendError("NCCL error: unhandled cuda error, Out of Memory"))
    assert outcome == Failed(f"out of memory: {OUT_OF_MEMORY_REMEDY}")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "/disk/model"),
        OSError(errno.EDQUOT, "Disk quota exceeded", "/disk/model"),
        RuntimeError("SafetensorError: I/O error: No space left on device (os error 28)"),
    ],
)
def test_job_on_a_full_disk_is_lost_and_did_not_fail(error):
    outcome = outcome_of(error)
    assert isinstance(outcome, Lost)
    assert "no space left on device" in outcome.reason and "Make room" in outcome.reason


def test_full_disk_is_found_at_the_bottom_of_a_chain_and_names_the_file():
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device", "/disk/study.journal")
        except OSError as error:
            raise RuntimeError("the scheduler failed") from error
    except RuntimeError as error:
        found = full_disk(error)
    assert found is not None and str(found).startswith("/disk/study.journal: no space left on device")
    assert full_disk(OSError(errno.EACCES, "Permission denied")) is None
