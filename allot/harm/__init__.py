"""Signals: estimates of the harm of every option; one file each, one contract.

A signal is a function (space, meter, ...) -> Table in nats: terms over single choices, and over
pairs where it knows how options interact.
"""
