"""What runs beside the loop: logs, trackers, warnings, signals."""
