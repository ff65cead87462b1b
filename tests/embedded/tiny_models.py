"""Models of some hundred kilobytes with weights by chance: what they say has no sense, but depends on all that they read.

Two have a recurrent state. BERT is for embeddings, and with a head for one label it ranks.

A token is a byte. The names of keys and tensors are those of llama.cpp.
"""

import array
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

Value = int | float | str | list[int] | list[float] | list[str]
Tensor = tuple[str, tuple[int, ...], Callable[[random.Random], float]]

WIDTH, INNER, LAYERS = 64, 128, 3
CONTEXT = 4096
STATE, RANK, CONV = 16, 4, 4  # of Mamba
HEADS, HEAD = 4, WIDTH // 4  # of attention
KEY_HEADS = [0, 2, 0]  # of each layer: those without attention have a short convolution
TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
TYPES = {int: 4, float: 6, bool: 7, str: 8}  # of values: u32, f32, boolean and string
MEAN, RANK_POOLING = 1, 4
ITEMS = {**TYPES, int: 5}  # of values in an array: i32, f32 and string
ARRAY = 9


def write(architecture: str, path: Path) -> None:
    """Write a model: mamba (every layer has a recurrent state), lfm2 (a hybrid), bert (for embeddings) or bert-rank."""
    chance = random.Random(architecture)
    tensors = [
        (name, shape, array.array("f", (kind(chance) for _ in range(_size(shape)))).tobytes())
        for name, shape, kind in _tensors(architecture)
    ]
    metadata = _metadata(architecture)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    head += b"".join(_text(key) + _value(value) for key, value in metadata.items())
    offset = 0
    for name, shape, data in tensors:
        head += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, offset)
        offset += len(_aligned(data))
    path.write_bytes(_aligned(head) + b"".join(_aligned(data) for *_, data in tensors))


def _metadata(architecture: str) -> dict[str, Value]:
    own: dict[str, Value] = {
        "ssm.conv_kernel": CONV,
        "ssm.inner_size": INNER,
        "ssm.state_size": STATE,
        "ssm.time_step_rank": RANK,
    }
    own |= {"attention.head_count": 0, "feed_forward_length": 0}
    if architecture == "lfm2":
        own = {"shortconv.l_cache": 3, "rope.freq_base": 10000.0, "vocab_size": len(TOKENS)}
        own |= {"attention.head_count": HEADS, "attention.head_count_kv": KEY_HEADS, "feed_forward_length": INNER}
    if architecture.startswith("bert"):
        own = {"attention.head_count": HEADS, "feed_forward_length": INNER, "attention.layer_norm_epsilon": 1e-5}
        own |= {"attention.causal": False, "pooling_type": RANK_POOLING if architecture == "bert-rank" else MEAN}
    own |= {
        "context_length": CONTEXT,
        "embedding_length": WIDTH,
        "block_count": LAYERS,
        "attention.layer_norm_rms_epsilon": 1e-5,
    }
    architecture = architecture.removesuffix("-rank")
    return {
        "general.architecture": architecture,
        **{f"{architecture}.{key}": value for key, value in own.items()},
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.scores": [0.0] * len(TOKENS),
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, 1],  # unknown, control, bytes, normal
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.chat_template": TEMPLATE,
    }


def _tensors(architecture: str) -> Iterator[Tensor]:
    if architecture.startswith("bert"):
        yield from _bert()
        if architecture == "bert-rank":
            yield "cls.output.weight", (WIDTH, 1), _narrow
            yield "cls.output.bias", (1,), _narrow
        return
    yield from _common(architecture)
    yield from _mamba() if architecture == "mamba" else _lfm2()


def _common(architecture: str) -> Iterator[Tensor]:
    yield "token_embd.weight", (WIDTH, len(TOKENS)), _wide
    yield f"{'output' if architecture == 'mamba' else 'token_embd'}_norm.weight", (WIDTH,), _one
    for layer in range(LAYERS):
        yield f"blk.{layer}.attn_norm.weight", (WIDTH,), _one


