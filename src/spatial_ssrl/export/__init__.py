"""Trained policies outside of training, for other programs."""

from spatial_ssrl.export.checksums import verify_checksums
from spatial_ssrl.export.folder import Export, export_run
from spatial_ssrl.export.publishing import check_can_push, push
from spatial_ssrl.export.runs import Run, open_run, trained_policy

__all__ = [
    "Export",
    "Run",
    "check_can_push",
    "export_run",
    "open_run",
    "push",
    "trained_policy",
    "verify_checksums",
]
