"""Options: one file per axis, named as users name it."""
