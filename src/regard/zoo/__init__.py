"""Small models that come inside of this package: `regard.load("regard/digits")` needs no network.

Each folder here holds a checkpoint, the recipe that trained it, and a card with its data, licence, figures and limits.
"""
