"""What the documents are made of: their base class, and the forms of names."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

# A Model's name becomes a Knative Service's, hence an RFC 1035 label.
NAME_PATTERN = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
# An alias is what clients send: `gpt-4o-mini`, `meta-llama/Llama-3.1-8B`, `qwen2.5:7b`.
ALIAS_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$"
# Claims and Secrets are often made by others: what Kubernetes allows, a DNS subdomain.
OBJECT_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
VARIABLE_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*$"
PATH_PATTERN = r"^/"
URL_PATTERN = r"^https?://[^/]+"
HEADER_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9-]*$"
# What each pattern asks for, in words for people.
PATTERN_WORDS: Mapping[str, str] = {
    NAME_PATTERN: "lower-case letters, digits and dashes, from a letter to a letter or digit",
    ALIAS_PATTERN: "letters, digits and any of . _ : / @ + -, beginning with a letter or digit",
    OBJECT_PATTERN: "lower-case letters, digits, dashes and dots, from a letter or digit to another",
    VARIABLE_PATTERN: "letters, digits and underscores, not beginning with a digit",
    PATH_PATTERN: "a path that begins with /",
    HEADER_PATTERN: "the name of a header: letters, digits and dashes",
    URL_PATTERN: "a URL that begins with http:// or https:// and names a host",
}

Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=63)]
ObjectName = Annotated[str, Field(pattern=OBJECT_PATTERN, max_length=253)]
# Bounds are what an API server needs to know the cost of the rules on them.
Argument = Annotated[str, Field(max_length=8192)]
Alias = Annotated[str, Field(pattern=ALIAS_PATTERN, max_length=253)]


class Document(BaseModel):
    """What all parts of documents share: camelCase outside, unknown fields refused, immutable."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)
