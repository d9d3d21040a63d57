"""Predicting the memory of a run before anything is downloaded or allocated."""

from spatial_ssrl.planning.ledger import Ledger, Peak
from spatial_ssrl.planning.prediction import Prediction, Predictor
from spatial_ssrl.planning.rehearsal import Rehearsal, Step
from spatial_ssrl.planning.source import GhostSource

__all__ = ["GhostSource", "Ledger", "Peak", "Prediction", "Predictor", "Rehearsal", "Step"]
