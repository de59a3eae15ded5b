"""Where the numbers of a run are shown: the console, TensorBoard, Weights & Biases, MLflow, trackio."""
