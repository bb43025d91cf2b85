"""How a detector is scored and examined: FROC, calibration, misses, statistics."""