def _mamba() -> Iterator[Tensor]:
    for layer in range(LAYERS):
        block = f"blk.{layer}.ssm_"
        yield f"{block}in.weight", (WIDTH, 2 * INNER), _narrow
        yield f"{block}conv1d.weight", (CONV, INNER), _narrow
        yield f"{block}conv1d.bias", (INNER,), _narrow
        yield f"{block}x.weight", (INNER, RANK + 2 * STATE), _narrow
        yield f"{block}dt.weight", (RANK, INNER), _narrow
        yield f"{block}dt.bias", (INNER,), _narrow
        yield f"{block}a", (STATE, INNER), _decay
        yield f"{block}d", (INNER,), _narrow
        yield f"{block}out.weight", (INNER, WIDTH), _narrow


def _lfm2() -> Iterator[Tensor]:
    for layer, keys in enumerate(KEY_HEADS):
        block = f"blk.{layer}."
        yield f"{block}ffn_norm.weight", (WIDTH,), _one
        yield f"{block}ffn_gate.weight", (WIDTH, INNER), _narrow
        yield f"{block}ffn_up.weight", (WIDTH, INNER), _narrow
        yield f"{block}ffn_down.weight", (INNER, WIDTH), _narrow
        if not keys:
            yield f"{block}shortconv.conv.weight", (3, WIDTH), _narrow
            yield f"{block}shortconv.in_proj.weight", (WIDTH, 3 * WIDTH), _narrow
            yield f"{block}shortconv.out_proj.weight", (WIDTH, WIDTH), _narrow
            continue
        yield f"{block}attn_q_norm.weight", (HEAD,), _one
        yield f"{block}attn_k_norm.weight", (HEAD,), _one
        yield f"{block}attn_q.weight", (WIDTH, WIDTH), _narrow
        yield f"{block}attn_k.weight", (WIDTH, keys * HEAD), _narrow
        yield f"{block}attn_v.weight", (WIDTH, keys * HEAD), _narrow
        yield f"{block}attn_output.weight", (WIDTH, WIDTH), _narrow


def _bert() -> Iterator[Tensor]:
    yield "token_embd.weight", (WIDTH, len(TOKENS)), _wide
    yield "token_types.weight", (WIDTH, 2), _narrow
    yield "position_embd.weight", (WIDTH, CONTEXT), _narrow
    yield "token_embd_norm.weight", (WIDTH,), _one
    yield "token_embd_norm.bias", (WIDTH,), _narrow
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        shapes = {f"attn_{part}": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")}
        for part, shape in {**shapes, "ffn_up": (WIDTH, INNER), "ffn_down": (INNER, WIDTH)}.items():
            yield f"{block}{part}.weight", shape, _narrow
            yield f"{block}{part}.bias", shape[1:], _narrow
        for part in ("attn_output_norm", "layer_output_norm"):
            yield f"{block}{part}.weight", (WIDTH,), _one
            yield f"{block}{part}.bias", (WIDTH,), _narrow


def _wide(chance: random.Random) -> float:
    return chance.gauss(0.0, 1.0)


def _narrow(chance: random.Random) -> float:
    return chance.gauss(0.0, 0.3)


def _one(_chance: random.Random) -> float:
    return 1.0


def _decay(chance: random.Random) -> float:
    return -1e-4 * (1.0 + chance.random())  # slow, so that all that was read counts


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for each in shape:
        size *= each
    return size


def _aligned(data: bytes) -> bytes:
    return data + bytes(-len(data) % 32)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Value) -> bytes:
    if isinstance(value, list):
        return struct.pack("<IIQ", ARRAY, ITEMS[type(value[0])], len(value)) + b"".join(map(_plain, value))
    return struct.pack("<I", TYPES[type(value)]) + _plain(value)


def _plain(value: float | str) -> bytes:
    if isinstance(value, str):
        return _text(value)
    return struct.pack({float: "<f", bool: "<?", int: "<i"}[type(value)], value)
