"""Words and values that every room uses: specs, results, messages, errors, files."""
