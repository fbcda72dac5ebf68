"""Images from the weights of a run, as sets that can be resumed."""
