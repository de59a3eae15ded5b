"""Commands about training data: check it, look at it, count it, write it in another form, extract frames."""
