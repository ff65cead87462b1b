"""The typed settings of engine vllm, a part of the Model document."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from hotseat.core.base import Document


class ToolCallParser(StrEnum):
    """Formats of tool calls that vLLM reads out of a model's text."""

    NONE = ""
    HERMES = "hermes"
    MISTRAL = "mistral"
    LLAMA3_JSON = "llama3_json"
    INTERNLM2 = "internlm2"
    QWEN3_CODER = "qwen3_coder"
    GRANITE = "granite"


class ReasoningParser(StrEnum):
    """Formats of thoughts that vLLM reads out of a model's text."""

    NONE = ""
    DEEPSEEK_R1 = "deepseek_r1"


class Dtype(StrEnum):
    """Number formats that vLLM computes in."""

    AUTO = "auto"
    HALF = "half"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT = "float"
    FLOAT32 = "float32"


class VllmSettings(Document):
    """Settings of `vllm serve`; what is unset is vLLM's to choose, and what is not here goes into args."""

    tool_call_parser: ToolCallParser | None = Field(default=None, description="Format of the model's tool calls.")
    reasoning_parser: ReasoningParser | None = Field(default=None, description="Format of the model's thoughts.")
    tensor_parallel_size: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="GPUs that each layer is split over; unset: all of resources.gpus."
    )
    max_model_len: Annotated[int, Field(ge=512)] | None = Field(
        default=None, description="Longest context, in tokens; unset: what the model can."
    )
    gpu_memory_utilization: Annotated[float, Field(ge=0.1, le=1.0)] | None = Field(
        default=None, description="Share of the GPU's memory that vLLM takes."
    )
    enable_chunked_prefill: bool | None = Field(default=None, description="Split long prompts over several steps.")
    max_num_batched_tokens: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Most tokens in one step."
    )
    max_num_seqs: Annotated[int, Field(ge=1)] | None = Field(default=None, description="Most requests in one step.")
    dtype: Dtype | None = Field(default=None, description="Number format of weights and activations.")
    disable_custom_all_reduce: bool | None = Field(
        default=None, description="Use NCCL between GPUs instead of vLLM's own kernel."
    )
    enable_prefix_caching: bool | None = Field(default=None, description="Share what prompts begin with.")
    cpu_offload_gb: Annotated[float, Field(ge=0)] | None = Field(
        default=None, alias="cpuOffloadGB", description="GiB of the weights that stay in host memory, per GPU."
    )
    enable_auto_tool_choice: bool | None = Field(
        default=None, description="Let the model decide on tool calls; needs toolCallParser."
    )

    sleep_level: Literal[1, 2] | None = Field(
        default=None,
        description="How it sleeps with `lifecycle.release: Park`. 1 (the default): its weights go to host memory; 2: they are "
        "dropped, and read again when it wakes.",
    )

    @field_validator("enable_auto_tool_choice")
    @classmethod
    def _tool_choice_needs_a_parser(cls, enabled: bool | None, info: ValidationInfo) -> bool | None:
        # A parser that was refused itself is missing from the data: one error is enough for it.
        if enabled and not info.data.get("tool_call_parser", True):
            raise ValueError("enableAutoToolChoice needs toolCallParser")
        return enabled
