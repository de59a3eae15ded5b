"""Training: the loop over the stages of a recipe, saving, logging."""
