"""Preprocessing: text, images, sound and the rest to tensors, and back. Each kind is a module, imported when it is
used."""
