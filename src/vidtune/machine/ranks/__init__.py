"""Several processes that do one piece of work: started here or by a launcher, each at its place among them."""
