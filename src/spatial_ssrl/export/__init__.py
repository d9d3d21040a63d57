"""Trained policies outside of training: exported for other programs, and asked questions."""

from spatial_ssrl.export.asking import Reply, ask, open_policy, question_for, read_pictures
from spatial_ssrl.export.checksums import verify_checksums
from spatial_ssrl.export.folder import Export, export_run
from spatial_ssrl.export.publishing import check_can_push, push
from spatial_ssrl.export.runs import Run, open_run, trained_policy

__all__ = [
    "Export",
    "Reply",
    "Run",
    "ask",
    "check_can_push",
    "export_run",
    "open_policy",
    "open_run",
    "push",
    "question_for",
    "read_pictures",
    "trained_policy",
    "verify_checksums",
]
