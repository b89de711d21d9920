"""Present only where segwright-runtime was installed."""
