"""What people do with flows: forecasts, speech, molecules. Nothing below imports it."""
