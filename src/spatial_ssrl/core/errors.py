"""The exceptions a caller can act on."""

from __future__ import annotations


class SpatialSSRLError(Exception):
    """Base of every error this library raises on purpose."""


class RegistryError(SpatialSSRLError, LookupError):
    """A component name that is unknown, taken, or cannot be registered."""


class ConfigError(SpatialSSRLError, ValueError):
    """A setting that cannot work; the message names the key, the value and the remedy."""


class SceneRejected(SpatialSSRLError):
    """A scene or draw from which no question with a unique answer can be made.

    Args:
        reason: Short, stable sentence without numbers, so that reasons can be counted.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class SceneUnreadable(SpatialSSRLError):
    """A file that cannot be decoded into a scene; the message names the file and the cause."""


class SelfCheckFailed(SpatialSSRLError):
    """A fit would compute something else than it should; says what, where and by how much."""


class PolicyNotLoaded(SpatialSSRLError):
    """A policy was used before `load()`."""


class NotFinite(SpatialSSRLError):
    """A reward, loss or gradient that is NaN or infinite.

    The message names the step, the question and what to do.
    """


class OutOfMemory(SpatialSSRLError):
    """A run needs more memory than there is; the message says when, and what to lower.

    Args:
        cause: What was raised; see `ran_out_of_memory`.
        when: What was being done, with a capital letter.
    """

    def __init__(self, cause: BaseException, when: str) -> None:
        lines = str(cause).strip().splitlines() or [type(cause).__name__]
        # Of a data worker's error the cause comes last, of an allocator's all but the start is
        # statistics.
        line = lines[-1] if "Original Traceback" in str(cause) else lines[0]
        detail = ". ".join(line.split(". ")[:2]).rstrip(".")
        super().__init__(
            f"{when}, memory ran out ({detail}). Lower update.micro_batch_tokens, "
            "rollout.batch_tokens, sampling.max_new_tokens, group_size, or max_pixels of the "
            "policy, or load it in 4 bits (quantization); `spatial-ssrl plan` tells what fits."
        )


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory could not be had, on the device or on the host.

    By name and text, since torch, which may not be imported, has three ways to say it.
    """
    names = {cls.__name__ for cls in type(error).__mro__}
    if names & {"MemoryError", "OutOfMemoryError"}:
        return True
    said = ("DefaultCPUAllocator: can't allocate", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return "RuntimeError" in names and any(text in str(error) for text in said)
