"""Signals: estimates of the harm of every option; one file each, one contract.

A signal is a function (scene, *, progress=...) -> Table in nats: terms over single choices (0 for
the original), and how options of two choices meet either as terms or, where one pass gives all of
them, as per-sample `Vectors`.  Work other than `scene.evaluator.losses` is counted by
`scene.evaluator.charge`.
"""
