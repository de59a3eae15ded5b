"""Estimates of what a stage computes and stores, before it runs: operations, memory, use of the device."""
