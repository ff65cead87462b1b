"""LoRA adapters of a Model, a part of the Model document."""

from typing import Annotated

from pydantic import Field

from hotseat.api.types import Document, ModelName


class LoraAdapter(Document):
    """A LoRA adapter that the engine of a Model loads beside it. It is a model to clients, and shares the Model's instance."""

    name: ModelName = Field(
        description="Name that clients send as `model` for the adapter, and name of the adapter to the engine."
    )
    source: Annotated[str, Field(min_length=1, max_length=4096)] = Field(
        description="Weights of the adapter, as in spec.source: usually hf://org/repo. On a cluster: hf://org/repo, which the engine "
        "fetches, a path in the image, or a path on the claim of spec.source."
    )
