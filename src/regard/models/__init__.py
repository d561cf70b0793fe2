"""Model families as data (one file each), the shapes they take (`model`), and the registry that finds them."""
