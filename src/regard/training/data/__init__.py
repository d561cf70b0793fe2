"""The data side of training: files to rows, rows cleaned, split, tokenized and prepared, and the order they come in."""
