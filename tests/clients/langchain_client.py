"""LangChain's OpenAI chat model against hotseat: `langchain_client.py URL`. Models a and b share one seat."""

import sys

import openai
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

url = sys.argv[1] + "/v1"


@tool
def weather(city: str) -> str:
    """Return the weather of a city."""
    return f"sunny in {city}"


def chat(model: str, **more: object) -> ChatOpenAI:
    return ChatOpenAI(model=model, base_url=url, api_key="k", max_retries=0, **more)


plain = chat("a").invoke("hello")
assert plain.content.startswith("a: "), plain
assert plain.usage_metadata["output_tokens"] > 0, plain

pieces = list(chat("b", stream_usage=True).stream("hello"))  # the other model is loaded for it
assert "".join(piece.content for piece in pieces).startswith("b: "), pieces
assert len(pieces) > 3
assert any(piece.usage_metadata for piece in pieces)

asked = HumanMessage("weather")
for model in (chat("a"), chat("a", streaming=True)):
    called = model.bind_tools([weather]).invoke([asked])
    assert isinstance(called, AIMessage)
    assert [(each["name"], each["args"]) for each in called.tool_calls] == [("weather", {"city": "weather"})], called
    answer = ToolMessage(weather.invoke(called.tool_calls[0]["args"]), tool_call_id=called.tool_calls[0]["id"])
    assert model.bind_tools([weather]).invoke([asked, called, answer]).content.startswith("a: ")

code = None
try:
    chat("nobody").invoke("hello")
except openai.NotFoundError as error:
    code = error.code
assert code == "model_not_found"

embeddings = OpenAIEmbeddings(model="b", base_url=url, api_key="k", check_embedding_ctx_length=False)
assert len(embeddings.embed_documents(["one", "two"])) == 2
