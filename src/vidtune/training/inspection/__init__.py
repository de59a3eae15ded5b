"""Looking at a stage without training it: dry run, costs, memory, FLOPs, doctor, data check."""
