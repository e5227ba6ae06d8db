"""What people do with flows: forecasts, interventions, speech.

Nothing below imports it.
"""
