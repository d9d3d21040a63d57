"""Looks at questions for what they give away: uneven answers, repetitions, shortcuts."""

from spatial_ssrl.data.audit.facts import Facts, facts_of
from spatial_ssrl.data.audit.relations import feature_sets
from spatial_ssrl.data.audit.report import AuditSettings, audit, tables

__all__ = ["AuditSettings", "Facts", "audit", "facts_of", "feature_sets", "tables"]
