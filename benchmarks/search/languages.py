"""Small byte-level language models: two of the zoo, one trained here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from allot.errors import InputError
from allot.task import Data, Task
from benchmarks.search.vits import keep, library
from benchmarks.tasks import zoo

CALIBRATE, SEARCH, HELD_OUT, WINDOW = 64, 48, 48, 64
STEPS, BATCH, LENGTH, RATE, DECAY, WARM = 1200, 32, 128, 3e-3, 0.1, 0.1
PREPROCESS = f"{WINDOW} bytes of text, each a token; int64 [n, {WINDOW}]"
TRAINED = "llama_byte_small"
NETWORKS = ("llama_byte_shakespeare", "llama_byte_python", TRAINED)


def forward(model: Any, tokens: Tensor) -> Tensor:
    """Tokens [n, t] -> logits [n, t, 256].

    Part by part, since the library's own forward makes its positions on the device of the
    embedded tokens, and those have none where a replay needs no values of them.
    """
    inner = model.model
    hidden = inner.embed_tokens(tokens)
    places = torch.arange(tokens.shape[1], device=tokens.device)[None]
    turns = inner.rotary_emb(places.float(), position_ids=places)
    for layer in inner.layers:
        hidden = layer(hidden, position_embeddings=turns)
    logits: Tensor = model.lm_head(inner.norm(hidden))
    return logits


def token_kl(original: Tensor, output: Tensor) -> Tensor:
    """Mean over tokens of KL(original || output) in nats, logits [n, t, 256] -> [n]."""
    p = torch.log_softmax(original.double(), dim=-1)
    q = torch.log_softmax(output.double(), dim=-1)
    return (p.exp() * (p - q)).sum(-1).clamp(min=0).mean(1)


def token_hits(output: Tensor, labels: Tensor) -> Tensor:
    """Share of tokens whose largest logit is the label's, [n, t, 256] and [n, t] -> [n]."""
    return (output.argmax(-1) == labels).double().mean(1)


def task(name: str, folder: Path) -> Task:
    """A network by name, with windows of the text it was trained on and of what was held back.

    A label is the byte that follows.  Raises MissingError without the zoo or transformers,
    InputError for another name.
    """
    source = zoo() / "text"
    if name not in NETWORKS:
        raise InputError(f"no language model {name!r}; there are {', '.join(NETWORKS)}")
    seen, held = texts(source, name)
    path = source / name if name != TRAINED else folder / name
    if name == TRAINED and not path.is_dir():
        keep(trained(seen, seed=0), path)
    calibrate = windows(seen, CALIBRATE, seed=0)
    both = windows(held, SEARCH + HELD_OUT, seed=1)
    return Task(
        name=name,
        model=library().LlamaForCausalLM.from_pretrained(path).eval(),
        calibrate=calibrate,
        search=both.subset(slice(0, SEARCH)),
        certify=both.subset(slice(SEARCH, None)),
        forward=forward,
        divergence=token_kl,
        score=token_hits,
        metric="next-byte accuracy",
        preprocess=PREPROCESS,
    )


def texts(source: Path, name: str) -> tuple[Tensor, Tensor]:
    """Bytes that trained a network, and bytes held back from it: int64 [length] each."""
    if name == "llama_byte_python":
        parts = [(source / f"python_{k}.txt").read_bytes() for k in ("train_1mb", "valid")]
        return bytes_of(parts[0]), bytes_of(parts[1])
    whole = bytes_of((source / "tinyshakespeare.txt").read_bytes())
    cut = len(whole) * 9 // 10
    return whole[:cut], whole[cut:]


def bytes_of(text: bytes) -> Tensor:
    return torch.frombuffer(bytearray(text), dtype=torch.uint8).long()


def windows(text: Tensor, n: int, *, seed: int) -> Data:
    """n windows of the text that do not overlap, each with the bytes one further as labels."""
    places = torch.randperm(
        (len(text) - 1) // WINDOW, generator=torch.Generator().manual_seed(seed)
    )
    index = places[:n, None] * WINDOW + torch.arange(WINDOW)
    return Data(inputs=text[index], labels=text[index + 1])


def initial(seed: int) -> Any:
    """An untrained network; the global random state is left as it was."""
    config = library().LlamaConfig(
        vocab_size=256, hidden_size=96, intermediate_size=256, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=512,
        bos_token_id=None, eos_token_id=None, pad_token_id=None, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # layers draw their weights from it
        return library().LlamaForCausalLM(config)


def trained(text: Tensor, *, seed: int) -> Any:
    """AdamW on a one-cycle rate over random windows of the text; the last step is kept."""
    generator = torch.Generator().manual_seed(seed)
    model = initial(seed).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=DECAY
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=RATE, total_steps=STEPS, pct_start=WARM
    )
    for _ in range(STEPS):
        starts = torch.randint(0, len(text) - LENGTH - 1, (BATCH, 1), generator=generator)
        index = starts + torch.arange(LENGTH)
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = forward(model, text[index])
        loss = functional.cross_entropy(logits.float().flatten(0, 1), text[index + 1].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()
