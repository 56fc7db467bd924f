"""Laws of the card: it says what the documents say, and machines can read its head.

Faults these must catch: a number of another document; a name that breaks the YAML; a card of a
network that is not certified which reads as if it were; a layer left out without a word.
"""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from allot.card import card

LAYER = {
    "name": "conv1", "bits": 4.0, "activation": 8.0, "kept_out": 12, "out": 16, "bytes": 321,
}  # fmt: skip
GONE = {**LAYER, "name": "left", "bits": None, "activation": None, "kept_out": 0, "bytes": 0}
SUMMARY: dict[str, Any] = {
    "allot": "0.1.0", "task": "digits", "source": "my: net.py#task", "target": "ideal",
    "workload": {"batch": 4, "threads": 1}, "seed": 3, "axes": ["precision"],
    "metric": "top-1 accuracy", "created": "2026-01-01 00:00 UTC", "max_drop": 1.0,
    "budgets": {"size": {"limit": 10.0, "asked": "12%"}},
    "original": {"metric": 0.9, "size": 1000.0, "bitops": 5e6, "n": 40},
    "compressed": {
        "metric": 0.89, "size": 120.0, "bitops": 1e6, "divergence": 0.02, "n": 40,
        "divergence_interval": [0.01, 0.03],
    },
    "inputs": [{"name": "input", "shape": ["batch", 3, 8, 8], "dtype": "float32"}],
    "preprocess": "pixels over 255", "layers": [LAYER, GONE], "recovery": "matched on 512",
    "versions": {"python": "3.11"}, "environment": {"system": "Linux", "processor": "a CPU"},
}  # fmt: skip
CERTIFICATE = {"text": "At most 0.80 points are lost, with 95 % confidence."}


def head(text: str) -> Any:
    """The YAML of a card."""
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1])


def test_its_head_is_what_the_hub_reads() -> None:
    found = head(card(SUMMARY, CERTIFICATE))
    assert found["library_name"] == "allot" and found["base_model"] == "my: net.py#task"
    assert {"quantized", "onnx", "ideal"} <= set(found["tags"])
    metrics = found["model-index"][0]["results"][0]["metrics"]
    assert metrics == [{"name": "top-1 accuracy", "type": "top-1 accuracy", "value": 0.89}]


@pytest.mark.parametrize("name", ['a "quoted" name', "two\nlines: {", "é # no comment", "- - -"])
def test_no_name_breaks_out_of_its_place(name: str) -> None:
    found = head(card({**SUMMARY, "task": name, "source": name, "metric": name}, None))
    assert found["base_model"] == name == found["model-index"][0]["name"]


def test_it_says_what_the_documents_say() -> None:
    text = card(SUMMARY, CERTIFICATE)
    assert CERTIFICATE["text"] in text and "0.02 nats" in text and "0.01 to 0.03" in text
    assert "12.0 %" in text and "| conv1 | 4 bits | 8 bits | 12 of 16 | 321 |" in text
    assert "| left | left out |" in text and "pixels over 255" in text
    assert "size at most 12%" in text and "a CPU" in text and "python 3.11" in text


def test_without_a_certificate_it_says_so() -> None:
    assert "Nothing is certified" in card(SUMMARY, None)
    assert "Nothing is certified" not in card(SUMMARY, CERTIFICATE)


def test_layers_that_are_not_listed_are_counted() -> None:
    text = card({**SUMMARY, "layers": [LAYER] * 250}, None)
    assert text.count("| conv1 |") == 200 and "50 more layers" in text
