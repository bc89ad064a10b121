"""The bench: tasks, experiments, sweeps, reports and the command line of the LoRA-fusion-on-ReRAM simulator."""
