"""From arithmetic to a machine: foldings, FIFOs, stages, and cycles, simulated one by one."""
