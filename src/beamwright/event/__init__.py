"""The event framework: banks, batches, modules, paths, workers, calibrations and the event store."""
