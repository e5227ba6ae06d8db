"""What people do with flows: forecasts, interventions, speech, molecules.

Nothing below imports it.
"""
