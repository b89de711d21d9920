"""The data check: runner, scan, rules, and its two reports."""
