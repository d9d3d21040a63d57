"""Curated sets: questions made once, stored with a record of how, read by anyone."""

from spatial_ssrl.data.curated.encoding import ImageEncoding
from spatial_ssrl.data.curated.make import Engine, make_set
from spatial_ssrl.data.curated.plan import SetPart, SetPlan
from spatial_ssrl.data.curated.reading import CuratedQuestions

__all__ = ["CuratedQuestions", "Engine", "ImageEncoding", "SetPart", "SetPlan", "make_set"]
