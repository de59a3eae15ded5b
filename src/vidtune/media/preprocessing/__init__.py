"""Media to the tensors that towers take: frame sampling rules, transforms, sound."""
