"""Optimizers, hand-made and learned.  A new one: its file here, one import line below, and its tests come by themselves."""

from lopt.arch import adafactor, adam, adam8p, adaptive, sgd  # importing registers

__all__ = ["adafactor", "adam", "adam8p", "adaptive", "sgd"]
