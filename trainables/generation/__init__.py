"""Running a model without training it: log-probabilities, sampling, beam search, and the sequence beliefs
drawn with them."""
