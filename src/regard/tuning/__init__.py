"""Choosing before training: a learning rate, hyper-parameters by trials, size and data by laws of scaling."""
