"""Looking at a stage without training it: dry run, data check, doctor, extraction of features."""
