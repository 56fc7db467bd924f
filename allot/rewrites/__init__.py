"""Rewrites: function-preserving changes of a network, one file each; they copy and never touch."""
