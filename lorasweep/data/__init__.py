"""Files and hub data sets become examples, examples become tokens, tokens become batches."""
