"""Files made from data: frames of videos as folders, annotations in another form."""
