"""Whether a data set is what it says, and putting it right."""
