"""`spatial-ssrl export`: a trained policy as a folder that other programs load."""

from __future__ import annotations

from pathlib import Path

from spatial_ssrl.cli.files import check_writable
from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.export import check_can_push, export_run
from spatial_ssrl.export import push as upload
from spatial_ssrl.export.card import Kind
from spatial_ssrl.export.comparing import TOLERANCE
from spatial_ssrl.export.folder import Precision


def export(
    *,
    run: Path,
    out: Path,
    merge: bool = False,
    adapter: bool = False,
    checkpoint: Path | None = None,
    base: str | None = None,
    dtype: Precision = "auto",
    tolerance: float = TOLERANCE,
    push: str | None = None,
) -> None:
    """Write the policy of a run as a folder that plain transformers and peft load.

    With the processor, a model card and checksums. What was written is loaded again and must give
    the log-probabilities of the trained policy, or be its adapter bit for bit; otherwise nothing
    is left behind.

    Args:
        run: Folder of the run.
        out: Folder to write: new, empty, or an earlier export, which is replaced.
        merge: Write a whole model, an adapter merged into a fresh copy of the base in float32.
        adapter: Write the adapter alone.
        checkpoint: Lightning checkpoint (.ckpt) to take instead of the policy saved last.
        base: Hub id or folder of the base model, if it is no longer where training found it.
        dtype: Precision of merged weights; "auto" keeps that of the base model.
        tolerance: Largest difference of log-probabilities allowed with --merge, in nats.
        push: Hub id, such as me/my-model, to upload the folder to as well; private if new.
    """
    if merge == adapter:
        raise ConfigError(
            "say what to export, either --merge (a whole model) or --adapter (in PEFT's layout)."
        )
    check_writable("out", out.parent)
    if push is not None:
        check_can_push(push)
    kind: Kind = "merged" if merge else "adapter"
    done = export_run(run, out, kind, checkpoint, base, dtype, tolerance)
    print(f"made from {done.weights}")
    if done.newer is not None:
        print(f"{done.newer} is newer; export it with --checkpoint.")
    if merge:
        print(
            f"log-probabilities of {done.tokens} answer tokens, loaded again in {done.precision}: "
            f"at most {done.difference:.1e} from the trained policy"
        )
    else:
        print(f"{done.tensors} tensors, loaded again by plain PEFT: those trained, bit for bit")
    if push is not None:
        print(upload(out, push))
    print(out)
