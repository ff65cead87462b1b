"""LiteLLM's client against hotseat: `litellm_client.py URL`. Models a and b share one seat."""

import sys

import litellm

url = sys.argv[1] + "/v1"
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Return the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def ask(model: str, said: str = "hello", **more: object) -> object:
    messages = [{"role": "user", "content": said}]
    return litellm.completion(
        model=f"openai/{model}", api_base=url, api_key="k", messages=messages, num_retries=0, max_retries=0, **more
    )


plain = ask("a")
assert plain.choices[0].message.content.startswith("a: "), plain
assert plain.usage.completion_tokens > 0, plain

pieces = list(ask("b", stream=True))  # the other model is loaded for it
assert "".join(piece.choices[0].delta.content or "" for piece in pieces).startswith("b: "), pieces
assert len(pieces) > 3

called = ask("a", "weather", tools=[TOOL]).choices[0].message.tool_calls
assert [(each.function.name, each.function.arguments) for each in called] == [("weather", '{"city": "weather"}')], (
    called
)
built = litellm.stream_chunk_builder(list(ask("a", "weather", tools=[TOOL], stream=True)))
assert built.choices[0].message.tool_calls[0].function.arguments == '{"city": "weather"}', built

try:
    ask("nobody")
except litellm.NotFoundError:
    pass
else:
    raise AssertionError("an unknown model was answered")

embedded = litellm.embedding(model="openai/b", api_base=url, api_key="k", input=["one", "two"])
assert len(embedded.data) == 2, embedded
