"""What ``import vidtune`` gives: functions and classes that load a model, ask it, train it and evaluate it."""
