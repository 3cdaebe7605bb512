"""Replays: a part of the topics folded again, beside the running system, and what is done with the outcome.

A replay forks from a snapshot, reads the real topics with a group of its own, writes only to its own shadow, and
compares. docs/adr tells why it is a fork and not a second run.
"""
