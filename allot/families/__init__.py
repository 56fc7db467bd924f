"""Families: kinds of models that come with files, samplers and conventions of their own."""
