"""The typed settings of engine vllm, a part of the Model document."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from hotseat.api.types import VARIABLE_PATTERN, Document


class ToolCallParser(StrEnum):
    """Formats of tool calls that vLLM can parse (vllm-project/vllm, vllm/entrypoints/openai/tool_parsers/__init__.py).

    `internlm2` is a former name of `internlm`.
    """

    NONE = ""
    DEEPSEEK_V3 = "deepseek_v3"
    DEEPSEEK_V31 = "deepseek_v31"
    ERNIE45 = "ernie45"
    GLM45 = "glm45"
    GRANITE = "granite"
    GRANITE_20B_FC = "granite-20b-fc"
    HERMES = "hermes"
    HUNYUAN_A13B = "hunyuan_a13b"
    INTERNLM = "internlm"
    INTERNLM2 = "internlm2"
    JAMBA = "jamba"
    KIMI_K2 = "kimi_k2"
    LLAMA3_JSON = "llama3_json"
    LLAMA4_JSON = "llama4_json"
    LLAMA4_PYTHONIC = "llama4_pythonic"
    LONGCAT = "longcat"
    MINIMAX = "minimax"
    MINIMAX_M2 = "minimax_m2"
    MISTRAL = "mistral"
    OLMO3 = "olmo3"
    OPENAI = "openai"
    PHI4_MINI_JSON = "phi4_mini_json"
    PYTHONIC = "pythonic"
    QWEN3_CODER = "qwen3_coder"
    QWEN3_XML = "qwen3_xml"
    SEED_OSS = "seed_oss"
    STEP3 = "step3"
    XLAM = "xlam"


class ReasoningParser(StrEnum):
    """Formats of reasoning that vLLM can parse (vllm-project/vllm, vllm/reasoning/__init__.py)."""

    NONE = ""
    DEEPSEEK_R1 = "deepseek_r1"
    DEEPSEEK_V3 = "deepseek_v3"
    ERNIE45 = "ernie45"
    GLM45 = "glm45"
    GRANITE = "granite"
    HUNYUAN_A13B = "hunyuan_a13b"
    KIMI_K2 = "kimi_k2"
    MINIMAX_M2 = "minimax_m2"
    MINIMAX_M2_APPEND_THINK = "minimax_m2_append_think"
    MISTRAL = "mistral"
    OLMO3 = "olmo3"
    OPENAI_GPTOSS = "openai_gptoss"
    QWEN3 = "qwen3"
    SEED_OSS = "seed_oss"
    STEP3 = "step3"


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

    tool_call_parser: ToolCallParser | None = Field(
        default=None, description="Format of the model's tool calls. One that is not listed goes into args."
    )
    reasoning_parser: ReasoningParser | None = Field(
        default=None, description="Format of the model's reasoning. One that is not listed goes into args."
    )
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
