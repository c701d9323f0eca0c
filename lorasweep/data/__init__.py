"""Turn files and hub data sets into examples, examples into tokens, and tokens into batches."""
