"""Files made from data: frames of videos as folders, annotations in another form, a tokenizer of their words."""
