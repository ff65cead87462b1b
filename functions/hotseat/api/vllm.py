"""The typed settings of engine vllm, a part of the Model document."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from hotseat.api.types import VARIABLE_PATTERN, Document


class ToolCallParser(StrEnum):
    """Formats of tool calls that vLLM can parse."""

    NONE = ""
    HERMES = "hermes"
    MISTRAL = "mistral"
    LLAMA3_JSON = "llama3_json"
    INTERNLM2 = "internlm2"
    QWEN3_CODER = "qwen3_coder"
    GRANITE = "granite"


class ReasoningParser(StrEnum):
    """Formats of reasoning that vLLM can parse."""

    NONE = ""
    DEEPSEEK_R1 = "deepseek_r1"


class Dtype(StrEnum):
    """Data types that vLLM computes in."""

    AUTO = "auto"
    HALF = "half"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT = "float"
    FLOAT32 = "float32"


class KvConnector(Document):
    """A connector that keeps copies of vLLM's KV cache outside of the GPU, for prompts that come again."""

    name: Annotated[str, Field(pattern=VARIABLE_PATTERN, max_length=100)] = Field(
        description="Name of the connector, such as OffloadingConnector or LMCacheConnectorV1."
    )
    extra_config: dict[str, Any] = Field(
        default_factory=dict, description="Settings of the connector (`kv_connector_extra_config`)."
    )


class VllmSettings(Document):
    """Settings of `vllm serve`. Unset fields use vLLM's defaults. Other flags go into args."""

    tool_call_parser: ToolCallParser | None = Field(default=None, description="Format of the model's tool calls.")
    reasoning_parser: ReasoningParser | None = Field(default=None, description="Format of the model's reasoning.")
    tensor_parallel_size: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Number of GPUs that each layer is split over. Unset: all of resources.gpus."
    )
    max_model_len: Annotated[int, Field(ge=512)] | None = Field(
        default=None, description="Maximum context length, in tokens. Unset: the maximum of the model."
    )
    gpu_memory_utilization: Annotated[float, Field(ge=0.1, le=1.0)] | None = Field(
        default=None, description="Fraction of the GPU memory that vLLM uses."
    )
    enable_chunked_prefill: bool | None = Field(
        default=None, description="Split the prefill of long prompts over several steps."
    )
    max_num_batched_tokens: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Maximum number of tokens per step."
    )
    max_num_seqs: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Maximum number of sequences per step."
    )
    dtype: Dtype | None = Field(default=None, description="Data type of weights and activations.")
    disable_custom_all_reduce: bool | None = Field(
        default=None, description="Use NCCL instead of vLLM's custom all-reduce kernel."
    )
    enable_prefix_caching: bool | None = Field(
        default=None, description="Share the KV cache of common prompt prefixes."
    )
    cpu_offload_gb: Annotated[float, Field(ge=0)] | None = Field(
        default=None, alias="cpuOffloadGB", description="Weights to keep in host memory, in GiB per GPU."
    )
    enable_auto_tool_choice: bool | None = Field(
        default=None, description="Let the model choose when to call tools. Needs toolCallParser."
    )

    kv_connector: KvConnector | None = Field(
        default=None,
        description="Connector that keeps copies of the KV cache in host memory, for as long as the process lives: also "
        "while the Model is parked, where the connector allows it.",
    )
    sleep_level: Literal[1, 2] | None = Field(
        default=None,
        description="Sleep level with `lifecycle.release: Park`. 1 (default): weights move to host memory. 2: "
        "weights are discarded and read again at the wake.",
    )

    @field_validator("enable_auto_tool_choice")
    @classmethod
    def _tool_choice_needs_a_parser(cls, enabled: bool | None, info: ValidationInfo) -> bool | None:
        # A parser that was refused itself is missing from the data: one error is enough for it.
        if enabled and not info.data.get("tool_call_parser", True):
            raise ValueError("enableAutoToolChoice needs toolCallParser")
        return enabled
